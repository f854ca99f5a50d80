/** One QEMU and one model side by side: takes cases, and gives where the two differ. */
import type { QemuBinary } from "../binary/qemu-binary.ts"
import { explainDifference, readingsOf } from "../ledger/explain.ts"
import { LAYOUTS } from "../machine/layout.ts"
import { startMachine } from "../machine/qemu-machine.ts"
import type { Recipe, Vendor } from "../machine/recipe.ts"
import { hex } from "../process/qtest.ts"
import { compare, type Difference } from "./compare.ts"
import { ModelSubject } from "./model-subject.ts"
import { PLACES } from "./places.ts"
import { QemuSubject } from "./qemu-subject.ts"
import { type Observation, type Script, type Subject, SubjectDied } from "./script.ts"
import type { VendorDiff, World } from "./vendor-diff.ts"

/** A lane that works through its cases is never this old. */
const TIMEOUT_MS = 3_600_000

/** What came of a case. */
export interface Verdict {
  /** Ids of the ledger's entries that explain what differs. */
  readonly rows: readonly string[]
  /** What differs and is in no entry of the ledger. */
  readonly unexplained: readonly Difference[]
}

export interface Lane<Case> {
  readonly world: World
  /** A QEMU that dies of the case is a difference, and is started again. */
  check(given: Case): Promise<Verdict>
  close(): Promise<void>
}

/** @throws Error with QEMU's words when it does not start */
export async function openLane<Case>(
  vendor: VendorDiff<Case>,
  binary: QemuBinary,
  recipe: Recipe,
  profile: string,
): Promise<Lane<Case>> {
  const layout = LAYOUTS[binary.target]
  const places = PLACES[binary.target]
  const start = async (): Promise<{ readonly theirs: Subject; readonly world: World }> => {
    const machine = await startMachine(binary, recipe, vendor.devices, { timeoutMs: TIMEOUT_MS })
    const values = await machine.run(
      vendor.identity.map(
        ({ offset, bytes }) => `read${bytes === 8 ? "q" : "l"} ${hex(machine.iommu + offset)}`,
      ),
    )
    const world = {
      variant: recipe.variant,
      profile,
      places,
      deviceIds: machine.devices.map(({ id }) => id),
      identity: Object.fromEntries(vendor.identity.map(({ name }, index) => [name, BigInt(values[index])])),
    }
    return { theirs: await QemuSubject.prepare(machine, places, vendor.bypass), world }
  }

  let { theirs, world } = await start()
  const ours = new ModelSubject("model", layout, places, world.deviceIds, memory =>
    vendor.model(world, memory),
  )
  return {
    world,
    check: async given => {
      const script = vendor.script(world, given)
      const expected = await ours.run(script)
      let found: Observation
      try {
        found = await theirs.run(script)
      } catch (error) {
        if (!(error instanceof SubjectDied)) throw error
        await theirs.close()
        ;({ theirs, world } = await start())
        return judge(recipe.vendor, [{ kind: "died", words: error.message }])
      }
      const verdict = judge(recipe.vendor, compare(vendor, world, script, expected, found))
      if (verdict.unexplained.length === 0) return verdict
      return (await judgeByReadings(vendor, recipe.vendor, world, script, ours, found)) ?? verdict
    },
    close: () => theirs.close(),
  }
}

/** Sorts differences into those that the ledger explains one by one, and the others. */
function judge(name: Vendor, differences: readonly Difference[]): Verdict {
  const rows = new Set<string>()
  const unexplained: Difference[] = []
  for (const difference of differences) {
    const ids = explainDifference(name, difference)
    if (ids === null) unexplained.push(difference)
    for (const id of ids ?? []) rows.add(id)
  }
  return { rows: [...rows], unexplained }
}

/**
 * Whether QEMU did what our model does when some words of memory say what QEMU takes them to say.
 * @returns the verdict, or null when no entry of the ledger leads to agreement
 */
async function judgeByReadings<Case>(
  vendor: VendorDiff<Case>,
  name: Vendor,
  world: World,
  script: Script,
  ours: Subject,
  found: Observation,
): Promise<Verdict | null> {
  for (const { id, reads } of readingsOf(name)) {
    const changes = reads(world, script.memory)
    if (changes.size === 0) continue
    const reread = { ...script, memory: new Map([...script.memory, ...changes]) }
    const differences = compare(vendor, world, reread, await ours.run(reread), found).filter(
      difference => difference.kind !== "table" || !changes.has(difference.address),
    )
    const { rows, unexplained } = judge(name, differences)
    if (unexplained.length === 0) return { rows: [id, ...rows], unexplained }
  }
  return null
}
