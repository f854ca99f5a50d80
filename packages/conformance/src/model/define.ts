import type { TestRunner } from "../target.ts"
import { type CacheTarget, liveUpdatesChapter, scopesChapter } from "./caching.ts"
import { handshakesChapter } from "./handshakes.ts"
import { hooksChapter } from "./hooks.ts"
import { logChapter } from "./log.ts"
import { queueChapter } from "./queue.ts"
import { registersChapter } from "./registers.ts"
import { structuresChapter } from "./structures.ts"
import type { CachingContract, ModelTarget } from "./target.ts"

/** Defines the suite for one hardware model, driven through MMIO and memory alone, in the given runner. */
export function defineModelConformance(runner: TestRunner, target: ModelTarget): void {
  runner.describe(`${target.name} conforms`, () => {
    const chapters = {
      registers: registersChapter,
      handshakes: handshakesChapter,
      "command queue": queueChapter,
      "fault log": logChapter,
      structures: structuresChapter,
      hooks: hooksChapter,
      ...(target.caching === null
        ? {}
        : { "invalidation scopes": scopesChapter, "live updates": liveUpdatesChapter }),
    }
    for (const [name, chapter] of Object.entries(chapters)) {
      runner.describe(name, () => chapter(runner, target))
    }
  })
}

/**
 * The chapters about caches alone, for the same model in another mode or with other capabilities: what it caches and
 * what drops it may differ.
 */
export function defineCacheConformance(
  runner: TestRunner,
  { caching, ...target }: CacheTarget & { readonly caching: CachingContract },
): void {
  runner.describe(`${target.name} conforms`, () => {
    runner.describe("invalidation scopes", () => scopesChapter(runner, { ...target, caching }))
    runner.describe("live updates", () => liveUpdatesChapter(runner, { ...target, caching }))
  })
}
