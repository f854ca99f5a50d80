/** One QEMU and one model side by side: takes cases, and gives where the two differ. */
import { type QemuBinary, versionOf } from "../binary/qemu-binary.ts"
import { LAYOUTS } from "../machine/layout.ts"
import { startMachine } from "../machine/qemu-machine.ts"
import type { Recipe } from "../machine/recipe.ts"
import { hex } from "../process/qtest.ts"
import type { CommandsCase } from "./commands.ts"
import { commandsDifferences } from "./commands-compare.ts"
import { judgeCommands } from "./commands-readings.ts"
import { commandsScript } from "./commands-script.ts"
import { compare, type Difference } from "./compare.ts"
import { ModelSubject } from "./model-subject.ts"
import { PLACES } from "./places.ts"
import { QemuSubject } from "./qemu-subject.ts"
import { judgeByReadings } from "./readings.ts"
import { type Observation, type Script, type Subject, SubjectDied } from "./script.ts"
import { withSecondOpinion } from "./second-opinion.ts"
import { CACHES, observations, type StaleCase, staleDifferences, staleScript } from "./stale.ts"
import type { VendorDiff, World } from "./vendor-diff.ts"
import { judge, type Verdict } from "./verdict.ts"

/** A lane that works through its cases is never this old. */
const TIMEOUT_MS = 3_600_000

export interface Lane<Case> {
  readonly world: World
  /** A QEMU that dies of the case is a difference, and is started again. */
  check(given: Case): Promise<Verdict>
  /** As {@link check}, for tables that change while caches hold them. */
  checkStale(given: StaleCase<Case>): Promise<Verdict>
  /** As {@link check}, for commands in the queue. */
  checkCommands(given: CommandsCase<Case>): Promise<Verdict>
  close(): Promise<void>
}

interface Start {
  readonly theirs: Subject
  readonly world: World
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
  const start = async (): Promise<Start> => {
    const machine = await startMachine(binary, recipe, vendor.devices, { timeoutMs: TIMEOUT_MS })
    const values = await machine.run(
      vendor.identity.map(
        ({ offset, bytes }) => `read${bytes === 8 ? "q" : "l"} ${hex(machine.iommu + offset)}`,
      ),
    )
    const world = {
      release: versionOf(binary).join("."),
      variant: recipe.variant,
      profile,
      places,
      deviceIds: [...machine.devices, ...machine.testDevices].map(({ id }) => id),
      identity: Object.fromEntries(vendor.identity.map(({ name }, index) => [name, BigInt(values[index])])),
    }
    return { theirs: await QemuSubject.prepare(machine, places, vendor.bypass), world }
  }

  let { theirs, world } = await start()
  const ours = new ModelSubject("model", layout, places, world.deviceIds, memory =>
    vendor.model(world, memory),
  )
  /** What QEMU does, or its end, after which there is a new one. */
  const observe = async (script: Script): Promise<Observation | SubjectDied> => {
    try {
      return await theirs.run(script)
    } catch (error) {
      if (!(error instanceof SubjectDied)) throw error
      await theirs.close()
      ;({ theirs, world } = await start())
      return error
    }
  }
  const repeats = world.deviceIds.length > vendor.devices
  const complete = async (script: Script): Promise<Script> =>
    repeats ? withSecondOpinion(script, vendor.devices, await ours.run(script)) : script
  const models = CACHES.map(caches => ({
    name: `model, ${caches.structures} and ${caches.translations}`,
    run: (script: Script) => ours.runOn(script, memory => vendor.model(world, memory, caches)),
    close: async () => {},
  }))
  return {
    world,
    checkStale: async given => {
      const script = await complete(staleScript(vendor, vendor.stale, world, given))
      const found = await observe(script)
      return judge(
        recipe.vendor,
        found instanceof SubjectDied
          ? [{ kind: "died", words: found.message }]
          : staleDifferences(script, await observations(models, script), found),
        { world, script },
      )
    },
    checkCommands: async given => {
      const script = commandsScript(vendor, vendor.stale, vendor.commands, world, given)
      const found = await observe(script)
      const setting = { world, script }
      if (found instanceof SubjectDied) {
        return judge(recipe.vendor, [{ kind: "died", words: found.message }], setting)
      }
      const differencesOf = async (read: Script): Promise<Difference[]> =>
        commandsDifferences(vendor.commands, world, read, await observations(models, read), found)
      return judgeCommands(recipe.vendor, setting, differencesOf)
    },
    check: async given => {
      const script = await complete(vendor.script(world, given))
      const expected = await ours.run(script)
      const found = await observe(script)
      const setting = { world, script }
      if (found instanceof SubjectDied) {
        return judge(recipe.vendor, [{ kind: "died", words: found.message }], setting)
      }
      const verdict = judge(recipe.vendor, compare(vendor, world, script, expected, found), setting)
      if (verdict.unexplained.length === 0) return verdict
      return (await judgeByReadings(vendor, recipe.vendor, world, script, ours, found)) ?? verdict
    },
    close: () => theirs.close(),
  }
}
