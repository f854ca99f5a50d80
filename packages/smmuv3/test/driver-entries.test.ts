import { createMemory, type PhysicalMemory } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import {
  ABORT_STE,
  type Entry,
  readEntry,
  STE_KIND,
  updateEntry,
  updateSteps,
} from "../src/driver/device-table.ts"
import { readFeatures } from "../src/driver/features.ts"
import { nestedSte } from "../src/driver/nested-domain.ts"
import { stage2Ste } from "../src/driver/paging-domain.ts"
import { CD_KIND, contextDescriptor, NO_CD, stage1Ste } from "../src/driver/pasid-table.ts"
import { bypassSte } from "../src/driver/static-domains.ts"
import { FakeSmmu } from "./fake-smmu.ts"

const AT = 0x4000_0000n
const features = readFeatures(new FakeSmmu())
const table = { address: 0x4802_a000, s1Fmt: 0, s1CdMax: 0 }
const stage2 = { root: 0x43e6_7000n, vmid: 5, inputBits: 44, sl0: 2, tg: 0, ps: 4, ds: false }
const stage1 = { root: 0x4804_0000n, asid: 5, inputBits: 48, tg: 0, ips: 4, ds: false, dirty: false }

/** All that the driver ever writes into a Stream table, and two with other addresses. */
const STES: readonly Entry[] = [
  ABORT_STE,
  bypassSte(features),
  bypassSte({ ...features, ATTR_TYPES_OVR: true }),
  stage1Ste(features, table, 2, false),
  stage1Ste({ ...features, STALL_MODEL: 0 }, { ...table, address: 0x5000_0000, s1CdMax: 5 }, 1, true),
  stage1Ste(features, table, 0, true),
  stage2Ste(features, stage2, false),
  stage2Ste(features, { ...stage2, root: 0x5000_0000n, vmid: 9 }, true),
  nestedSte(stage2Ste(features, stage2, false), 0x43e9_6000n, 0xd6n),
  nestedSte(stage2Ste(features, stage2, true), 0x5555_5000n, 0xd5n),
]
const CDS: readonly Entry[] = [
  NO_CD,
  contextDescriptor(features, stage1),
  contextDescriptor(features, { ...stage1, asid: 6, root: 0x5000_0000n }),
  contextDescriptor(features, { ...stage1, asid: 6, dirty: true }),
]

const hex = (entry: Entry): string[] => entry.map(word => `0x${word.toString(16)}`)

/** STE.EATS and MEV, bits 93:92 and 83: they may change on their own, §5.2, §7.3.1. */
const EATS_AND_MEV: Entry = [0n, (3n << 28n) | (1n << 19n), 0n, 0n, 0n, 0n, 0n, 0n]

/** What the SMMU makes of an entry: the bits it looks at, but for {@link EATS_AND_MEV} of an STE. */
function meaning(kind: typeof STE_KIND, words: Entry): string {
  const used = kind.used(words)
  const free = kind === STE_KIND ? EATS_AND_MEV : NO_CD
  return hex(words.map((word, i) => word & (used[i] as bigint) & ~(free[i] as bigint))).join()
}

/** §5.2 EATS: split-stage ATS without both stages, or full ATS with stage 2 stalls. */
function isIllegal([word0, word1, word2]: Entry): boolean {
  const config = ((word0 as bigint) >> 1n) & 7n
  const eats = ((word1 as bigint) >> 28n) & 3n
  const stalls = (((word2 as bigint) >> 57n) & 1n) !== 0n
  return (
    config > 4n && ((eats === 2n && (config !== 7n || stalls)) || (eats === 1n && config !== 5n && stalls))
  )
}

describe("the words that Linux writes", () => {
  // captures/smmuv3-s1-4k-ops, smmuv3-s2-4k and smmuv3-nested-4k, StreamID 16.
  it("for stage 1", () => {
    const ste = stage1Ste(features, table, 2, false)
    expect(hex(ste).slice(0, 4)).toEqual(["0x4802a00b", "0xd6", "0x0", "0x0"])
    const cd = contextDescriptor(features, stage1)
    expect(hex(cd).slice(0, 5)).toEqual(["0x5e204c0003510", "0x48040000", "0x0", "0xfffffffff404ff44", "0x0"])
  })

  it("for stage 1 with 16 KiB tables", () => {
    const cd = contextDescriptor(features, { ...stage1, root: 0x4889_0000n, tg: 2 })
    expect(hex(cd).slice(0, 2)).toEqual(["0x5e204c0003590", "0x48890000"])
  })

  it("for stage 2", () => {
    expect(hex(stage2Ste(features, stage2, false)).slice(0, 4)).toEqual([
      "0xd",
      "0x0",
      "0x44c359400000005",
      "0x43e67000",
    ])
  })

  it("for both stages", () => {
    const parent = { ...stage2, root: 0x1_018a_8000n, vmid: 11 }
    const ste = nestedSte(stage2Ste(features, parent, false), 0x43e9_6000n, 0xd6n)
    expect(hex(ste).slice(0, 4)).toEqual(["0x43e9600f", "0x800d6", "0x44c35940000000b", "0x1018a8000"])
  })

  it("for abort and bypass", () => {
    expect(hex(ABORT_STE)[0]).toBe("0x1")
    expect(hex(bypassSte(features)).slice(0, 2)).toEqual(["0x9", "0x0"])
  })
})

describe("changing a live entry", () => {
  const pairs = (entries: readonly Entry[]): [Entry, Entry][] =>
    entries.flatMap(from => entries.map((to): [Entry, Entry] => [from, to]))
  const cases = [
    ...pairs(STES).map(([from, to]) => ({ kind: STE_KIND, from, to })),
    ...pairs(CDS).map(([from, to]) => ({ kind: CD_KIND, from, to })),
  ]

  it("ends with exactly the new words, and at each moment is old, new or not valid", () => {
    for (const { kind, from, to } of cases) {
      const valid = [meaning(kind, from), meaning(kind, to)]
      const { memory, moments } = watched(from)
      updateEntry(memory, AT, to, kind, () => moments.push("forget"))
      for (const moment of moments) {
        if (moment === "forget" || ((moment[0] as bigint) & kind.valid) === 0n) continue
        expect(valid, `${hex(from)} to ${hex(to)}`).toContain(meaning(kind, moment))
      }
      expect(hex(readEntry(memory, AT))).toEqual(hex(to))
    }
  })

  it("forgets copies between any two changes that count, and at the end", () => {
    for (const { kind, from, to } of cases) {
      const { memory, moments } = watched(from)
      updateEntry(memory, AT, to, kind, () => moments.push("forget"))
      if (moments.length > 0) expect(moments.at(-1)).toBe("forget")
      let changes = 0
      let before = meaning(kind, from)
      for (const moment of moments) {
        if (moment === "forget") {
          changes = 0
          continue
        }
        const now = meaning(kind, moment)
        if (now !== before) changes++
        before = now
        expect(changes).toBeLessThanOrEqual(1)
      }
    }
  })

  it("has no gap when one 64-bit word decides: abort, bypass, stage 1 and back", () => {
    const stream = [
      ABORT_STE,
      STES[3] as Entry,
      ABORT_STE,
      bypassSte(features),
      STES[3] as Entry,
      STES[6] as Entry,
    ]
    for (let i = 1; i < stream.length; i++) {
      const steps = updateSteps(stream[i - 1] as Entry, stream[i] as Entry, STE_KIND)
      const gap = steps.some(words => ((words[0] as bigint) & 1n) === 0n)
      // From stage 1 to stage 2 S2VMID counts in both and Config too: two words.
      expect(gap).toBe(i === 5)
    }
  })

  it("has no gap where a stream begins to nest or ceases to, with MEV and EATS as each has them", () => {
    const parents = [false, true].map(ats => stage2Ste(features, stage2, ats))
    const nesting = [0xd6n, 0xd5n, 0xd6n | (1n << 19n)].flatMap(word1 =>
      parents.map(parent => nestedSte(parent, 0x43e9_6000n, word1)),
    )
    for (const from of [...parents, ...nesting]) {
      for (const to of [...parents, ...nesting]) {
        const isNested = (entry: Entry): boolean => ((entry[0] as bigint) & 0xen) === 0xen
        if (isNested(from) && isNested(to)) continue
        for (const words of updateSteps(from, to, STE_KIND)) expect((words[0] as bigint) & 1n).toBe(1n)
      }
    }
  })

  it("makes no entry ILLEGAL on the way, whatever EATS and S2S are", () => {
    const entries = [0n, 1n, 2n].flatMap(eats =>
      [0n, 1n].flatMap(stalls =>
        [5n, 6n, 7n].map(
          (config): Entry => [1n | (config << 1n), eats << 28n, stalls << 57n, 0n, 0n, 0n, 0n, 0n],
        ),
      ),
    )
    const legal = entries.filter(entry => !isIllegal(entry))
    expect(legal.length).toBeGreaterThan(8)
    for (const [from, to] of pairs(legal)) {
      for (const words of updateSteps(from, to, STE_KIND)) {
        if (((words[0] as bigint) & 1n) !== 0n)
          expect(isIllegal(words), `${hex(from)} to ${hex(to)}: ${hex(words)}`).toBe(false)
      }
    }
  })

  it("holds for any words", () => {
    const entry = fc.tuple(...Array.from({ length: 8 }, () => fc.bigInt({ min: 0n, max: (1n << 64n) - 1n })))
    fc.assert(
      fc.property(entry, entry, (from, random) => {
        const used = STE_KIND.used(random)
        const to = random.map((word, i) => word & (used[i] as bigint))
        const { memory, moments } = watched(from)
        updateEntry(memory, AT, to, STE_KIND, () => undefined)
        for (const moment of moments) {
          if (moment === "forget" || ((moment[0] as bigint) & 1n) === 0n) continue
          expect([meaning(STE_KIND, from), meaning(STE_KIND, to)]).toContain(meaning(STE_KIND, moment))
        }
        expect(readEntry(memory, AT)).toEqual(to)
      }),
      { seed: 3, numRuns: 300 },
    )
  })

  it("puts the old words back when the hardware fails at any point", () => {
    for (const { kind, from, to } of cases) {
      for (let failing = 0; failing < 4; failing++) {
        const { memory, moments } = watched(from)
        let calls = 0
        const forget = (): void => {
          if (calls++ >= failing) throw new Error("hardware")
        }
        try {
          updateEntry(memory, AT, to, kind, forget)
        } catch {
          expect(hex(readEntry(memory, AT))).toEqual(hex(from))
        }
        expect(moments.length).toBeLessThan(64)
      }
    }
  })
})

/** Memory that holds an entry, and the states it goes through, one for each 64-bit write. */
function watched(from: Entry): { memory: PhysicalMemory; moments: ("forget" | Entry)[] } {
  const memory = createMemory([{ base: AT, size: 4096 }])
  from.forEach((word, i) => {
    memory.write64(AT + BigInt(i * 8), word)
  })
  const moments: ("forget" | Entry)[] = []
  const write = memory.write64.bind(memory)
  memory.write64 = (address, value) => {
    write(address, value)
    moments.push(readEntry(memory, AT))
  }
  return { memory, moments }
}
