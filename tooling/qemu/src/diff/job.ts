/** A number of random cases on one QEMU in one set-up, with what came of them. */
import fc from "fast-check"
import type { QemuBinary } from "../binary/qemu-binary.ts"
import type { Recipe } from "../machine/recipe.ts"
import { type CommandsCase, commandsCases } from "./commands.ts"
import type { Difference } from "./compare.ts"
import { type Lane, openLane } from "./lane.ts"
import { type StaleCase, staleCases } from "./stale.ts"
import type { VendorDiff } from "./vendor-diff.ts"
import type { Verdict } from "./verdict.ts"

export interface JobSettings {
  readonly binary: QemuBinary
  readonly recipe: Recipe
  readonly profile: string
  readonly cases: number
  readonly seed: number
}

/** A difference that is in no entry of the ledger, shrunk. */
interface NewDifference {
  /** The case, as JSON that `--case` takes. */
  readonly given: string
  readonly differences: readonly Difference[]
}

export interface JobReport {
  readonly settings: JobSettings
  /** Cases that were run: fewer than asked for when one had a new difference. */
  readonly cases: number
  readonly agreements: number
  /** Cases by entry of the ledger that explains something in them. */
  readonly ledgered: Readonly<Record<string, number>>
  readonly newDifference: NewDifference | null
  readonly seconds: number
}

/** @param onCase called after each case */
export async function runJob<Case>(
  vendor: VendorDiff<Case>,
  settings: JobSettings,
  onCase: () => void,
): Promise<JobReport> {
  const { binary, recipe, profile, cases, seed } = settings
  const started = performance.now()
  const lane = await openLane(vendor, binary, recipe, profile)
  const ledgered: Record<string, number> = {}
  let run = 0
  let agreements = 0
  const count = ({ rows, unexplained }: Verdict): void => {
    run++
    if (rows.length === 0 && unexplained.length === 0) agreements++
    for (const row of rows) ledgered[row] = (ledgered[row] ?? 0) + 1
    onCase()
  }
  let failing: { readonly given: unknown; readonly differences: readonly Difference[] } | null = null
  try {
    const suite = suiteOf(vendor, lane, profile)
    const property = fc.asyncProperty(suite.cases, async ({ given, check }) => {
      const verdict = await check()
      // After the first failure come ever smaller cases, which are no random ones.
      if (failing === null) count(verdict)
      if (verdict.unexplained.length > 0) failing = { given, differences: verdict.unexplained }
      return verdict.unexplained.length === 0
    })
    await fc.check(property, { seed, numRuns: cases })
  } finally {
    await lane.close()
  }
  return {
    settings,
    cases: run,
    agreements,
    ledgered,
    newDifference: newDifferenceOf(failing),
    seconds: (performance.now() - started) / 1000,
  }
}

/** The profiles that every vendor has: tables that change while caches hold them, and commands in the queue. */
export const STALE = "stale"
export const COMMANDS = "commands"

/** Random cases, each with what it is to be checked by. */
interface Suite {
  readonly cases: fc.Arbitrary<{ readonly given: unknown; check(): Promise<Verdict> }>
}

function suiteOf<Case>(vendor: VendorDiff<Case>, lane: Lane<Case>, profile: string): Suite {
  const { world } = lane
  switch (profile) {
    case STALE:
      return checkedBy(staleCases(vendor.stale, world), given => lane.checkStale(given))
    case COMMANDS:
      return checkedBy(commandsCases(vendor.stale, vendor.commands, world), given =>
        lane.checkCommands(given),
      )
    default:
      return checkedBy(vendor.cases(world), given => lane.check(given))
  }
}

function checkedBy<Given>(cases: fc.Arbitrary<Given>, check: (given: Given) => Promise<Verdict>): Suite {
  return { cases: cases.map(given => ({ given, check: () => check(given) })) }
}

/**
 * Runs one given case.
 * @param given a case of the vendor, or with {@link STALE} one of stale entries, with {@link COMMANDS} one of commands
 */
export async function runCase<Case>(
  vendor: VendorDiff<Case>,
  binary: QemuBinary,
  recipe: Recipe,
  profile: string,
  given: Case & StaleCase<Case> & CommandsCase<Case>,
): Promise<Verdict> {
  const lane = await openLane(vendor, binary, recipe, profile)
  try {
    switch (profile) {
      case STALE:
        return await lane.checkStale(given)
      case COMMANDS:
        return await lane.checkCommands(given)
      default:
        return await lane.check(given)
    }
  } finally {
    await lane.close()
  }
}

function newDifferenceOf(
  failing: { readonly given: unknown; readonly differences: readonly Difference[] } | null,
): NewDifference | null {
  return failing === null ? null : { given: JSON.stringify(failing.given), differences: failing.differences }
}
