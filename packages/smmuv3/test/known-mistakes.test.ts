/**
 * Mistakes that others made in IOMMU models, drivers and page tables between 2020 and 2026, as far as they can be made
 * with an SMMUv3: each has a test by its name. The threads are named as repository#number or CVE. Structures, commands
 * and records are typed as words from Arm IHI 0070 G.b, not made by this package's encoders.
 */
import {
  ACCESS_READ,
  ACCESS_WRITE,
  DirtyBitmap,
  Endpoint,
  IOMMU_READ,
  IOMMU_WRITE,
  PAGING_DIRTY_TRACKING,
  PAGING_NEST_PARENT,
} from "@iommu/core"
import { describe, expect, it } from "vitest"
import { EVERYTHING, type IdRegisters, QEMU_NESTED } from "../src/model/options.ts"
import * as reg from "../src/spec/registers.ts"
import { Host } from "./driver-machine.ts"
import { Machine, plainCd, plainStage2, RAM, S1_BLOCK, S1_PAGE, S2_BLOCK, SHAPE_4K } from "./model-machine.ts"

const VA = 0x12_3456_7000n
const PAGE = RAM + 0xf0_0000n
const SYNC = [0x46n, 0n]
const error = (m: Machine): number => (m.read("CMDQ_CONS") >>> 24) & 0x7f

/** A CD in words, §5.4: 48 bits, 4 KiB, EPD1, V; then what the caller sets in bits 63:32. */
const CD0 = 16n | (1n << 30n) | (1n << 31n)
const IPS_48 = 5n << 32n
const AA64 = 1n << 41n
const R = 1n << 45n
const A = 1n << 46n

function withCd(word0: bigint, id: Partial<IdRegisters> = {}): Machine {
  const m = new Machine(id)
  const root = m.alloc()
  m.map(root, SHAPE_4K, VA, PAGE | S1_PAGE)
  const context = m.alloc()
  m.store(context, [word0, root, 0n, 0n])
  // Config 5, V.
  m.store(m.streamTable + 64n, [context | 0xbn, 0n, 0n, 0n, 0n, 0n, 0n, 0n])
  return m
}

describe("bits and registers", () => {
  it("openvmm#3557: WXN, TBI, PAN and AA64 of the CD behind HD, HA, S, R, A and ASET", () => {
    const legal = CD0 | IPS_48 | AA64 | R | A
    expect(withCd(legal).access(1, VA)).toMatchObject({ ok: true, pa: PAGE })
    expect(withCd(legal & ~AA64).fault(1, VA).reason).toBe("C_BAD_CD")
    const tagged = 0xab00_0000_0000_0000n | VA
    expect(withCd(legal | (1n << 38n)).access(1, tagged)).toMatchObject({ ok: true, pa: PAGE })
    expect(withCd(legal | (1n << 39n)).fault(1, tagged).reason).toBe("F_TRANSLATION")
    // PAN, bit 40: the page is the user's.
    expect(withCd(legal | (1n << 40n)).access(1, VA, ACCESS_READ | 8).ok).toBe(false)
    // S, bit 44.
    expect(withCd(legal | (1n << 44n)).fault(1, 0n).held).toBe(1)
  })

  it("openvmm#3557: CD.A not enforced", () => {
    const quiet = CD0 | IPS_48 | AA64 | R
    expect(withCd(quiet).fault(1, 0n)).toMatchObject({ reason: "F_TRANSLATION", completes: true })
    expect(withCd(quiet | A).fault(1, 0n).completes).toBeUndefined()
    // TERM_MODEL.
    const abortsAlone = { IDR0: EVERYTHING.IDR0 | (1 << 26) }
    expect(withCd(quiet, abortsAlone).fault(1, 0n).reason).toBe("C_BAD_CD")
  })

  it("openvmm#3661: dword 1 of the STE wrong from bit 77 on", () => {
    const m = new Machine()
    const ste = (word1: bigint): void => m.store(m.streamTable + 64n, [0x9n, word1, 0n, 0n])
    // SHCFG in 109:108, MTCFG 100, MemAttr 99:96, MEV 83.
    ste((3n << 44n) | (1n << 36n) | (0xan << 32n))
    expect(m.access(1, VA).ok).toBe(true)
    expect(m.model.result.attributes).toBe(0x3bb)
    ste(1n << 19n)
    m.fault(1, 1n << 52n)
    m.fault(1, 1n << 52n)
    expect(m.read("EVENTQ_PROD")).toBe(1)
    // EATS in 93:92: full ATS, on a stream with stage 1.
    const t = withCd(CD0 | IPS_48 | AA64 | R | A)
    expect(t.model.translationRequest(1, -1, 0x12, 0x3456_7000, ACCESS_READ)).toBe(1)
    t.memory.write64(t.streamTable + 72n, 1n << 28n)
    expect(t.model.translationRequest(1, -1, 0x12, 0x3456_7000, ACCESS_READ)).toBe(0)
    // STRW in 95:94: 1 is Reserved.
    t.memory.write64(t.streamTable + 72n, 1n << 30n)
    expect(t.fault(1, VA).reason).toBe("C_BAD_STE")
  })

  it("openvmm#3661: CMDQ_CONS that cannot be written while the queue is disabled", () => {
    const m = new Machine()
    m.write("CMDQ_CONS", 3)
    expect(m.read("CMDQ_CONS")).toBe(0)
    m.write("CR0", reg.CR0_SMMUEN)
    m.write("CMDQ_CONS", 3)
    expect(m.read("CMDQ_CONS")).toBe(3)
  })

  it("openvmm#3661: CMD_SYNC with CS = 3 taken", () => {
    const m = new Machine()
    m.command([0x3046n, 0n])
    expect([error(m), m.read("GERROR")]).toEqual([1, 1])
  })

  it("openvmm#4275: an overflow of the Event queue signalled by GERROR, where nobody looks", () => {
    const m = withCd(CD0 | IPS_48 | AA64 | R | A)
    for (let i = 0; i < 129; i++) m.fault(1, 0n)
    expect([m.read("EVENTQ_PROD"), m.read("GERROR")]).toEqual([0x8000_0080, 0])
    m.write("EVENTQ_CONS", 0x8000_0001)
    m.fault(1, 0n)
    expect(m.read("EVENTQ_PROD")).toBe(0x8000_0081)
  })
})

describe("commands and structures", () => {
  it.each([
    ["an unknown opcode ignored", [0x0fn, 0n], {}],
    ["SSec taken on the Non-secure queue", [0x03n | (1n << 10n), 0n], {}],
    ["CMD_ATC_INV taken without ATS", [0x40n, 52n], QEMU_NESTED],
  ] as const)("cloud-hypervisor#8805: %s", (_, words, id) => {
    const m = new Machine(id)
    m.command(words)
    expect([error(m), m.read("CMDQ_CONS") & 0xf_ffff]).toEqual([1, 0])
  })

  it("cloud-hypervisor#8805: CMD_ATC_INV sent while SMMUEN is 0", () => {
    const m = new Machine()
    let calls = 0
    m.model.connect(0, { invalidate: () => ++calls > 0, pageGroupResponse: () => {} })
    m.command([0x40n, 52n])
    m.write("CR0", reg.CR0_CMDQEN)
    m.command([0x40n, 52n])
    expect([calls, m.read("CMDQ_CONS")]).toEqual([1, 2])
  })

  it("cloud-hypervisor#8805: SPLIT taken as it comes, where reserved values count as 6", () => {
    for (const split of [0, 5, 7, 9, 31]) {
      const m = new Machine()
      const [level1, level2] = [m.alloc(), m.alloc()]
      m.write("CR0", 0)
      m.write64("STRTAB_BASE", level1)
      m.write("STRTAB_BASE_CFG", (1 << 16) | (split << 6) | 8)
      m.write("CR0", reg.CR0_SMMUEN)
      m.memory.write64(level1 + 8n, level2 | 7n)
      m.store(level2 + 64n * 5n, [0x9n])
      expect(m.access(64 + 5, VA)).toMatchObject({ ok: true, pa: VA })
    }
  })

  it("cloud-hypervisor#8805: GERROR acknowledged by writing GERROR, or all errors at once", () => {
    const m = new Machine()
    m.command([0xffn, 0n])
    m.write("GERROR", 0)
    expect(m.read("GERROR")).toBe(1)
    m.write("GERRORN", 0)
    m.store(m.commandQueue, SYNC)
    expect(m.read("CMDQ_CONS") & 0xf_ffff).toBe(0)
    m.write("GERRORN", 1)
    expect(m.read("CMDQ_CONS") & 0xf_ffff).toBe(1)
    expect(m.read("GERROR")).toBe(1)
  })
})

it("axvisor#193, and QEMU: bases that are not aligned to their size are aligned, not added to", () => {
  const m = new Machine()
  m.write("CR0", 0)
  m.write64("STRTAB_BASE", m.streamTable | 0x1fc0n)
  // 2^8 commands of 16 bytes.
  m.write64("CMDQ_BASE", m.commandQueue | 0xfe0n | 8n)
  m.write("CR0", reg.CR0_SMMUEN | reg.CR0_CMDQEN)
  m.ste(1, { Config: 4n })
  expect(m.access(1, VA)).toMatchObject({ ok: true, pa: VA })
  m.command(SYNC)
  expect([m.read("CMDQ_CONS"), m.read("GERROR")]).toEqual([1, 0])
})

it("bao#382: reset bypasses, and aborts only when GBPA says so; an Event queue that is off loses silently", () => {
  const m = new Machine()
  m.write("CR0", 0)
  expect(m.access(9, VA)).toMatchObject({ ok: true, pa: VA })
  m.write("GBPA", 0x8000_0000 + (1 << 20))
  expect(m.fault(9, VA).record).toBeNull()
  m.write("CR0", reg.CR0_SMMUEN)
  expect(m.fault(1, VA)).toMatchObject({ reason: "C_BAD_STE", record: null })
  m.write("CR0", reg.CR0_SMMUEN | reg.CR0_EVENTQEN)
  expect(m.read("EVENTQ_PROD")).toBe(0)
})

describe("invalidations and events", () => {
  /** 32 pages of one ASID in the TLB, of which a range goes. */
  function cached(asid = 1n): Machine {
    const m = new Machine({}, undefined, "hoard")
    const root = m.alloc()
    m.ste(1, { Config: 5n, S1ContextPtr: m.cd({ ...plainCd(root), ASID: asid }) >> 6n })
    // Not global: nG.
    for (let i = 0n; i < 32n; i++)
      m.map(root, SHAPE_4K, VA + (i << 12n), (PAGE + (i << 12n)) | S1_PAGE | 0x800n)
    for (let i = 0n; i < 32n; i++) m.access(1, VA + (i << 12n))
    for (let i = 0n; i < 32n; i++) m.map(root, SHAPE_4K, VA + (i << 12n), 0n)
    return m
  }
  const gone = (m: Machine): number[] =>
    Array.from({ length: 32 }, (_, i) => i).filter(i => !m.access(1, VA + (BigInt(i) << 12n)).ok)
  const TG_4K = 1n << 10n

  it("qemu 2020-2021: ranges of a power of two alone invalidated", () => {
    const m = cached()
    // NUM 4, SCALE 0: five pages from VA on.
    m.command([0x12n | (4n << 12n) | (1n << 48n), VA | TG_4K], SYNC)
    expect(gone(m)).toEqual([0, 1, 2, 3, 4])
    // NUM 2, SCALE 1: six pages from page 9 on, which no mask of one size covers.
    m.command([0x12n | (2n << 12n) | (1n << 20n) | (1n << 48n), (VA + 0x9000n) | TG_4K], SYNC)
    expect(gone(m)).toEqual([0, 1, 2, 3, 4, 9, 10, 11, 12, 13, 14])
  })

  it("qemu 2020-2021: an ASID asked of CMD_TLBI_NH_VAA, and none of CMD_TLBI_NH_VA", () => {
    const m = cached(7n)
    m.command([0x12n | (8n << 48n), VA], SYNC)
    expect(gone(m)).toEqual([])
    m.command([0x13n | (8n << 48n), VA + 0x1000n], SYNC)
    expect(gone(m)).toEqual([1])
  })

  it("qemu 2020-2021: one STE dropped for CMD_CFGI_STE_RANGE", () => {
    const m = new Machine({}, undefined, "hoard")
    for (let stream = 0; stream < 16; stream++) {
      m.ste(stream, { Config: 4n })
      m.access(stream, VA)
      m.ste(stream, { Config: 0n })
    }
    // Range 2: eight StreamIDs, the lower bits of 13 ignored.
    m.command([0x04n | (13n << 32n), 2n], SYNC)
    const aborted = Array.from({ length: 16 }, (_, s) => s).filter(s => !m.access(s, VA).ok)
    expect(aborted).toEqual([8, 9, 10, 11, 12, 13, 14, 15])
  })

  it("qemu July 2024: neither CLASS nor IPA right in stage 2 events, nor S2 below a stage 1 table", () => {
    const m = new Machine()
    const [s1, s2] = [m.alloc(), m.alloc()]
    for (let page = RAM; page < RAM + 0x100_0000n; page += 0x20_0000n) {
      m.map(s2, { ...SHAPE_4K, leafLevel: 2 }, page, page | S2_BLOCK)
    }
    const elsewhere = 0x7_0000_1000n
    m.map(s1, SHAPE_4K, VA, elsewhere | S1_PAGE)
    const nested = { Config: 7n, ...plainStage2(s2) }
    m.ste(1, { ...nested, S1ContextPtr: m.cd(plainCd(s1)) >> 6n })
    // The page: CLASS IN = 2, S2 = 1, IPA of the page.
    expect(m.fault(1, VA + 0x123n).record).toEqual([0x1_0000_0010n, 0x288_0000_0000n, VA + 0x123n, elsewhere])
    // A table: CLASS TT = 1, IPA of the descriptor's page.
    m.memory.write64(s1, elsewhere | 3n)
    expect(m.fault(1, VA, ACCESS_WRITE).record).toEqual([0x1_0000_0010n, 0x180_0000_0000n, VA, elsewhere])
    // The CD: CLASS CD = 0.
    m.ste(1, { ...nested, S1ContextPtr: elsewhere >> 6n })
    expect(m.fault(1, VA).record).toEqual([0x1_0000_0010n, 0x88_0000_0000n, VA, elsewhere])
  })

  it("qemu July 2024: the size of a stage 1 output not checked", () => {
    const m = withCd(CD0 | AA64 | R | A)
    const root = m.memory.read64((m.memory.read64(m.streamTable + 64n) & ~0x3fn) + 8n)
    m.map(root, SHAPE_4K, VA, (1n << 32n) | S1_PAGE)
    expect(m.fault(1, VA)).toMatchObject({ reason: "F_ADDR_SIZE", stage: 1 })
  })

  it("qemu 2025: reserved bits of CR0 kept", () => {
    const m = new Machine(QEMU_NESTED)
    m.write("CR0", 0xffff_ffff)
    expect([m.read("CR0"), m.read("CR0ACK")]).toEqual([0xd, 0xd])
  })
})

it("CVE-2026-31735: an unmap inside a large mapping flushes all of it, and a missing flush shows", () => {
  const m = new Machine({}, undefined, "hoard")
  const root = m.alloc()
  const block = { ...SHAPE_4K, leafLevel: 2 }
  const base = VA & ~0x1f_ffffn
  m.map(root, block, VA, (PAGE & ~0x1f_ffffn) | S1_BLOCK)
  m.ste(1, { Config: 5n, S1ContextPtr: m.cd(plainCd(root)) >> 6n })
  m.access(1, base)
  m.map(root, block, VA, 0n)
  // Nobody told the SMMU.
  expect(m.access(1, base + 0x1f_f000n).ok).toBe(true)
  // CMD_TLBI_NH_VA for one page of it, VMID 0, ASID 1.
  m.command([0x12n | (1n << 48n), (base + 0x5000n) | 1n], SYNC)
  expect(m.access(1, base + 0x1f_f000n).ok).toBe(false)
})

describe("drivers", () => {
  const RW = IOMMU_READ | IOMMU_WRITE

  it("NV-Kernels#339: a stream that nests, or ceases to, is never without an answer in between", () => {
    const host = new Host({}, "none")
    const device = host.device(0x10, { virtualId: 0x77 })
    const parent = host.paging(device, { flags: PAGING_NEST_PARENT })
    const [ipa, guestRam] = [0x4000_0000n, 0x10_0000n]
    parent.map(ipa, guestRam, 0x10_0000n, RW)
    // What both mean by one address: the parent its page, the guest's stage 1 another one.
    parent.map(0n, 0x20_0000n, 0x2000n, RW)
    const put = (offset: bigint, ...words: bigint[]): void =>
      words.forEach((word, i) => {
        host.memory.write64(guestRam + offset + BigInt(i * 8), word)
      })
    // A CD as Linux writes it (captures/smmuv3-nested-4k), then tables of levels 0 to 3.
    put(0x1000n, 0x4e204c0003510n, ipa + 0x2000n, 0n, 0xfffffffff404ff44n)
    for (const level of [2n, 3n, 4n]) put(level * 0x1000n, (ipa + (level + 1n) * 0x1000n) | 3n)
    put(0x5008n, (ipa + 0x8000n) | 0xf47n)
    const nested = host.nested(device, parent, (ipa + 0x1000n) | 0xbn, 0xd6n)
    parent.attachDev(device)
    const answers = new Set([0x20_1000n, guestRam + 0x8000n])
    const at = host.steAt(0x10) as bigint
    const write64 = host.memory.write64.bind(host.memory)
    let stores = 0
    host.memory.write64 = (address, value) => {
      write64(address, value)
      if (BigInt(address) < at || BigInt(address) >= at + 64n) return
      stores++
      expect(answers, `after store ${stores}`).toContain(host.dma(device, 0x1000n))
    }
    nested.attachDev(device)
    expect(host.dma(device, 0x1000n)).toBe(guestRam + 0x8000n)
    parent.attachDev(device)
    expect(host.dma(device, 0x1000n)).toBe(0x20_1000n)
    expect(stores).toBeGreaterThan(3)
  })

  it("cloud-hypervisor#8567: a mapping that is made after tracking began is in the dirty log", () => {
    const host = new Host()
    const device = host.device(0x10)
    const domain = host.paging(device, { flags: PAGING_DIRTY_TRACKING })
    domain.attachDev(device)
    domain.dirty?.setDirtyTracking(true)
    domain.map(0x4000_0000n, 0x40_0000n, 0x4000n, RW)
    host.dma(device, 0x4000_2000n, ACCESS_WRITE)
    const dirty = new DirtyBitmap(0x4000_0000n, 0x4000n, 0x1000n)
    domain.dirty?.readAndClearDirty(dirty)
    // Pages that nobody wrote to may be in it, one that somebody wrote to must.
    expect(dirty.has(0x4000_2000n)).toBe(true)
  })

  it("pKVM-IA#84: a device with ATS keeps nothing that was unmapped", () => {
    const host = new Host()
    const device = host.device(0x10, { ats: true })
    const endpoint = new Endpoint({ model: host.model, memory: host.memory, device: 0x10, ats: true })
    const domain = host.paging(device)
    domain.attachDev(device)
    domain.map(0x4000_0000n, 0x40_0000n, 0x1000n, RW)
    expect(endpoint.write(0x4000_0000n, Uint8Array.of(1)).kind).toBe("done")
    expect(endpoint.cached).toBe(1)
    domain.unmap(0x4000_0000n, 0x1000n)
    expect(endpoint.cached).toBe(0)
  })
})
