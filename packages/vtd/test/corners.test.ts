/** Places of the VT-d model that random cases and the suites seldom reach. */
import { createMemory, type PhysicalMemory } from "@iommu/core"
import { describe, expect, it } from "vitest"
import { type VtdModel, vtdModel } from "../src/index.ts"
import { EVERYTHING } from "../src/model/options.ts"
import {
  CONTEXT,
  CONTEXT_UPPER,
  DIRECTORY,
  GCMD,
  PASID_TABLE,
  ROOT,
  RTADDR,
  SCALABLE,
  SRTP,
  TE,
  Unit,
} from "./unit.ts"

const CCMD = 0x28
const FSTS = 0x34
const IQH = 0x80
const IQT = 0x88
const IQA = 0x90
const IQERCD = 0xb0
const PQA = 0xd0
const PRS = 0xdc
const PECTL = 0xe0
const QIE = 0x400_0000
const QUEUE = 0x10_0000n
/** §11.4.6.1: ICC, domain-selective. */
const CONTEXT_DOMAIN = (1n << 63n) | (2n << 61n)
/** §11.4.2 CM. */
const CACHING_MODE = { ...EVERYTHING, cap: EVERYTHING.cap | (1n << 7n) }
/** §11.4.2 PSI. */
const NO_PAGE_SELECTIVE = { ...EVERYTHING, cap: EVERYTHING.cap & ~(1n << 39n) }
/** §9.6: second stage of 4 levels. */
const SECOND_STAGE = (2n << 6n) | (2n << 2n) | 1n

function write64(memory: PhysicalMemory, address: bigint, ...words: readonly bigint[]): void {
  for (const [i, word] of words.entries()) memory.write64(address + BigInt(i) * 8n, word)
}

/** Queue of 128-bit descriptors in legacy mode, or of 256-bit ones. */
function startQueue({ mmio }: VtdModel, iqa: bigint): void {
  mmio.write64(IQA, iqa)
  mmio.write32(GCMD, QIE)
}

describe("fault processing disable, while the entry is cached", () => {
  it("in a context entry", () => {
    const unit = new Unit(EVERYTHING, 52, "hoard")
    const root = unit.page()
    unit.mapSecond(root, 4, 0x1000n, 0x70_0003n)
    unit.legacy(root | 3n, 2n | (5n << 8n))
    expect(unit.dma(0x1000n).ok).toBe(true)
    for (let n = 0; n < 2; n++) {
      const outcome = unit.dma(0x5000n)
      expect(outcome.ok ? null : [outcome.fault.reason, outcome.fault.record]).toEqual(["LGN.3", null])
    }
  })

  it("in a PASID table entry", () => {
    const unit = new Unit(EVERYTHING, 52, "hoard")
    const root = unit.page()
    unit.mapSecond(root, 4, 0x1000n, 0x70_0003n)
    unit.scalable(root | SECOND_STAGE | 2n, 5n)
    expect(unit.dma(0x1000n).ok).toBe(true)
    for (let n = 0; n < 2; n++) {
      const outcome = unit.dma(0x5000n)
      expect(outcome.ok ? null : outcome.fault.record).toBeNull()
    }
  })
})

describe("context-cache invalidation by domain in legacy mode, §11.4.6.1", () => {
  it("drops context entries of that domain alone", () => {
    const unit = new Unit(EVERYTHING, 52, "hoard")
    const [root, other] = [unit.page(), unit.page()]
    unit.mapSecond(root, 4, 0x1000n, 0x70_0003n)
    unit.mapSecond(other, 4, 0x1000n, 0x80_0003n)
    unit.legacy(root | 1n, 2n | (5n << 8n))
    expect(unit.dma(0x1000n)).toMatchObject({ pa: 0x70_0000n })
    unit.put(CONTEXT, other | 1n, 2n | (6n << 8n))
    unit.model.mmio.write64(CCMD, CONTEXT_DOMAIN | 7n)
    expect(unit.dma(0x1000n)).toMatchObject({ pa: 0x70_0000n })
    unit.model.mmio.write64(CCMD, CONTEXT_DOMAIN | 5n)
    expect(unit.dma(0x1000n)).toMatchObject({ pa: 0x80_0000n })
  })

  it("drops entries that are not present, kept in caching mode, by domain 0", () => {
    const unit = new Unit(CACHING_MODE, 52, "hoard")
    const root = unit.page()
    unit.mapSecond(root, 4, 0x1000n, 0x70_0003n)
    unit.legacy(0n, 0n)
    expect(unit.dma(0x1000n).ok).toBe(false)
    unit.put(CONTEXT, root | 1n, 2n | (5n << 8n))
    expect(unit.dma(0x1000n).ok).toBe(false)
    unit.model.mmio.write64(CCMD, CONTEXT_DOMAIN | 5n)
    expect(unit.dma(0x1000n).ok).toBe(false)
    unit.model.mmio.write64(CCMD, CONTEXT_DOMAIN)
    expect(unit.dma(0x1000n)).toMatchObject({ pa: 0x70_0000n })
  })
})

describe("invalidation queue", () => {
  it("may cross a multiple of 4 GiB", () => {
    const memory = createMemory([
      { base: 0, size: 0x1000 },
      { base: 0xffff_f000, size: 0x2000 },
    ])
    const model = vtdModel({ memory })
    startQueue(model, 0xffff_f000n | 1n)
    for (let n = 0n; n < 300n; n++)
      write64(memory, 0xffff_f000n + n * 16n, 5n | (1n << 5n) | (n << 32n), 0x100n)
    model.mmio.write64(IQT, 300n * 16n)
    expect(model.mmio.read64(IQH)).toBe(300n * 16n)
    expect(memory.read64(0x100n)).toBe(299n)
  })

  it("goes on behind a wait whose status has nowhere to go", () => {
    const unit = new Unit()
    startQueue(unit.model, QUEUE)
    unit.put(QUEUE, 5n | (1n << 5n), 0x4000_0000n, 5n | (1n << 5n) | (7n << 32n), 0x5000n)
    unit.model.mmio.write64(IQT, 0x20n)
    expect(unit.model.mmio.read64(IQH)).toBe(0x20n)
    expect(unit.get(0x5000n)).toBe(7n)
  })

  it("reports a device that does not answer a PASID-based invalidation, §6.5.2.11", () => {
    const unit = new Unit()
    unit.scalable(SECOND_STAGE, 5n)
    unit.model.connect(8, { invalidate: () => false, pageGroupResponse: () => {} })
    unit.model.mmio.write64(IQA, QUEUE | 0x800n)
    unit.model.mmio.write32(GCMD, (QIE | TE) >>> 0)
    unit.put(QUEUE, 8n | (8n << 16n) | (1n << 32n), 0n, 0n, 0n)
    unit.put(QUEUE + 32n, 5n | (1n << 5n) | (7n << 32n), 0x5000n, 0n, 0n)
    unit.model.mmio.write64(IQT, 0x40n)
    expect(unit.model.mmio.read32(FSTS) & 0x40).toBe(0x40)
    expect((unit.model.mmio.read64(IQERCD) >> 32n) & 0xffffn).toBe(8n)
    expect(unit.get(0x5000n)).toBe(0n)
  })

  it("does a domain where pages cannot be selected, §11.4.6.3 IAIG", () => {
    const unit = new Unit(NO_PAGE_SELECTIVE)
    const { mmio } = unit.model
    const iotlb = Number((NO_PAGE_SELECTIVE.ecap >> 8n) & 0x3ffn) * 16 + 8
    mmio.write64(iotlb - 8, 0x1000n)
    mmio.write64(iotlb, (1n << 63n) | (3n << 60n) | (5n << 32n))
    expect((mmio.read64(iotlb) >> 57n) & 3n).toBe(2n)
  })
})

describe("page request status", () => {
  it("keeps its interrupt pending until all of it is served, §7.5", () => {
    const { model } = new Unit()
    model.restoreRegisters({ PRS: 3n, PECTL: 0xc000_0000n })
    model.mmio.write32(PRS, 1)
    expect(model.mmio.read32(PECTL)).toBe(0xc000_0000)
    model.mmio.write32(PRS, 2)
    expect(model.mmio.read32(PECTL)).toBe(0x8000_0000)
  })

  it("is found by a queue that crosses a multiple of 4 GiB", () => {
    const memory = createMemory([
      { base: 0, size: 0x10_0000 },
      { base: 0xffff_f000, size: 0x2000 },
    ])
    const model = vtdModel({ memory })
    // Device 00:00.0 with DTE, PRE: §9.4.
    write64(memory, ROOT, CONTEXT | 1n, CONTEXT_UPPER | 1n)
    write64(memory, CONTEXT, DIRECTORY | 0x15n)
    write64(memory, DIRECTORY, PASID_TABLE | 1n)
    write64(memory, PASID_TABLE, SECOND_STAGE, 5n)
    model.mmio.write64(RTADDR, ROOT | SCALABLE)
    model.mmio.write32(GCMD, SRTP)
    model.mmio.write32(GCMD, TE)
    model.mmio.write64(PQA, 0xffff_f000n | 1n)
    const asked = {
      device: 0,
      pasid: null,
      read: true,
      write: false,
      execute: false,
      privileged: false,
      last: true,
    }
    for (let group = 0; group < 129; group++) {
      model.pageRequest({ ...asked, group, address: BigInt(group) << 12n })
    }
    expect(memory.read64(0x1_0000_0008n) >> 12n).toBe(128n)
  })
})

describe("PASID directory", () => {
  it("may cross a multiple of 4 GiB", () => {
    const memory = createMemory([
      { base: 0, size: 0x10_0000 },
      { base: 0xffff_f000, size: 0x2000 },
    ])
    const model = vtdModel({ memory })
    const pasid = 513 * 64
    write64(memory, ROOT, CONTEXT | 1n)
    // PDTS 7, PASIDE.
    write64(memory, CONTEXT, 0xffff_f000n | (7n << 9n) | 9n)
    write64(memory, 0x1_0000_0008n, PASID_TABLE | 1n)
    write64(memory, PASID_TABLE, (4n << 6n) | (2n << 2n) | 1n, 5n)
    model.mmio.write64(RTADDR, ROOT | SCALABLE)
    model.mmio.write32(GCMD, SRTP)
    model.mmio.write32(GCMD, TE)
    expect(model.translate(0, pasid, 0, 0x1234, 1)).toBe(0)
    expect(model.result.paLo).toBe(0x1234)
  })
})

describe("trace", () => {
  it("tells first stages of five levels, and reserved types", () => {
    const unit = new Unit()
    const told: string[] = []
    unit.model.trace = ({ meaning }) => told.push(meaning)
    unit.scalable((1n << 6n) | 1n, 5n, unit.page() | (1n << 2n))
    unit.dma(0x1000n)
    unit.put(PASID_TABLE, (7n << 6n) | 1n)
    unit.dma(0x1000n)
    expect(told.some(meaning => meaning.includes("5 levels"))).toBe(true)
    expect(told.some(meaning => meaning.startsWith("reserved"))).toBe(true)
  })
})
