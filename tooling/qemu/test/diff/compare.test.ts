/** What counts as a difference, told by fakes: nothing here knows a vendor. */
import type { IommuModel } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, test } from "vitest"
import { compare } from "../../src/diff/compare.ts"
import { describeDifference } from "../../src/diff/describe.ts"
import { PLACES } from "../../src/diff/places.ts"
import type { Access, Answer, Observation, Script } from "../../src/diff/script.ts"
import { staleDifferences } from "../../src/diff/stale.ts"
import type { Records, VendorDiff, World } from "../../src/diff/vendor-diff.ts"

const ACCESS: Access = { device: 0, iova: 0x1000n, write: false, asks: "place" }
const REFUSED: Answer = { kind: "refused" }
const LANDED: Answer = { kind: "landed", address: 0x5000 }
const WORLD: World = {
  release: "10.0",
  variant: "",
  profile: "",
  places: PLACES.x86_64,
  deviceIds: [0x20],
  identity: {},
}
const SCRIPT: Script = {
  memory: new Map([[0x2000, 7n]]),
  zeroed: [],
  bypass: [],
  rounds: [
    {
      stores: new Map(),
      writes: [],
      accesses: [ACCESS],
      reads: [
        { name: "STATUS", offset: 0, bytes: 4 },
        { name: "OTHER", offset: 4, bytes: 4 },
      ],
      areas: [],
      acknowledge: [],
    },
  ],
}
/** Its only register that is compared follows from the records. */
const VENDOR: VendorDiff<null> = {
  devices: 1,
  profiles: [""],
  identity: [],
  bypass: [],
  cases: () => fc.constant(null),
  script: () => SCRIPT,
  // A record is what STATUS holds, of the only device.
  records: (_, _script, { rounds }) =>
    rounds.map(
      ({ registers: [status] }): Records => (status === 0n ? new Map() : new Map([[0x20, [[status]]]])),
    ),
  compared: ["STATUS"],
  derived: ["STATUS"],
  model: (): IommuModel => {
    throw new Error("no model here")
  },
  commands: {
    commands: [],
    registers: { on: [], off: [] },
    places: [],
    queue: () => {
      throw new Error("no queue here")
    },
    clear: () => ({ writes: [], copies: [] }),
    encode: () => [],
    harmless: () => [],
    stored: () => [],
    write: () => [],
    turn: () => [],
    settle: () => ({ writes: [], copies: [] }),
    reads: () => [],
    determined: values => values,
    events: () => [],
  },
  stale: {
    cases: () => fc.constant(null),
    changed: () => null,
    invalidate: () => ({ stores: new Map(), writes: [] }),
  },
}

function seen(answer: Answer, status = 0n, other = 0n, changed: [number, bigint][] = []): Observation {
  return { rounds: [{ answers: [answer], registers: [status, other], areas: [] }], changed: new Map(changed) }
}

function differences(ours: Observation, theirs: Observation) {
  return compare(VENDOR, WORLD, SCRIPT, ours, theirs)
}

describe("a comparison", () => {
  test("finds nothing in what is the same, or in registers that are not compared", () => {
    expect(differences(seen(LANDED), seen(LANDED))).toEqual([])
    expect(differences(seen(LANDED, 0n, 1n), seen(LANDED, 0n, 2n))).toEqual([])
  })

  test("finds another place, and another record of the same answer", () => {
    const [place] = differences(seen(LANDED), seen({ ...LANDED, address: 0x6000 }))
    expect(place).toMatchObject({ kind: "access", round: 0, access: ACCESS })
    const found = differences(seen(REFUSED, 1n), seen(REFUSED, 2n))
    // The register follows from the record, and is not told a second time.
    expect(found.map(({ kind }) => kind)).toEqual(["access"])
    expect(describeDifference(found[0])).toBe(
      "read of device 0 at 0x1000, round 0: model refuses, record [0x1]; QEMU refuses, record [0x2]",
    )
  })

  test("finds words of tables that one side changed", () => {
    const [difference] = differences(seen(LANDED, 0n, 0n, [[0x2000, 0x27n]]), seen(LANDED))
    expect(difference).toEqual({ kind: "table", address: 0x2000, before: 7n, ours: 0x27n, theirs: null })
    expect(describeDifference(difference)).toBe("word at 0x2000, 0x7 before: model 0x27, QEMU leaves it")
  })
})

describe("a comparison of stale entries", () => {
  const possible = [seen(REFUSED), seen(LANDED)]

  test("takes what any way of caching gives", () => {
    expect(staleDifferences(SCRIPT, possible, seen(LANDED))).toEqual([])
    expect(staleDifferences(SCRIPT, possible, seen(REFUSED))).toEqual([])
  })

  test("finds what none gives", () => {
    const found = staleDifferences(SCRIPT, possible, seen({ ...LANDED, address: 0x6000 }))
    expect(found.map(({ kind }) => kind)).toEqual(["access"])
  })
})
