/** `iommu-diff`: our models against QEMU's IOMMUs. */
import Table from "cli-table3"
import { Command, InvalidArgumentError, Option } from "commander"
import { discoverQemu, qemuAt } from "../binary/discover.ts"
import { describeBinary, type QemuBinary, versionOf } from "../binary/qemu-binary.ts"
import { LEDGER } from "../ledger/explain.ts"
import { VENDORS, type Vendor } from "../machine/recipe.ts"
import { describeDifference } from "./describe.ts"
import { COMMANDS, type JobReport, runCase, STALE } from "./job.ts"
import { runJobs } from "./lanes.ts"
import { type PlannedJob, planJobs } from "./plan.ts"
import { withVendor } from "./vendors.ts"
import type { Verdict } from "./verdict.ts"

interface Options {
  readonly vendor: Vendor | "all"
  readonly cases: number
  readonly seed: number
  readonly qemu?: string
  readonly variant?: string
  readonly profile?: string
  readonly case?: string
  readonly json?: true
}

interface VendorReport extends JobReport {
  readonly vendor: Vendor
}

const NOTES = `
Random tables, configuration structures with a bit that is wrong, and accesses go to the model and to each QEMU that is
found; translations, faults, records, registers and flags in tables are compared. A difference is one of the ledger
(docs/ledger.md), or new. A new one is shrunk, and printed with the command that runs it again.

Exit code: 0 when nothing differs but what the ledger explains, 1 for a new difference, 2 for a wrong command line.
Without QEMU nothing is compared, which is said on stderr; the exit code is 0.`

/** Cases by which a row of the ledger that is still true must have been seen. */
const ENOUGH_CASES = 10_000

export function diffCommand(): Command {
  return new Command("iommu-diff")
    .description("Compare the hardware models with QEMU's IOMMUs on random cases")
    .addOption(new Option("--vendor <vendor>", "whose IOMMU").choices([...VENDORS, "all"]).default("all"))
    .option("--cases <n>", "for each vendor on each QEMU", wholeNumber, 1000)
    .option("--seed <n>", "of the random cases", wholeNumber, 1)
    .option("--qemu <path>", "one QEMU in place of all that are found")
    .option("--variant <name>", "only this set-up of the IOMMU")
    .option("--profile <name>", "only this kind of cases")
    .option("--case <json>", "one case, as a new difference is printed")
    .option("--json", "print one JSON document")
    .addHelpText("after", NOTES)
    .action(diff)
}

async function diff(options: Options, command: Command): Promise<void> {
  const vendors = options.vendor === "all" ? VENDORS : [options.vendor]
  const binaries = findBinaries(options, command)
  const { jobs, skipped } = planJobs(binaries, vendors, options.cases, options.seed, options.profile ?? null)
  for (const line of skipped) console.error(`skipped: ${line}`)
  const chosen = jobs.filter(
    ({ recipe }) => options.variant === undefined || options.variant === recipe.variant,
  )
  if (binaries.length > 0 && chosen.length === 0)
    command.error("error: no such variant or profile here", { exitCode: 2 })
  if (options.case !== undefined) {
    // Cases of these have another shape, and are printed with their profile.
    const others = chosen.filter(({ profile }) => profile !== STALE && profile !== COMMANDS)
    await replay(options.profile === undefined ? others : chosen, options.case, command)
    return
  }
  const reports = await runAll(chosen)
  print(reports, options)
  process.exitCode = reports.some(({ newDifference }) => newDifference !== null) ? 1 : 0
}

function findBinaries({ qemu }: Options, command: Command): readonly QemuBinary[] {
  if (qemu === undefined) {
    const { binaries, unusable } = discoverQemu()
    for (const line of unusable) console.error(`skipped: ${line}`)
    return binaries
  }
  try {
    return [qemuAt(qemu)]
  } catch (error) {
    return command.error(`error: ${error instanceof Error ? error.message : String(error)}`, { exitCode: 2 })
  }
}

async function runAll(jobs: readonly PlannedJob[]): Promise<VendorReport[]> {
  const total = jobs.reduce((sum, { cases }) => sum + cases, 0)
  let done = 0
  const reports = await runJobs(jobs, () => {
    done++
    if (done % 50 === 0) showProgress(`${done} of ${total} cases`)
  })
  showProgress("")
  return reports.map((report, index) => ({ ...report, vendor: jobs[index].vendor }))
}

async function replay(jobs: readonly PlannedJob[], text: string, command: Command): Promise<void> {
  let given: unknown
  try {
    given = JSON.parse(text)
  } catch {
    command.error("error: --case is not JSON", { exitCode: 2 })
  }
  let isNew = false
  for (const { vendor, binary, recipe, profile } of jobs) {
    const verdict = await withVendor(vendor, diffOf =>
      runCase(diffOf, binary, recipe, profile, given as never),
    )
    console.log(
      `${describeBinary(binary)} ${vendor} ${recipe.variant} ${profile}: ${describeVerdict(verdict)}`,
    )
    for (const difference of verdict.unexplained) console.log(`  ${describeDifference(difference)}`)
    isNew ||= verdict.unexplained.length > 0
  }
  process.exitCode = isNew ? 1 : 0
}

function describeVerdict({ rows, unexplained }: Verdict): string {
  const words = [...rows, ...(unexplained.length > 0 ? ["new differences"] : [])]
  return words.length === 0 ? "agrees" : words.join(", ")
}

function print(reports: readonly VendorReport[], { json, seed }: Options): void {
  const unseen = unseenRows(reports)
  if (json) {
    console.log(JSON.stringify({ seed, jobs: reports.map(jobDocument), unseen, ok: reports.every(isClean) }))
    return
  }
  const table = new Table({
    head: ["QEMU", "IOMMU", "cases", "agree", "ledger", "new", "cases/s"],
    style: { head: [], border: [] },
  })
  for (const report of reports) {
    const { settings, vendor, cases, agreements, newDifference, seconds } = report
    table.push([
      `${settings.binary.version} (${settings.binary.origin})`,
      [vendor, settings.recipe.variant, settings.profile].filter(word => word !== "").join(" "),
      cases,
      agreements,
      cases - agreements - (newDifference === null ? 0 : 1),
      newDifference === null ? 0 : 1,
      Math.round(cases / seconds),
    ])
  }
  console.log(table.toString())
  for (const [row, count] of ledgerCounts(reports)) console.log(`${String(count).padStart(7)} ${row}`)
  for (const line of unseen) console.log(`not seen any more: ${line}`)
  for (const report of reports) for (const line of newDifferenceLines(report)) console.log(line)
}

function newDifferenceLines({ newDifference, settings, vendor }: VendorReport): string[] {
  if (newDifference === null) return []
  const { recipe, profile, binary } = settings
  const setup = `--vendor ${vendor} --variant ${recipe.variant}${profile === "" ? "" : ` --profile ${profile}`}`
  return [
    `\nNew difference, ${describeBinary(binary)}, ${vendor} ${recipe.variant}:`,
    ...newDifference.differences.map(difference => `  ${describeDifference(difference)}`),
    `  npx -y pnpm@12 iommu-diff ${setup} --case '${newDifference.given}'`,
  ]
}

function jobDocument(report: VendorReport): object {
  const { vendor, settings, cases, agreements, ledgered, newDifference, seconds } = report
  return {
    vendor,
    qemu: settings.binary.version,
    origin: settings.binary.origin,
    variant: settings.recipe.variant,
    profile: settings.profile,
    seed: settings.seed,
    cases,
    agreements,
    ledgered,
    seconds,
    newDifference:
      newDifference === null
        ? null
        : { case: newDifference.given, differences: newDifference.differences.map(describeDifference) },
  }
}

function ledgerCounts(reports: readonly VendorReport[]): [row: string, count: number][] {
  return LEDGER.map(({ id }): [string, number] => [
    id,
    reports.reduce((sum, { ledgered }) => sum + (ledgered[id] ?? 0), 0),
  ]).filter(([, count]) => count > 0)
}

/** Rows of the ledger that name a release which was looked at long enough, and did not show there. */
function unseenRows(reports: readonly VendorReport[]): string[] {
  return LEDGER.filter(({ seldom }) => seldom === undefined).flatMap(({ id, vendor, versions }) =>
    versions.flatMap(version => {
      const own = reports.filter(
        report => report.vendor === vendor && versionOf(report.settings.binary).join(".") === version,
      )
      const cases = own.reduce((sum, report) => sum + report.cases, 0)
      const isSeen = own.some(({ ledgered }) => ledgered[id] !== undefined)
      return cases >= ENOUGH_CASES && !isSeen ? [`${id} in QEMU ${version}`] : []
    }),
  )
}

function isClean({ newDifference }: JobReport): boolean {
  return newDifference === null
}

function wholeNumber(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError("a whole number is wanted")
  return Number(text)
}

/** One line on a terminal, overwritten by the next; nothing in a pipe. */
function showProgress(text: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`)
}
