import { readFileSync } from "node:fs"
import { Command, InvalidArgumentError, Option } from "commander"
import { type BootPlan, bootGuest } from "../boot/boot.ts"
import { compareBringUps, differenceText } from "../boot/compare/bring-ups.ts"
import { describeKernel } from "../boot/guest/kernels.ts"
import type { BootPlatform, Release } from "../boot/platform.ts"
import { PLATFORMS } from "../boot/platforms.ts"
import { POLICIES, type PolicyName } from "../boot/policy.ts"
import {
  fetchPrerequisites,
  findPrerequisites,
  MissingError,
  type Prerequisites,
  type Requirements,
} from "../boot/prerequisites.ts"
import { type BootReport, reportLine, reportOf, reportText } from "../boot/report.ts"
import { type Scenario, scenarioName, scenariosOf } from "../boot/scenarios.ts"
import { InputError } from "../capture/input-error.ts"

interface BootOptions {
  readonly vendor: string
  readonly mode?: string
  readonly policy: PolicyName
  readonly release: Release
  readonly kernel?: string
  readonly initrd?: string
  readonly append: string
  readonly cpus: number
  readonly caches: Scenario["caches"]
  readonly timeout: number
  readonly keep?: string
  readonly sweep?: true
  readonly transcript?: true
  readonly fetch?: true
  readonly quiet?: true
  readonly json?: true
}

const modesOf = ({ modes }: BootPlatform): string =>
  Object.entries(modes)
    .map(([name, { description }], n) => `  ${name.padEnd(18)} ${description}${n === 0 ? " (default)" : ""}`)
    .join("\n")

const NOTES = `
A stock QEMU, in software emulation, is the board: CPU, RAM, interrupt controllers. The IOMMU's registers and an NVMe
disk live in this process; RAM is a file that both share. The kernel's own driver programs the model, and the disk's
DMA goes through it: written and read back with checksums, in parallel, and to addresses that nobody mapped.

Modes:
${Object.values(PLATFORMS)
  .map(platform => `${platform.name}\n${modesOf(platform)}`)
  .join("\n")}

Exit code: 0 when guest and model agree on everything, 1 when not, 2 for a wrong command line or when QEMU or the
kernel is missing.`

/** DMA to addresses that the kernel has not mapped, and will not: it maps from the top of 4 GiB down. */
const ROGUE = [
  { address: 0x1234_5000n, access: "write" },
  { address: 0x2_3456_7000n, access: "read" },
] as const

export function bootCommand(): Command {
  return new Command("boot")
    .description("Boot an unmodified Linux whose IOMMU driver programs a model")
    .addOption(
      new Option("--vendor <vendor>", "whose IOMMU").choices(Object.keys(PLATFORMS)).makeOptionMandatory(),
    )
    .option("--mode <mode>", "set of capabilities, see below")
    .addOption(
      new Option("--policy <policy>", "what the kernel is told to do with DMA")
        .choices(Object.keys(POLICIES))
        .default("default"),
    )
    .addOption(
      new Option("--release <name>", "whose kernel: Debian 12's or 13's")
        .choices(["bookworm", "trixie"])
        .default("bookworm"),
    )
    .option("--kernel <file>", "another kernel than Debian's")
    .option("--initrd <file>", "another first file system; then only what the model sees is checked")
    .option("--append <words>", "more for the kernel's command line", "")
    .option("--cpus <n>", "CPUs of the guest", count, 1)
    .addOption(
      new Option("--caches <policy>", "what the model keeps; hoard also looks for stale translations")
        .choices(["exact", "hoard", "none"])
        .default("exact"),
    )
    .option("--sweep", "one boot for each mode and policy, with two CPUs, and on caches that forget nothing")
    .option("--keep <folder>", "leave RAM, disk, console and transcript there")
    .option("--transcript", "compare what Linux's driver and our own write to bring the IOMMU up")
    .option("--timeout <seconds>", "a guest that runs longer is ended", count, 90)
    .option("--fetch", "get QEMU and the kernel from Debian's packages first")
    .option("--quiet", "no console, the report alone")
    .option("--json", "print one JSON document")
    .addHelpText("after", NOTES)
    .action(boot)
}

function count(text: string): number {
  const value = Number(text)
  if (!Number.isInteger(value) || value < 1 || value > 1000) throw new InvalidArgumentError("1 to 1000")
  return value
}

async function boot(options: BootOptions): Promise<void> {
  const platform = PLATFORMS[options.vendor] as BootPlatform
  const { release } = options
  const required: Requirements = { platform, release, kernel: platform.kernels[release] }
  if (options.fetch) fetchOrExplain(required)
  const prerequisites = findOrExplain(required)
  const reports: BootReport[] = []
  for (const scenario of options.sweep ? scenariosOf(platform) : [scenarioOf(platform, options)]) {
    const report = reportOf(await bootGuest(planOf(options, required, prerequisites, scenario)))
    reports.push(report)
    showProgress("")
    if (options.json) continue
    console.log(options.sweep ? reportLine(report) : reportText(report))
    if (options.transcript) console.log(differenceText(compareBringUps(report.linux, report.own)))
    if (options.sweep && report.problems.length > 0) console.log(reportText(report))
  }
  const ok = reports.every(({ problems }) => problems.length === 0)
  if (options.json) console.log(JSON.stringify({ boots: reports, ok }))
  process.exitCode = ok ? 0 : 1
}

function scenarioOf(platform: BootPlatform, options: BootOptions): Scenario {
  const modes = Object.keys(platform.modes)
  const mode = options.mode ?? (modes[0] as string)
  if (!modes.includes(mode)) throw new InputError("--mode", `${platform.name} has ${modes.join(", ")}`)
  const { policy, cpus, caches } = options
  return { mode, policy, cpus, caches }
}

function planOf(
  options: BootOptions,
  { platform, kernel }: Requirements,
  prerequisites: Prerequisites,
  scenario: Scenario,
): BootPlan {
  const policy = POLICIES[scenario.policy]
  const isQuiet = options.json || options.quiet || options.sweep
  const isOurs = options.initrd === undefined
  return {
    ...prerequisites,
    platform,
    name: scenarioName(scenario),
    mode: platform.modes[scenario.mode] as BootPlan["mode"],
    policy,
    modules: kernel.modules,
    ...(options.kernel === undefined ? {} : { kernel: options.kernel }),
    ...(options.initrd === undefined ? {} : { initrd: readFileSync(options.initrd) }),
    ...(options.keep === undefined ? {} : { keepIn: options.keep }),
    append: options.append,
    cpus: scenario.cpus,
    caches: scenario.caches,
    rogue: isOurs && policy.translates ? ROGUE : [],
    timeoutMs: options.timeout * 1000,
    onConsoleLine: isQuiet ? showProgress : line => console.log(line),
  }
}

function findOrExplain(required: Requirements): Prerequisites {
  try {
    return findPrerequisites(required)
  } catch (error) {
    if (error instanceof MissingError) throw new InputError("boot", error.message)
    throw error
  }
}

function fetchOrExplain(required: Requirements): void {
  showProgress(`fetching what is missing of QEMU and ${describeKernel(required.kernel)}`)
  try {
    fetchPrerequisites(required)
    showProgress("")
  } catch (error) {
    throw new InputError("--fetch", error instanceof Error ? error.message : String(error))
  }
}

/** One line on a terminal, overwritten by the next; nothing in a pipe. */
function showProgress(line: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${line.slice(0, process.stderr.columns - 1)}`)
}
