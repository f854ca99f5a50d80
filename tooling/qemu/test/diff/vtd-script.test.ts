import { expect, test } from "vitest"
import { PLACES } from "../../src/diff/places.ts"
import type { World } from "../../src/diff/vendor-diff.ts"
import type { VtdCase } from "../../src/diff/vendors/vtd-case.ts"
import { vtdScript } from "../../src/diff/vendors/vtd-script.ts"

const world = (variant: string): World => ({
  release: "11.1",
  variant,
  profile: "",
  places: PLACES.x86_64,
  deviceIds: [0x20, 0x28],
  identity: { VER: 0x10n, CAP: 0n, ECAP: 0n },
})

/** Its address is that of the root table. */
const given: VtdCase = {
  levels: 3,
  type: 0,
  leaves: [{ indices: [0, 2, 0], level: 0, frame: 0, page: 0 }],
  damage: null,
  together: false,
  accesses: [{ leaf: 0, offset: 0, write: true, flip: null }],
}

test.each([
  ["translation", "legacy", given, true],
  ["translation", "scalable-second", given, true],
  ["pass-through", "legacy", { ...given, type: 2 }, false],
  ["pass-through", "scalable-second", { ...given, type: 2 }, false],
  ["pass-through by a bit of TT", "legacy", { ...given, damage: { at: "context", bit: 3 } as const }, false],
  ["another wrong bit", "legacy", { ...given, damage: { at: "context", bit: 2 } as const }, true],
  [
    "pass-through of another address",
    "legacy",
    { ...given, type: 2, leaves: [{ ...given.leaves[0], indices: [0, 3, 0] }] },
    true,
  ],
])(
  "%s, %s: a write to what are structures in memory stays one unless it would reach them",
  (_, variant, one, write) => {
    const [{ accesses }] = vtdScript(world(variant), one).rounds
    expect(accesses[0].write).toBe(write)
  },
)
