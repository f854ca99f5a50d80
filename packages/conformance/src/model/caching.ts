/** What invalidations drop, and what they leave; sequences that make a change of tables take effect. */
import type { CachePolicy } from "@iommu/core"
import { assertEqual, assertTrue } from "../assert.ts"
import type { TestRunner } from "../target.ts"
import { answer, runSteps, showAnswer } from "./script.ts"
import type {
  CachedEntry,
  CachingContract,
  InvalidationCase,
  LiveUpdate,
  ModelMachine,
  ModelTarget,
} from "./target.ts"

/** What these chapters need of a target. */
export type CacheTarget = Pick<ModelTarget, "name" | "create" | "caching">

interface Bench {
  readonly target: CacheTarget
  readonly caching: CachingContract
}

/** An entry that the book lets hardware keep, unless it says otherwise. */
export function cachedEntry(
  what: string,
  source: string,
  asked: Omit<CachedEntry, "what" | "source" | "cacheable"> & Partial<Pick<CachedEntry, "cacheable">>,
): CachedEntry {
  return { what, source, cacheable: true, ...asked }
}

export function scopesChapter({ describe, it }: TestRunner, target: CacheTarget): void {
  const { caching } = target
  if (caching === null) return
  const bench = { target, caching }
  const entries = Object.entries(caching.entries)

  for (const [name, entry] of entries) {
    it(`${name}: ${entry.what}, ${entry.source}, is kept only as the book allows`, () => {
      keeps(bench, entry)
    })
  }
  for (const command of caching.commands) {
    describe(`${command.name}, ${command.source}`, () => {
      for (const name of command.drops) {
        assertTrue(Object.hasOwn(caching.entries, name), `${command.name} drops ${name}, which is no entry`)
      }
      for (const [name, entry] of entries.filter(([, entry]) => entry.cacheable)) {
        const drops = command.drops.includes(name)
        it(`${drops ? "drops" : "leaves"} ${name}`, () => {
          if (drops) isDropped(bench, entry, command)
          else isLeft(bench, entry, command)
        })
      }
    })
  }
}

export function liveUpdatesChapter({ describe, it }: TestRunner, target: CacheTarget): void {
  const { caching } = target
  if (caching === null) return
  const bench = { target, caching }
  for (const update of caching.liveUpdates) {
    describe(`${update.name}, ${update.source}`, () => {
      it("takes effect with the whole sequence", () => {
        for (const policy of ["hoard", "exact", "none"] as const) {
          assertAnswer(runUpdate(bench, update, policy, null), update, update.after, policy)
        }
      })
      for (const [index, step] of update.sequence.entries()) {
        if (step.kind === "invalidate") {
          it(`is not in effect without ${step.what}`, () => {
            const machine = runUpdate(bench, update, "hoard", index)
            assertTrue(answer(machine, update.request) !== update.after, "a hoard shows what is missing")
          })
        }
      }
    })
  }
}

function keeps(bench: Bench, entry: CachedEntry): void {
  assertAnswer(changed(bench, entry, "hoard"), entry, entry.cacheable ? entry.before : entry.after, "hoard")
  assertAnswer(changed(bench, entry, "none"), entry, entry.after, "none")
}

function isDropped(bench: Bench, entry: CachedEntry, command: InvalidationCase): void {
  for (const policy of ["hoard", "exact"] as const) {
    const machine = changed(bench, entry, policy)
    command.issue(machine)
    assertAnswer(machine, entry, entry.after, policy)
  }
}

function isLeft(bench: Bench, entry: CachedEntry, command: InvalidationCase): void {
  const machine = changed(bench, entry, "hoard")
  command.issue(machine)
  assertAnswer(machine, entry, entry.before, "hoard")
}

/**
 * A machine that has the entry, and whose tables say something else since. It has answered the request itself, or
 * only those that prime the entry.
 */
function changed({ target, caching }: Bench, entry: CachedEntry, policy: CachePolicy): ModelMachine {
  const machine = target.create(policy)
  runSteps(machine, caching.start, "start")
  if (entry.primedBy === undefined) assertAnswer(machine, entry, entry.before, `${policy}, before the change`)
  for (const other of entry.primedBy ?? []) assertTrue(answer(machine, other) !== null, "primed by an answer")
  for (const [address, value] of entry.change) machine.memory.write64(address, value)
  return machine
}

function runUpdate(
  { target, caching }: Bench,
  update: LiveUpdate,
  policy: CachePolicy,
  without: number | null,
): ModelMachine {
  const machine = target.create(policy)
  runSteps(machine, caching.start, "start")
  assertAnswer(machine, update, update.before, `${policy}, before the update`)
  for (const [index, step] of update.sequence.entries()) {
    if (index !== without) step.run(machine)
  }
  return machine
}

function assertAnswer(
  machine: ModelMachine,
  { request: asked }: Pick<CachedEntry, "request">,
  expected: CachedEntry["before"],
  what: string,
): void {
  assertEqual(showAnswer(answer(machine, asked)), showAnswer(expected), what)
}
