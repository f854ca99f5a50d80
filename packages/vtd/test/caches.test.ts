/**
 * What the unit keeps of tables, beyond the scopes of invalidations (model-caching.ts): registers of legacy mode,
 * caching mode, accessed and dirty flags, and that caches change no answer while tables stay.
 */
import {
  ACCESS_EXEC,
  ACCESS_PRIV,
  ACCESS_READ,
  ACCESS_WRITE,
  type CachePolicy,
  NO_PASID,
  type WalkStep,
} from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import type { VtdCapabilities } from "../src/index.ts"
import { capabilities } from "./driver-machine.ts"
import {
  CONTEXT,
  DIRECTORY,
  GCMD,
  GUEST_OFFSET,
  PASID_TABLE,
  RTADDR,
  SCALABLE,
  SRTP,
  TE,
  Unit,
} from "./unit.ts"

const SECOND = 0x20_0000n
const FIRST = 0x30_0000n
const QUEUE = 0x9000n
const IQT = 0x88
const IQA = 0x90
const CCMD = 0x28
/** ECAP.IRO of the full preset, times 16; IOTLB follows IVA. */
const IVA = 0xf0
const IOTLB = 0xf8
const QIE = 1 << 26
const RW = ACCESS_READ | ACCESS_WRITE

const hoard = (given?: VtdCapabilities): Unit => new Unit(given, 52, "hoard")
const CACHING_MODE = capabilities({ cap: { CM: 1n } })

/** §9.6: PGTT, AW 2 or 3, domain 5. */
const secondEntry = (flags = 0n): bigint[] => [
  SECOND | (2n << 2n) | (2n << 6n) | flags | 1n,
  5n | (1n << 23n),
]
const firstEntry = (flags = 0n): bigint[] => [(1n << 6n) | 1n, 5n | (1n << 23n), FIRST | flags]
const nestedEntry = (flags = 0n): bigint[] => [
  SECOND | (2n << 2n) | (3n << 6n) | flags | 1n,
  5n | (1n << 23n),
  FIRST,
]

/** Queues one descriptor of 256 bits, in scalable mode. */
function queue(unit: Unit, ...words: bigint[]): void {
  const { mmio } = unit.model
  if (mmio.read64(IQA) === 0n) {
    mmio.write64(IQA, QUEUE | 0x800n)
    mmio.write32(GCMD, (QIE | TE) >>> 0)
  }
  const tail = mmio.read64(IQT)
  unit.put(QUEUE + tail, ...[0, 1, 2, 3].map(i => words[i] ?? 0n))
  mmio.write64(IQT, (tail + 32n) % 4096n)
}

const at = (unit: Unit, iova: bigint, access = ACCESS_READ, pasid = NO_PASID): bigint | null => {
  const outcome = unit.dma(iova, access, pasid)
  return outcome.ok ? outcome.pa : null
}

/** Legacy mode: context entries of 00:00.0 to 00:00.7 in domain 5, or 6 for function 7; page 0x1000 is mapped. */
function legacyUnit(given?: VtdCapabilities): { unit: Unit; leaf: bigint } {
  const unit = hoard(given)
  const leaf = unit.mapSecond(SECOND, 4, 0x1000n, 0x5_5000n | 3n).at(-1) as bigint
  unit.legacy(SECOND | 1n, 2n | (5n << 8n))
  for (let devfn = 1n; devfn < 8n; devfn++) {
    unit.put(CONTEXT + devfn * 16n, SECOND | 1n, 2n | ((devfn === 7n ? 6n : 5n) << 8n))
  }
  return { unit, leaf }
}

/** CCMD with ICC. §11.4.6.1. */
const ccmd = (unit: Unit, granularity: bigint, domain: bigint, source = 0n, mask = 0n): void =>
  unit.model.mmio.write64(CCMD, (1n << 63n) | (granularity << 61n) | (mask << 32n) | (source << 16n) | domain)
/** IVA, then IOTLB with IVT. §11.4.6.3. */
const iotlb = (unit: Unit, granularity: bigint, domain: bigint, address = 0n): void => {
  unit.model.mmio.write64(IVA, address)
  unit.model.mmio.write64(IOTLB, (1n << 63n) | (granularity << 60n) | (domain << 32n))
}

describe("register-based invalidation in legacy mode, §6.5.1", () => {
  /** Which of the functions 0 to 7 still have their old context entry after a command. */
  function kept(command: (unit: Unit) => void): number[] {
    const { unit } = legacyUnit()
    const functions = [0, 1, 2, 3, 4, 5, 6, 7]
    for (const device of functions) expect(unit.code(0x1000n, ACCESS_READ, NO_PASID, device)).toBe(0)
    for (const device of functions) unit.put(CONTEXT + BigInt(device) * 16n, 0n)
    command(unit)
    return functions.filter(device => unit.code(0x1000n, ACCESS_READ, NO_PASID, device) === 0)
  }

  it("context entries: global, of a domain, of a device", () => {
    expect(kept(() => {})).toHaveLength(8)
    expect(kept(unit => ccmd(unit, 1n, 0n))).toEqual([])
    expect(kept(unit => ccmd(unit, 2n, 5n))).toEqual([7])
    expect(kept(unit => ccmd(unit, 2n, 6n))).toHaveLength(7)
    expect(kept(unit => ccmd(unit, 3n, 5n, 2n))).toEqual([0, 1, 3, 4, 5, 6, 7])
    // The domain-id has to be the entry's.
    expect(kept(unit => ccmd(unit, 3n, 6n, 2n))).toHaveLength(8)
    expect(kept(unit => ccmd(unit, 3n, 5n, 2n, 1n))).toEqual([0, 1, 3, 4, 5, 7])
    expect(kept(unit => ccmd(unit, 3n, 5n, 1n, 2n))).toEqual([0, 2, 4, 6, 7])
    expect(kept(unit => ccmd(unit, 3n, 5n, 0n, 3n))).toEqual([7])
    expect(kept(unit => iotlb(unit, 1n, 0n))).toHaveLength(8)
  })

  it("translations: global, of a domain, of pages", () => {
    const goes = (command: (unit: Unit) => void, given?: VtdCapabilities): boolean => {
      const { unit, leaf } = legacyUnit(given)
      expect(at(unit, 0x1000n)).toBe(0x5_5000n)
      unit.put(leaf, 0x6_6000n | 3n)
      command(unit)
      return at(unit, 0x1000n) === 0x6_6000n
    }
    expect(goes(() => {})).toBe(false)
    expect(goes(unit => iotlb(unit, 1n, 0n))).toBe(true)
    expect(goes(unit => iotlb(unit, 2n, 5n))).toBe(true)
    expect(goes(unit => iotlb(unit, 2n, 6n))).toBe(false)
    expect(goes(unit => iotlb(unit, 3n, 5n, 0x1000n))).toBe(true)
    expect(goes(unit => iotlb(unit, 3n, 5n, 0x2000n))).toBe(false)
    expect(goes(unit => iotlb(unit, 3n, 5n, 0x2n | 0x40n))).toBe(true)
    expect(goes(unit => iotlb(unit, 3n, 6n, 0x1000n))).toBe(false)
    expect(goes(unit => ccmd(unit, 1n, 0n))).toBe(false)
    // Without CAP.PSI, pages are done as their domain.
    expect(goes(unit => iotlb(unit, 3n, 5n, 0x2000n), capabilities({ cap: { PSI: 0n } }))).toBe(true)
  })

  it("is not served while the queue runs", () => {
    const { unit, leaf } = legacyUnit()
    expect(at(unit, 0x1000n)).toBe(0x5_5000n)
    unit.put(leaf, 0n)
    unit.model.mmio.write32(GCMD, (QIE | TE) >>> 0)
    iotlb(unit, 1n, 0n)
    ccmd(unit, 1n, 0n)
    expect(at(unit, 0x1000n)).toBe(0x5_5000n)
  })
})

describe("root pointer and restored state", () => {
  it("CAP.ESRTPS decides whether SRTP drops anything, §6.6", () => {
    for (const [ESRTPS, after] of [
      [0n, 0x5_5000n],
      [1n, null],
    ] as const) {
      const { unit } = legacyUnit(capabilities({ cap: { ESRTPS } }))
      expect(at(unit, 0x1000n)).toBe(0x5_5000n)
      unit.model.mmio.write64(RTADDR, 0xa000n)
      expect(at(unit, 0x1000n)).toBe(0x5_5000n)
      unit.model.mmio.write32(GCMD, (SRTP | TE) >>> 0)
      expect(at(unit, 0x1000n)).toBe(after)
    }
  })

  it("context entries of legacy mode are none of scalable mode", () => {
    const { unit } = legacyUnit(capabilities({ cap: { ESRTPS: 0n } }))
    expect(at(unit, 0x1000n)).toBe(0x5_5000n)
    unit.model.mmio.write64(RTADDR, 0xa000n | SCALABLE)
    unit.model.mmio.write32(GCMD, (SRTP | TE) >>> 0)
    expect(unit.dma(0x1000n)).toMatchObject({ ok: false, fault: { reason: "SRT.2" } })
  })

  it("restored registers begin with nothing cached", () => {
    const { unit, leaf } = legacyUnit()
    expect(at(unit, 0x1000n)).toBe(0x5_5000n)
    unit.put(leaf, 0x6_6000n | 3n)
    unit.model.restoreRegisters({})
    expect(at(unit, 0x1000n)).toBe(0x6_6000n)
  })

  it("a trace shows what is read and changes no answer", () => {
    const { unit, leaf } = legacyUnit()
    const neighbour = leaf + 8n
    unit.put(neighbour, 0x7_7000n | 3n)
    const steps: WalkStep[] = []
    unit.model.trace = step => steps.push(step)
    expect(at(unit, 0x1000n)).toBe(0x5_5000n)
    expect(steps.splice(0)).toHaveLength(6)
    unit.put(leaf, 0x6_6000n | 3n)
    expect(at(unit, 0x1000n)).toBe(0x5_5000n)
    expect(steps).toEqual([])
    // The paging-structure cache knows the leaf's table.
    expect(at(unit, 0x2000n)).toBe(0x7_7000n)
    expect(steps.map(({ what }) => what)).toEqual(["SS-PTE"])
    unit.model.trace = null
    expect(at(unit, 0x1000n)).toBe(0x5_5000n)
  })

  it("a trace of nested requests as well", () => {
    const { unit, seconds } = nestedUnit(hoard())
    const steps: WalkStep[] = []
    expect(at(unit, 0x1000n)).toBe(0x5_5000n)
    unit.model.trace = step => steps.push(step)
    unit.put(seconds.at(-1) as bigint, 0n)
    expect(at(unit, 0x1000n)).toBe(0x5_5000n)
    expect(steps).toEqual([])
  })
})

describe("caching mode, §6.1", () => {
  it("context entries: not present under domain-id 0, root entries included", () => {
    const unit = hoard(CACHING_MODE)
    unit.mapSecond(SECOND, 4, 0x1000n, 0x5_5000n | 3n)
    unit.enable(0x1000n)
    expect(unit.code(0x1000n)).toBe(1)
    unit.legacy(SECOND | 1n, 2n | (5n << 8n))
    expect(unit.code(0x1000n)).toBe(0)
    // ESRTPS dropped it; once more, with a context entry.
    unit.put(CONTEXT + 16n, 0n)
    expect(unit.code(0x1000n, ACCESS_READ, NO_PASID, 1)).toBe(2)
    unit.put(CONTEXT + 16n, SECOND | 1n, 2n | (5n << 8n))
    expect(unit.code(0x1000n, ACCESS_READ, NO_PASID, 1)).toBe(2)
    ccmd(unit, 3n, 5n, 1n)
    expect(unit.code(0x1000n, ACCESS_READ, NO_PASID, 1)).toBe(2)
    ccmd(unit, 3n, 0n, 1n)
    expect(unit.code(0x1000n, ACCESS_READ, NO_PASID, 1)).toBe(0)
  })

  it("PASID table entries: not present and wrong under domain-id 0", () => {
    const unit = hoard(CACHING_MODE)
    unit.mapSecond(SECOND, 4, 0x1000n, 0x5_5000n | 3n)
    unit.scalable(...secondEntry().map((word, i) => (i === 0 ? word & ~1n : word)))
    const reason = (): string | null => {
      const outcome = unit.dma(0x1000n)
      return outcome.ok ? null : outcome.fault.reason
    }
    expect(reason()).toBe("SPT.2")
    unit.put(PASID_TABLE, ...secondEntry())
    expect(reason()).toBe("SPT.2")
    queue(unit, 7n | (1n << 4n) | (5n << 16n))
    expect(reason()).toBe("SPT.2")
    queue(unit, 7n | (1n << 4n))
    expect(reason()).toBeNull()
  })

  it("second-stage pages under their domain-id, also below a first stage; first-stage entries never", () => {
    const unit = hoard(CACHING_MODE)
    const leaf = unit.mapSecond(SECOND, 4, 0x1000n, 0n).at(-1) as bigint
    unit.scalable(...secondEntry())
    expect(at(unit, 0x1000n)).toBeNull()
    unit.put(leaf, 0x5_5000n | 3n)
    expect(at(unit, 0x1000n)).toBeNull()
    queue(unit, 2n | (3n << 4n) | (5n << 16n), 0x2000n)
    expect(at(unit, 0x1000n)).toBeNull()
    queue(unit, 2n | (3n << 4n) | (5n << 16n), 0x1000n)
    expect(at(unit, 0x1000n)).toBe(0x5_5000n)

    const nested = nestedUnit(hoard(CACHING_MODE))
    nested.put(nested.page2, 0n)
    expect(at(nested.unit, 0x1000n)).toBeNull()
    nested.put(nested.page2, 0x5_5000n | 3n)
    expect(at(nested.unit, 0x1000n)).toBeNull()
    queue(nested.unit, 2n | (2n << 4n) | (5n << 16n))
    expect(at(nested.unit, 0x1000n)).toBe(0x5_5000n)

    const first = hoard(CACHING_MODE)
    const entry = first.mapFirst(FIRST, 4, 0x1000n, 0n).at(-1) as bigint
    first.scalable(...firstEntry())
    expect(at(first, 0x1000n)).toBeNull()
    first.put(entry, 0x5_5000n | 0x27n)
    expect(at(first, 0x1000n)).toBe(0x5_5000n)
  })

  it("keeps nothing of it under none", () => {
    const unit = new Unit(CACHING_MODE)
    unit.scalable(0n)
    expect(unit.code(0x1000n)).not.toBe(0)
    unit.mapSecond(SECOND, 4, 0x1000n, 0x5_5000n | 3n)
    unit.put(PASID_TABLE, ...secondEntry())
    expect(at(unit, 0x1000n)).toBe(0x5_5000n)
  })
})

/** First stage over second stage: guest addresses below 8 MiB lie 8 MiB up, but page 0x1000 goes to `page2`'s page. */
function nestedUnit(unit: Unit, flags = 0n) {
  const guestPage = 0x60_0000n
  const firsts = unit.mapGuest(FIRST, 4, 0x1000n, guestPage | 0x27n)
  for (let guest = 0n; guest < 0x80_0000n; guest += 0x1000n) {
    unit.mapSecond(SECOND, 4, guest, (guest + GUEST_OFFSET) | 3n)
  }
  const seconds = unit.mapSecond(SECOND, 4, guestPage, 0x5_5000n | 3n)
  unit.scalable(...nestedEntry(flags))
  const put = (address: bigint, value: bigint): void => unit.put(address, value)
  return { unit, firsts, seconds, page2: seconds.at(-1) as bigint, put }
}

describe("accessed and dirty flags with cached translations, §3.6.2, §3.7.2", () => {
  it("a first write through what a read brought in sets D", () => {
    for (const levels of [4, 5]) {
      const unit = hoard()
      const leaf = unit.mapFirst(FIRST, levels, 0x1000n, 0x5_5000n | 0x27n).at(-1) as bigint
      unit.scalable(...firstEntry(levels === 5 ? 4n : 0n))
      expect(at(unit, 0x1000n)).toBe(0x5_5000n)
      expect(unit.get(leaf)).toBe(0x5_5000n | 0x27n)
      expect(at(unit, 0x1000n, ACCESS_WRITE)).toBe(0x5_5000n)
      expect(unit.get(leaf)).toBe(0x5_5000n | 0x67n)
      // From now on it is known: hardware does not look again.
      unit.put(leaf, 0x5_5000n | 0x27n)
      expect(at(unit, 0x1000n, RW)).toBe(0x5_5000n)
      expect(unit.get(leaf)).toBe(0x5_5000n | 0x27n)
    }
  })

  it("a second stage with SSADE, and one without", () => {
    const unit = hoard()
    const leaf = unit.mapSecond(SECOND, 4, 0x1000n, 0x5_5000n | 3n).at(-1) as bigint
    unit.scalable(...secondEntry(1n << 9n))
    expect(at(unit, 0x1000n)).toBe(0x5_5000n)
    expect(unit.get(leaf)).toBe(0x5_5000n | 0x103n)
    expect(at(unit, 0x1000n, ACCESS_WRITE)).toBe(0x5_5000n)
    expect(unit.get(leaf)).toBe(0x5_5000n | 0x303n)

    const plain = hoard()
    const entry = plain.mapSecond(SECOND, 4, 0x1000n, 0x5_5000n | 3n).at(-1) as bigint
    plain.scalable(...secondEntry())
    expect(at(plain, 0x1000n)).toBe(0x5_5000n)
    plain.put(entry, 0n)
    expect(at(plain, 0x1000n, ACCESS_WRITE)).toBe(0x5_5000n)
  })

  it("A of a table that was cached without SSADE, under the same domain-id", () => {
    const unit = hoard()
    const tables = unit.mapSecond(SECOND, 4, 0x1000n, 0x5_5000n | 3n).slice(0, -1)
    const other = unit.mapSecond(SECOND, 4, 0x2000n, 0x6_6000n | 3n).at(-1) as bigint
    unit.scalable(...secondEntry())
    unit.set(CONTEXT, 1n << 3n)
    unit.put(PASID_TABLE + 64n, ...secondEntry(1n << 9n))
    expect(at(unit, 0x1000n)).toBe(0x5_5000n)
    for (const table of tables) expect(unit.get(table) & 0x100n).toBe(0n)
    expect(at(unit, 0x2000n, ACCESS_READ, 1)).toBe(0x6_6000n)
    for (const entry of [...tables, other]) expect(unit.get(entry) & 0x100n).toBe(0x100n)
  })

  it("nested: D of both leaves, and D of the second-stage leaf that the first-stage entry lies in", () => {
    const { unit, firsts, seconds } = nestedUnit(hoard(), 1n << 9n)
    expect(at(unit, 0x1000n)).toBe(0x5_5000n)
    const leaf = firsts.at(-1) as bigint
    const tablePage = unit
      .mapSecond(SECOND, 4, (leaf & ~0xfffn) - GUEST_OFFSET, (leaf & ~0xfffn) | 0x103n)
      .at(-1)
    expect(at(unit, 0x1000n, ACCESS_WRITE)).toBe(0x5_5000n)
    expect(unit.get(leaf) & 0x60n).toBe(0x60n)
    expect(unit.get(seconds.at(-1) as bigint) & 0x300n).toBe(0x300n)
    expect(unit.get(tablePage as bigint) & 0x300n).toBe(0x300n)
  })

  it("EA of entries that were cached without EAFE", () => {
    const unit = hoard()
    const entries = unit.mapFirst(FIRST, 4, 0x1000n, 0x5_5000n | 0x27n)
    unit.scalable(...firstEntry())
    expect(at(unit, 0x1000n)).toBe(0x5_5000n)
    unit.put(PASID_TABLE, ...firstEntry(1n << 7n))
    queue(unit, 7n | (3n << 4n))
    expect(at(unit, 0x1000n)).toBe(0x5_5000n)
    for (const entry of entries) expect(unit.get(entry) & 0x420n).toBe(0x420n)
  })
})

describe("what a cached translation does not grant goes to the tables", () => {
  const unit = hoard(capabilities({ ecap: { ERS: 1n } }))
  // PASID 1: R/W clear; page 0x2000 supervisor only, 0x3000 not to be executed. SRE is 1.
  unit.mapFirst(FIRST, 4, 0x1000n, 0x5_1000n | 0x25n)
  unit.mapFirst(FIRST, 4, 0x2000n, 0x5_2000n | 0x63n)
  unit.mapFirst(FIRST, 4, 0x3000n, 0x5_3000n | 0x67n | (1n << 63n))
  unit.scalable(...firstEntry())
  unit.put(CONTEXT, DIRECTORY | 9n)
  unit.put(PASID_TABLE + 64n, ...firstEntry(1n))

  it.each([
    [0x1000n, ACCESS_READ, null],
    [0x1000n, ACCESS_WRITE, "SGN.6"],
    [0x1000n, ACCESS_WRITE | ACCESS_PRIV, null],
    [0x1000n, ACCESS_READ | ACCESS_EXEC, null],
    [0x2000n, ACCESS_READ | ACCESS_PRIV, null],
    [0x2000n, ACCESS_READ, "SGN.2"],
    [0x3000n, ACCESS_READ, null],
    [0x3000n, ACCESS_READ | ACCESS_EXEC, "SGN.3"],
    [0x3000n, ACCESS_WRITE, null],
  ])("%d with access %d: %s", (iova, access, reason) => {
    for (let n = 0; n < 3; n++) {
      const outcome = unit.dma(iova, access, 1)
      expect(outcome.ok ? null : outcome.fault.reason).toBe(reason)
    }
  })

  it("a cached page of 1 GiB still refuses the interrupt range, LGN.4", () => {
    const legacy = hoard()
    legacy.mapSecond(SECOND, 4, 0x4000_0000n, 0xc000_0000n | 0x83n, 3)
    legacy.legacy(SECOND | 1n, 2n | (5n << 8n))
    expect(at(legacy, 0x4123_4567n)).toBe(0xc123_4567n)
    expect(at(legacy, 0x7ee0_0000n)).toBeNull()
    expect(legacy.code(0x7ee0_0000n)).toBe(0xe)
  })
})

describe("FPD of a PASID table entry, §7.1.1", () => {
  it("keeps faults out of the log from the PASID-cache as well", () => {
    const unit = hoard()
    unit.scalable(...secondEntry(2n))
    unit.set(CONTEXT, 1n << 3n)
    unit.put(PASID_TABLE + 64n, ...secondEntry())
    for (const [pasid, isRecorded] of [
      [NO_PASID, false],
      [1, true],
      [NO_PASID, false],
    ] as const) {
      const outcome = unit.dma(0x1000n, ACCESS_READ, pasid)
      expect(outcome.ok || outcome.fault.record !== null).toBe(isRecorded)
    }
  })
})

describe("the policies", () => {
  it("a hoard keeps thousands of pages and exact the newest, and neither gives a wrong answer", () => {
    for (const policy of ["hoard", "exact"] as const) {
      const unit = new Unit(undefined, 52, policy)
      const leaves: bigint[] = []
      for (let page = 0n; page < 3000n; page++) {
        const used = unit.mapSecond(SECOND, 4, page << 12n, ((page + 0x100n) << 12n) | 3n)
        leaves.push(used.at(-1) as bigint)
      }
      unit.scalable(...secondEntry())
      for (let page = 0n; page < 3000n; page++) expect(at(unit, page << 12n)).toBe((page + 0x100n) << 12n)
      for (const leaf of leaves) unit.put(leaf, 0n)
      let kept = 0
      for (let page = 0n; page < 3000n; page++) if (at(unit, page << 12n) !== null) kept++
      if (policy === "hoard") expect(kept).toBe(3000)
      else expect(kept).toBeGreaterThan(500)
      if (policy === "exact") expect(kept).toBeLessThanOrEqual(1024)
    }
  })

  it("with caches for walks alone, tables are passed over, and what the request is about is read", () => {
    const walks = new Unit(undefined, 52, { structures: "none", walks: "hoard", translations: "none" })
    const { unit, firsts, page2 } = nestedUnit(walks)
    expect(at(unit, 0x1000n)).toBe(0x5_5000n)
    // The entries above, the page that the table is in, and the page that the leaf names are known.
    for (const entry of firsts.slice(0, -1)) unit.put(entry, 0n)
    unit.put(page2, 0n)
    expect(at(unit, 0x1000n)).toBe(0x5_5000n)
    unit.put(firsts.at(-1) as bigint, 0x1_1000n | 0x27n)
    expect(at(unit, 0x1000n)).toBe(0x1_1000n + GUEST_OFFSET)
    // All of a PASID: its tables go, and pages of the second stage stay.
    unit.put(firsts.at(-1) as bigint, 0x60_0000n | 0x27n)
    queue(unit, 6n | (2n << 4n) | (5n << 16n))
    expect(at(unit, 0x1000n)).toBeNull()
  })

  it("in memory that others hold, cached tables are looked for anew", () => {
    const walks = new Unit(undefined, 52, { structures: "none", walks: "hoard", translations: "none" })
    Object.defineProperty(walks.memory, "isVolatile", { value: true })
    const { unit, firsts } = nestedUnit(walks)
    expect(at(unit, 0x1000n)).toBe(0x5_5000n)
    for (const entry of firsts.slice(0, -1)) unit.put(entry, 0n)
    unit.put(firsts.at(-1) as bigint, 0x1_1000n | 0x27n)
    expect(at(unit, 0x1000n)).toBe(0x1_1000n + GUEST_OFFSET)
  })

  it("with caches for translations alone, walks read all tables", () => {
    const answers = new Unit(undefined, 52, { structures: "none", walks: "none", translations: "hoard" })
    const { unit, firsts } = nestedUnit(answers)
    unit.mapGuest(FIRST, 4, 0x2000n, 0x1_1000n | 0x27n)
    expect(at(unit, 0x1000n)).toBe(0x5_5000n)
    unit.put(firsts[2] as bigint, 0n)
    expect(at(unit, 0x1000n)).toBe(0x5_5000n)
    expect(at(unit, 0x2000n)).toBeNull()
  })

  it("while tables stay, cached answers are those of the tables", () => {
    const sizes = fc.constantFrom(1, 2, 3)
    const pages = fc.array(fc.tuple(fc.nat(7), sizes, fc.constantFrom(0x23n, 0x25n, 0x27n)), {
      maxLength: 12,
    })
    const requests = fc.array(
      fc.tuple(fc.nat(7), sizes, fc.bigInt(0n, 0x3fff_ffffn), fc.constantFrom(1, 2, 3, 9, 10)),
      { maxLength: 60 },
    )
    const kind = fc.constantFrom("first", "second", "nested")
    fc.assert(
      fc.property(kind, pages, requests, (mode, mapped, asked) => {
        const answers = (["none", "exact", "hoard"] as const).map(policy => play(policy, mode, mapped, asked))
        expect(answers[1]).toEqual(answers[0])
        expect(answers[2]).toEqual(answers[0])
      }),
      { seed: 11, numRuns: 60 },
    )
  })
})

type Mapped = readonly (readonly [number, number, bigint])[]
type Asked = readonly (readonly [number, number, bigint, number])[]

/** A page of each size at its own place: n of level 1 at n pages, of level 2 at (n + 1) * 2 MiB, of 3 at (n + 1) GiB. */
function place(n: number, level: number): bigint {
  return level === 1 ? BigInt(n) << 12n : BigInt(n + 8 * level) << BigInt(12 + 9 * (level - 1))
}

function play(policy: CachePolicy, mode: string, mapped: Mapped, asked: Asked): unknown[] {
  const unit = new Unit(undefined, 52, policy)
  if (mode === "nested") {
    for (let guest = 0n; guest < 0x80_0000n; guest += 0x20_0000n) {
      unit.mapSecond(SECOND, 4, guest, (guest + GUEST_OFFSET) | 0x83n, 2)
    }
  }
  const done = new Set<bigint>()
  for (const [n, level, flags] of mapped) {
    const iova = place(n, level)
    if (done.has(iova)) continue
    done.add(iova)
    const large = level > 1 ? 0x80n : 0n
    if (mode === "second") unit.mapSecond(SECOND, 4, iova, iova | (flags & 3n) | large, level)
    else if (mode === "first") unit.mapFirst(FIRST, 4, iova, iova | flags | large, level)
    else if (level === 1) unit.mapGuest(FIRST, 4, iova, (0x40_0000n + iova) | flags)
  }
  const entry = mode === "second" ? secondEntry() : mode === "first" ? firstEntry() : nestedEntry()
  unit.scalable(...entry)
  return asked.map(([n, level, offset, access]) => {
    const mask = (1n << BigInt(12 + 9 * (level - 1))) - 1n
    const outcome = unit.dma(place(n, level) + (offset & mask), access)
    return outcome.ok
      ? { ...outcome }
      : { reason: outcome.fault.reason, stage: outcome.fault.stage, record: outcome.fault.record }
  })
}
