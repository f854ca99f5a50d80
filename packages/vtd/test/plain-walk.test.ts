/** What plain walks answer is what the walks that follow the book step by step answer, whatever bit of a table is wrong. */
import { ACCESS_READ, ACCESS_WRITE, backedMemory, hi32, lo32, NO_PASID, PhysicalMemory } from "@iommu/core"
import { afterEach, describe, expect, it, vi } from "vitest"
import { vtdModel } from "../src/model/device.ts"
import { EVERYTHING } from "../src/model/options.ts"
import { CONTEXT, GCMD, GUEST_OFFSET, PASID_TABLE, ROOT, RTADDR, SCALABLE, SRTP, TE, Unit } from "./unit.ts"

const NO_IOTLB = { structures: "exact", walks: "none", translations: "none" } as const
const READ_WRITE = ACCESS_READ | ACCESS_WRITE
const PAGE = 0x7f_5000n
const FS_ROOT = 0x5000n
const FIRST = 1n << 6n
const SECOND = 2n << 6n
const NESTED = 3n << 6n
const SSADE = 1n << 9n
const PWSNP = 1n << 23n
/** Leaves choose attributes: EMTE, and a PAT of different types. §9.6. */
const WORD1 = 5n | PWSNP | (1n << 26n) | (0x0007_0406n << 32n)
/** Upper address bits are reserved. */
const HOST_WIDTH = 40
/** §11.4.3 SC. */
const NO_SNOOP_CONTROL = { ...EVERYTHING, ecap: EVERYTHING.ecap & ~(1n << 7n) }
/** Of word 2 of a PASID table entry. §9.6. */
const SRE = 1n << 0n
const FIVE_LEVELS = 1n << 2n
const WPE = 1n << 4n
const EAFE = 1n << 7n

/** Address in the lower half of what that many levels translate. */
function iovaOf(levels: number): bigint {
  return 0x56_1234_5678_9000n & ((1n << BigInt(11 + 9 * levels)) - 1n)
}

interface Tables {
  readonly unit: Unit
  readonly iova: bigint
  /** Where the entries are that a translation reads. */
  readonly entries: readonly bigint[]
  /** Root and levels of the second stage below a first one. */
  readonly host?: readonly [bigint, number]
}

type Build = (caches: "none" | typeof NO_IOTLB) => Tables

function first(levels: number, word2 = 0n, capabilities = EVERYTHING): Build {
  return caches => {
    const unit = new Unit(capabilities, HOST_WIDTH, caches)
    const root = unit.page()
    const iova = iovaOf(levels)
    const entries = unit.mapFirst(root, levels, iova, PAGE | 0x67n)
    if ((word2 & EAFE) !== 0n) for (const entry of entries) unit.set(entry, 1n << 10n)
    unit.scalable(1n | FIRST, WORD1, root | word2 | (levels === 5 ? FIVE_LEVELS : 0n))
    return { unit, iova, entries }
  }
}

/** Requests without PASID are privileged: RID_PRIV. §9.4. */
function privileged(build: Build): Build {
  return caches => {
    const tables = build(caches)
    tables.unit.put(CONTEXT + 8n, 1n << 20n)
    return tables
  }
}

function second(levels: number, word0 = 0n, capabilities = EVERYTHING): Build {
  return caches => {
    const unit = new Unit(capabilities, HOST_WIDTH, caches)
    const root = unit.page()
    const iova = iovaOf(levels)
    const entries = unit.mapSecond(root, levels, iova, PAGE | 3n)
    if (word0 !== 0n) for (const entry of entries) unit.set(entry, 1n << 8n)
    unit.scalable(root | 1n | (BigInt(levels - 2) << 2n) | SECOND | word0, WORD1)
    return { unit, iova, entries }
  }
}

/** Of two stages: in no table of the second is its entry the first. */
function guestPageOf(ssLevels: number): bigint {
  return ssLevels === 3 ? 0x4027_3000n : 0x80_4027_3000n
}

function nested(
  fsLevels: number,
  ssLevels: number,
  word0 = 0n,
  capabilities = EVERYTHING,
  word2 = 0n,
): Build {
  return caches => {
    const unit = new Unit(capabilities, HOST_WIDTH, caches)
    const root = unit.page()
    const iova = iovaOf(fsLevels)
    const guestPage = guestPageOf(ssLevels)
    const guest = unit.mapGuest(FS_ROOT, fsLevels, iova, guestPage | 0x67n)
    const entries = [...guest]
    for (const gpa of [...guest.map(entry => (entry - GUEST_OFFSET) & ~0xfffn), guestPage]) {
      entries.push(...unit.mapSecond(root, ssLevels, gpa, (gpa + GUEST_OFFSET) | 3n))
    }
    const host = [...new Set(entries.slice(guest.length))]
    if (word0 !== 0n) for (const entry of host) unit.set(entry, 1n << 8n)
    const aw = BigInt(ssLevels - 2) << 2n
    unit.scalable(
      root | 1n | aw | NESTED | word0,
      WORD1,
      FS_ROOT | word2 | (fsLevels === 5 ? FIVE_LEVELS : 0n),
    )
    return { unit, iova, entries: [...guest, ...host], host: [root, ssLevels] }
  }
}

const MACHINES: readonly (readonly [string, Build])[] = [
  ["a first stage of 4 levels", first(4)],
  ["a first stage of 5 levels", first(5)],
  ["a first stage with extended accessed flags", first(4, EAFE)],
  ["a first stage of a supervisor", privileged(first(4, SRE))],
  ["a first stage of a supervisor that is write-protected", privileged(first(4, SRE | WPE))],
  ["two stages of a supervisor", privileged(nested(4, 4, 0n, EVERYTHING, SRE))],
  ["a second stage of 3 levels", second(3)],
  ["a second stage of 4 levels", second(4)],
  ["a second stage of 5 levels", second(5)],
  ["a second stage without snoop control", second(4, 0n, NO_SNOOP_CONTROL)],
  ["a second stage with A/D flags", second(4, SSADE)],
  ["two stages of 4 levels", nested(4, 4)],
  ["two stages of 5 levels", nested(5, 5)],
  ["two stages of 4 and 3 levels", nested(4, 3)],
  ["two stages without snoop control", nested(4, 4, 0n, NO_SNOOP_CONTROL)],
  ["two stages with A/D flags in the second", nested(4, 4, SSADE)],
]

/** R, W and all flags of both stages. */
const WILLING = 0x767n

/**
 * Makes what a walk would read in front of the memory, at the index that stands for none, lead on and on: an entry that
 * is in no memory must not be taken for it.
 */
function baited(tables: Tables): Tables {
  const { unit } = tables
  const bait = unit.page()
  for (let n = 0n; n < 512n; n++) unit.put(bait + n * 8n, bait | WILLING)
  if (tables.host !== undefined) unit.mapSecond(...tables.host, bait, bait | WILLING)
  for (let n = 1; n < 1024; n += 2) unit.memory.words[n] = Number(bait | WILLING)
  return tables
}

/** The way of the book alone. */
function traced(tables: Tables): Tables {
  tables.unit.model.trace = () => undefined
  return tables
}

/** What comes of each kind of access, the flags in the entries included, which are put back; as text, to compare fast. */
function outcomes({ unit, iova, entries }: Tables): string[] {
  return [ACCESS_READ, ACCESS_WRITE, READ_WRITE, 0].map(access => {
    const before = entries.map(entry => unit.get(entry))
    const outcome = [unit.dma(iova + 0xabcn, access), unit.model.result.attributes]
    const after = entries.map(entry => unit.get(entry))
    for (const [n, entry] of entries.entries()) unit.put(entry, before[n] as bigint)
    return JSON.stringify([outcome, after], (_key, value) => (typeof value === "bigint" ? `${value}` : value))
  })
}

/** Calls of {@link PhysicalMemory.find} by a request: a plain walk in the memory that was hit last needs none. */
function lookUps(request: () => unknown): number {
  const find = vi.spyOn(PhysicalMemory.prototype, "find")
  request()
  const { length } = find.mock.calls
  find.mockRestore()
  return length
}

afterEach(() => vi.restoreAllMocks())

describe.each(MACHINES)("a plain walk of %s", (_name, build) => {
  it.each([["none"], [NO_IOTLB]] as const)(
    "answers as the book with any bit of any entry flipped, caches %o",
    caches => {
      const plain = baited(build(caches))
      const complete = traced(baited(build(caches)))
      expect(outcomes(plain)).toEqual(outcomes(complete))
      for (const [n, entry] of plain.entries.entries()) {
        for (let bit = 0n; bit < 64n; bit++) {
          const value = plain.unit.get(entry)
          plain.unit.put(entry, value ^ (1n << bit))
          complete.unit.put(entry, value ^ (1n << bit))
          expect(outcomes(plain), `bit ${bit} of entry ${n}`).toEqual(outcomes(complete))
          plain.unit.put(entry, value)
          complete.unit.put(entry, value)
        }
      }
    },
  )

  it("answers as the book with any bit of the address flipped, and any access", () => {
    const plain = build(NO_IOTLB)
    const complete = traced(build(NO_IOTLB))
    expect(outcomes(plain)).toEqual(outcomes(complete))
    for (let bit = 0n; bit < 64n; bit++) {
      const iova = plain.iova ^ (1n << bit)
      expect(outcomes({ ...plain, iova }), `bit ${bit}`).toEqual(outcomes({ ...complete, iova }))
    }
    for (let access = 0; access < 16; access++) {
      expect(plain.unit.dma(plain.iova, access)).toEqual(complete.unit.dma(plain.iova, access))
    }
  })
})

describe("requests that go to a plain walk directly", () => {
  const FOUR_LEVELS = MACHINES.filter(([name]) => !name.includes("5 levels"))

  it.each(FOUR_LEVELS)("look up no memory: %s", (_name, build) => {
    const { unit, iova } = build(NO_IOTLB)
    const request = () => unit.model.translate(0, NO_PASID, hi32(iova), lo32(iova), ACCESS_READ)
    unit.dma(iova, ACCESS_WRITE)
    expect(lookUps(request)).toBe(0)
    unit.model.trace = () => undefined
    expect(lookUps(request)).toBeGreaterThan(0)
    unit.model.trace = null
    unit.dma(iova)
    expect(lookUps(request)).toBe(0)
  })

  it("are those of the device and the PASID whose entries are known", () => {
    const { unit, iova } = second(4)(NO_IOTLB)
    expect(unit.code(iova)).toBe(0)
    expect(unit.code(iova, ACCESS_READ, NO_PASID, 8)).not.toBe(0)
    expect(unit.code(iova)).toBe(0)
    expect(unit.code(iova)).toBe(0)
    expect(unit.code(iova, ACCESS_READ, 3)).not.toBe(0)
    expect(unit.code(iova)).toBe(0)
  })

  it.each(["none", NO_IOTLB, "exact"] as const)("are never those of no device, caches %o", caches => {
    const { unit, iova } = second(4)(NO_IOTLB)
    const again = vtdModel({ memory: unit.memory, caches })
    again.mmio.write64(RTADDR, ROOT | SCALABLE)
    again.mmio.write32(GCMD, SRTP)
    again.mmio.write32(GCMD, TE)
    const ask = (device: number, pasid: number): number =>
      again.translate(device, pasid, hi32(iova), lo32(iova), ACCESS_READ)
    expect(ask(-1, NO_PASID)).not.toBe(0)
    expect([ask(0, NO_PASID), ask(0, NO_PASID)]).toEqual([0, 0])
    again.mmio.write32(GCMD, 0)
    again.mmio.write32(GCMD, TE)
    for (const pasid of [NO_PASID, NO_PASID - 1, 0]) expect(ask(-1, pasid)).not.toBe(0)
  })

  it("show a trace its steps", () => {
    const { unit, iova } = second(4)(NO_IOTLB)
    expect(unit.code(iova)).toBe(0)
    const steps: string[] = []
    unit.model.trace = step => steps.push(step.what)
    expect(unit.code(iova)).toBe(0)
    expect(steps.length).toBe(4)
  })

  it("pass untranslated while remapping is off", () => {
    const { unit, iova } = second(4)(NO_IOTLB)
    expect(unit.dma(iova)).toMatchObject({ ok: true, pa: PAGE })
    unit.model.mmio.write32(GCMD, 0)
    expect(unit.dma(iova)).toMatchObject({ ok: true, pa: iova })
    unit.model.mmio.write32(GCMD, TE)
    expect(unit.dma(iova)).toMatchObject({ ok: true, pa: PAGE })
  })

  it.each([
    ["a first stage", 4, (unit: Unit, root: bigint) => unit.mapFirst(root, 4, 0xfee0_0000n, PAGE | 0x67n)],
    ["a second stage", 4, (unit: Unit, root: bigint) => unit.mapSecond(root, 4, 0xfee0_0000n, PAGE | 3n)],
  ])("are no interrupt messages, mapped or not: %s", (what, _levels, map) => {
    const unit = new Unit(EVERYTHING, 52, NO_IOTLB)
    const root = unit.page()
    map(unit, root)
    if (what === "a first stage") {
      unit.mapFirst(root, 4, 0x1000n, PAGE | 0x67n)
      unit.scalable(1n | FIRST, WORD1, root)
    } else {
      unit.mapSecond(root, 4, 0x1000n, PAGE | 3n)
      unit.scalable(root | 1n | (2n << 2n) | SECOND, 5n)
    }
    expect(unit.code(0x1000n)).toBe(0)
    expect(unit.dma(0xfee0_0000n, ACCESS_WRITE)).toMatchObject({ ok: true, pa: 0xfee0_0000n })
    expect(unit.code(0xfee0_0000n)).toBe(0x29)
  })

  it.each([
    ["a first stage", first(4), 0],
    ["a second stage", second(4), 0],
    ["two stages", nested(4, 4), -1],
  ])("do not come out as interrupt messages: %s", (_what, build) => {
    const { unit, iova, entries } = build(NO_IOTLB)
    expect(unit.code(iova)).toBe(0)
    const leaf = entries.at(-1) as bigint
    unit.put(leaf, (unit.get(leaf) & 0xfffn) | 0xfee0_0000n)
    expect(unit.code(iova)).toBe(0x87)
    unit.put(leaf, (unit.get(leaf) & 0xfffn) | 0x1_fee0_0000n)
    expect(unit.dma(iova)).toMatchObject({ ok: true, pa: 0x1_fee0_0000n })
  })

  it("meet reserved bits of a first stage that the second stage would translate: SFS.3", () => {
    const { unit, iova, entries } = nested(4, 4)(NO_IOTLB)
    expect(unit.code(iova)).toBe(0)
    const beyond = 1n << BigInt(HOST_WIDTH)
    unit.mapSecond(unit.get(PASID_TABLE) & ~0xfffn, 4, beyond, PAGE | 3n)
    const leaf = entries[3] as bigint
    unit.put(leaf, beyond | 0x67n)
    expect(unit.code(iova)).toBe(0x72)
  })

  it("follow the entry that an invalidation brings", () => {
    const { unit, iova } = second(4)(NO_IOTLB)
    expect(unit.dma(iova)).toMatchObject({ ok: true, pa: PAGE })
    const root = unit.page()
    unit.mapSecond(root, 4, iova, 0x70_0003n)
    unit.scalable(root | 1n | (2n << 2n) | SECOND, 5n)
    expect(unit.dma(iova)).toMatchObject({ ok: true, pa: 0x70_0000n })
  })

  it("keep no index into memory that others write", () => {
    const { unit, iova, entries } = second(4)(NO_IOTLB)
    const backing = {
      load: (offset: number, into: Uint8Array) => into.set(unit.memory.read(BigInt(offset), into.length)),
      store: (offset: number, bytes: Uint8Array) => unit.memory.write(BigInt(offset), bytes),
    }
    const memory = backedMemory(unit.memory.ranges, backing)
    const model = vtdModel({ memory, caches: NO_IOTLB })
    model.mmio.write64(RTADDR, ROOT | SCALABLE)
    model.mmio.write32(GCMD, SRTP)
    model.mmio.write32(GCMD, TE)
    const page = (): number => {
      memory.begin()
      const reason = model.translate(0, NO_PASID, hi32(iova), lo32(iova), ACCESS_READ)
      memory.end()
      return reason === 0 ? model.result.paLo : -1
    }
    expect([page(), page()]).toEqual([Number(PAGE), Number(PAGE)])
    unit.put(entries.at(-1) as bigint, 0x70_0003n)
    expect(page()).toBe(0x70_0000)
  })
})
