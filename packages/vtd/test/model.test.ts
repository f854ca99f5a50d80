import {
  ACCESS_EXEC,
  ACCESS_PRIV,
  ACCESS_READ,
  ACCESS_WRITE,
  createMemory,
  type Invalidation,
  isIommuError,
  NO_PASID,
} from "@iommu/core"
import { describe, expect, it } from "vitest"
import { vtdModel } from "../src/model/device.ts"
import { EVERYTHING, LEGACY_ONLY, type VtdCapabilities } from "../src/model/options.ts"
import { FRCD } from "../src/spec/events.ts"
import { CAP, ECAP } from "../src/spec/registers.ts"
import { CONTEXT, GCMD, GSTS, HOLE, PASID_TABLE, ROOT, RTADDR, SCALABLE, SRTP, TE, Unit } from "./unit.ts"
import { DESCRIPTOR_VECTORS } from "./vectors/descriptors.ts"

const QIE = 1 << 26
const IRE = 1 << 25
const QUEUE = 0x10000n
/** Records of {@link EVERYTHING}: FRO 0x22, eight of them. */
const FRCD0 = 0x220
const F = 0x8000_0000

interface Message {
  readonly address: bigint
  readonly data: number
}

function listen(unit: Unit): { messages: Message[]; invalidations: Invalidation[] } {
  const messages: Message[] = []
  const invalidations: Invalidation[] = []
  unit.model.onInterrupt = (address, data) => messages.push({ address, data })
  unit.model.onInvalidate = invalidation => invalidations.push(invalidation)
  return { messages, invalidations }
}

/** The queue as Linux sets it up: tail zero, address, enable. */
function enableQueue(unit: Unit, wide: boolean): void {
  const { mmio } = unit.model
  mmio.write32(0x88, 0)
  mmio.write64(0x90, QUEUE | (wide ? 0x801n : 0n))
  mmio.write32(GCMD, QIE)
}

function submit(unit: Unit, wide: boolean, ...descriptors: readonly (readonly bigint[])[]): void {
  const { mmio } = unit.model
  const step = wide ? 32 : 16
  let tail = mmio.read32(0x88)
  for (const words of descriptors) {
    unit.put(QUEUE + BigInt(tail), ...[0n, 0n, 0n, 0n].map((_, i) => words[i] ?? 0n).slice(0, step / 8))
    tail += step
  }
  mmio.write32(0x88, tail)
}

function withFields(
  cap: Parameters<typeof CAP.encode>[0],
  ecap: Parameters<typeof ECAP.encode>[0],
): VtdCapabilities {
  return {
    ver: EVERYTHING.ver,
    cap: CAP.encode({ ...CAP.decode([EVERYTHING.cap]), ...cap })[0] as bigint,
    ecap: ECAP.encode({ ...ECAP.decode([EVERYTHING.ecap]), ...ecap })[0] as bigint,
  }
}

describe("registers", () => {
  it("report capabilities in 32 and 64 bits, and stay as they are", () => {
    const { mmio } = new Unit(LEGACY_ONLY).model
    expect(mmio.read32(0)).toBe(0x10)
    expect(mmio.read64(8)).toBe(LEGACY_ONLY.cap)
    expect(mmio.read32(0xc)).toBe(0x80d2008c)
    expect(mmio.read64(0x10)).toBe(0xf00f4an)
    mmio.write64(8, 0n)
    mmio.write32(0x1c, 0xffff_ffff)
    expect(mmio.read64(8)).toBe(LEGACY_ONLY.cap)
    expect(mmio.read32(GSTS)).toBe(0)
  })

  it("answer the commands of GCMD in GSTS; GCMD reads as zero", () => {
    const { mmio } = new Unit().model
    mmio.write32(GCMD, SRTP)
    expect(mmio.read32(GSTS)).toBe(0x4000_0000)
    mmio.write32(GCMD, TE)
    expect(mmio.read32(GSTS)).toBe(0xc000_0000)
    mmio.write32(GCMD, (TE | QIE) >>> 0)
    expect(mmio.read32(GSTS)).toBe(0xc400_0000)
    mmio.write32(GCMD, QIE)
    expect(mmio.read32(GSTS)).toBe(0x4400_0000)
    expect(mmio.read32(GCMD)).toBe(0)
  })

  it("do not enable what is not there", () => {
    const { mmio } = new Unit({ ...LEGACY_ONLY, ecap: 0xf00f40n }).model
    mmio.write32(GCMD, QIE)
    mmio.write32(GCMD, IRE | (1 << 24))
    mmio.write64(0x90, 0x1000n)
    mmio.write64(0xb8, 0x1000n)
    expect(mmio.read32(GSTS)).toBe(0)
    expect(mmio.read64(0x90)).toBe(0n)
    expect(mmio.read64(0xb8)).toBe(0n)
  })

  it("keep reserved bits clear", () => {
    const { mmio } = new Unit().model
    const all = 0xffff_ffff_ffff_ffffn
    const written: readonly (readonly [number, bigint])[] = [
      [0x20, 0xffff_ffff_ffff_fc00n],
      [0x88, 0x7fff0n],
      [0x90, 0xffff_ffff_ffff_f807n],
      [0xb8, 0xffff_ffff_ffff_f80fn],
    ]
    for (const [offset, expected] of written) {
      mmio.write64(offset, all)
      expect(mmio.read64(offset)).toBe(expected)
    }
    mmio.write32(0x38, 0xffff_ffff)
    expect(mmio.read32(0x38)).toBe(0x8000_0000)
    mmio.write32(0x40, 0xffff_ffff)
    expect(mmio.read32(0x40)).toBe(0xffff_fffc)
  })

  it("answer nothing beyond the page or unaligned", () => {
    const { mmio } = new Unit().model
    for (const offset of [-4, 2, 0x5000, 1e9, Number.NaN, 0.5]) {
      mmio.write32(offset, 0xffff_ffff)
      expect(mmio.read32(offset)).toBe(0)
    }
  })

  it("take RTADDR into force only with SRTP", () => {
    const unit = new Unit()
    unit.legacy(1n | (2n << 2n), 2n)
    expect(unit.code(0x5000n)).toBe(0)
    unit.model.mmio.write64(RTADDR, HOLE)
    expect(unit.code(0x5000n)).toBe(0)
    unit.model.mmio.write32(GCMD, (TE | SRTP) >>> 0)
    expect(unit.code(0x5000n)).toBe(0x08)
  })

  it("let everything pass while translation is off", () => {
    const unit = new Unit()
    expect(unit.dma(0xfee0_0000n, ACCESS_WRITE)).toMatchObject({ ok: true, pa: 0xfee0_0000n })
    unit.enable(HOLE)
    expect(unit.code(0x1000n)).toBe(0x08)
    unit.model.mmio.write32(GCMD, 0)
    expect(unit.code(0x1000n)).toBe(0)
  })
})

describe("restored registers", () => {
  it("bring a stopped machine back", () => {
    const unit = new Unit()
    unit.put(ROOT, CONTEXT | 1n, 0n)
    unit.put(CONTEXT, 1n | (2n << 2n), 2n)
    const unknown = unit.model.restoreRegisters({
      VER: 0x10n,
      CAP: 0xd2008c222f0606n,
      ECAP: 0xf00f4an,
      GCMD: 0n,
      GSTS: 0xc7000000n,
      RTADDR: ROOT,
      IQH: 0xf00n,
      IQT: 0xf00n,
      IQA: 0x1401f4000n,
      FRCD0_LO: 0x1234000n,
      FRCD0_HI: 0x4000000400000038n,
      FRCD1_LO: 0n,
      IVA: 0n,
      IOTLB: 0n,
      PMEN: 0n,
      NOSUCH: 1n,
    })
    expect(unknown).toEqual(["FRCD1_LO", "NOSUCH"])
    const { mmio } = unit.model
    expect(mmio.read32(GSTS)).toBe(0xc700_0000)
    expect(mmio.read64(0x80)).toBe(0xf00n)
    expect(mmio.read64(0x228)).toBe(0x4000000400000038n)
    expect(unit.dma(0x7000n)).toMatchObject({ ok: true, pa: 0x7000n })
  })

  it("define what the hardware can do", () => {
    const unit = new Unit()
    unit.scalable(1n | (4n << 6n), 5n)
    expect(unit.code(0x7000n)).toBe(0)
    unit.model.restoreRegisters({ ECAP: LEGACY_ONLY.ecap, GSTS: 0xc000_0000n, RTADDR: ROOT | SCALABLE })
    expect(unit.code(0x7000n)).toBe(0x30)
  })

  it("continue the fault log behind the pending records", () => {
    const unit = new Unit()
    const pending = { FRCD2_HI: 1n << 63n, FRCD3_HI: 1n << 63n, FSTS: 0x202n }
    unit.model.restoreRegisters({ GSTS: 0xc000_0000n, RTADDR: HOLE, ...pending })
    expect(unit.code(0x1000n)).toBe(0x08)
    expect(unit.model.mmio.read32(FRCD0 + 4 * 16 + 12) >>> 31).toBe(1)
    expect(unit.model.mmio.read32(0x34)).toBe(0x202)
  })
})

describe("fault log", () => {
  it("records source, page, reason and type", () => {
    const unit = new Unit()
    unit.enable(HOLE)
    const outcome = unit.dma(0x1234_5678n, ACCESS_READ, NO_PASID, 0x0338)
    expect(outcome).toMatchObject({
      ok: false,
      fault: { reason: "LRT.1", device: 0x338, stage: 0, pasid: null },
    })
    const { mmio } = unit.model
    expect(mmio.read64(FRCD0)).toBe(0x1234_5000n)
    expect(mmio.read64(FRCD0 + 8)).toBe(0xc000_0008_0000_0338n)
    expect(mmio.read32(0x34)).toBe(2)
    expect(outcome.ok ? null : outcome.fault.record).toEqual([0x1234_5000n, 0xc000_0008_0000_0338n])
  })

  it("says write, AtomicOp, PASID and privilege in the record", () => {
    const unit = new Unit()
    unit.scalable(0n)
    unit.set(CONTEXT, 1n << 3n)
    const record = (access: number, pasid: number): unknown => {
      const outcome = unit.dma(0x1000n, access, pasid)
      return outcome.ok || outcome.fault.record === null ? null : FRCD.decode(outcome.fault.record)
    }
    expect(record(ACCESS_WRITE, NO_PASID)).toMatchObject({ T1: 0n, T2: 0n, PP: 0n, FR: 0x59n, F: 1n })
    expect(record(ACCESS_READ | ACCESS_WRITE, NO_PASID)).toMatchObject({ T1: 1n, T2: 1n })
    expect(record(ACCESS_READ | ACCESS_PRIV, 5)).toMatchObject({ T1: 1n, T2: 0n, PP: 1n, PV: 5n, PRIV: 1n })
    expect(record(ACCESS_WRITE | ACCESS_PRIV, NO_PASID)).toMatchObject({ PRIV: 0n, PP: 0n, PV: 0n })
    // EXE is of reads with PASID alone.
    expect(record(ACCESS_READ | ACCESS_EXEC, 5)).toMatchObject({ EXE: 1n, PP: 1n, T1: 1n })
    expect(record(ACCESS_READ | ACCESS_EXEC, NO_PASID)).toMatchObject({ EXE: 0n, PP: 0n })
    expect(record(ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC, 5)).toMatchObject({ EXE: 0n, T2: 1n })
  })

  it("cuts the address at the largest width of the hardware", () => {
    const unit = new Unit(LEGACY_ONLY)
    unit.enable(HOLE)
    unit.code(0x1f_ffff_ffff_e000n)
    expect(unit.model.mmio.read64(0x220)).toBe(0xffff_ffff_e000n)
  })

  it("fills in order, overflows, and records again after software cleared F and PFO", () => {
    const unit = new Unit()
    const { mmio } = unit.model
    unit.enable(HOLE)
    for (let i = 0; i < 8; i++) unit.code(BigInt(i) << 12n)
    expect(mmio.read32(0x34)).toBe(2)
    for (let i = 0; i < 8; i++) expect(mmio.read64(FRCD0 + 16 * i)).toBe(BigInt(i) << 12n)
    const lost = unit.dma(0x9000n)
    expect(lost).toMatchObject({ ok: false, fault: { record: null } })
    expect(mmio.read32(0x34)).toBe(3)

    for (let i = 0; i < 8; i++) mmio.write32(FRCD0 + 16 * i + 12, F)
    expect(mmio.read32(0x34)).toBe(1)
    expect(unit.dma(0xa000n)).toMatchObject({ fault: { record: null } })
    mmio.write32(0x34, 1)
    expect(mmio.read32(0x34)).toBe(0)
    unit.code(0xb000n)
    unit.code(0xc000n)
    expect(mmio.read64(FRCD0)).toBe(0xb000n)
    expect(mmio.read32(0x34)).toBe(2)
    mmio.write64(FRCD0 + 8, 1n << 63n)
    expect(mmio.read32(0x34)).toBe(2)
    unit.code(0xd000n)
    expect(mmio.read64(FRCD0 + 32)).toBe(0xd000n)
  })

  it("starts at the first register again when remapping was off", () => {
    const unit = new Unit()
    const { mmio } = unit.model
    unit.enable(HOLE)
    unit.code(0x1000n)
    mmio.write32(FRCD0 + 12, F)
    mmio.write32(GCMD, 0)
    mmio.write32(GCMD, TE)
    unit.code(0x2000n)
    expect(mmio.read64(FRCD0)).toBe(0x2000n)
  })

  it.each([
    ["context entry", CONTEXT],
    ["PASID directory entry", 0x4000n],
    ["PASID table entry", PASID_TABLE],
  ])("FPD of the %s keeps qualified faults out, in a present and in an absent entry", (_, address) => {
    const unit = new Unit()
    unit.scalable(1n | (7n << 6n), 5n)
    unit.set(address, 2n)
    expect(unit.dma(0x1000n)).toMatchObject({ fault: { code: 0x5b, record: null } })
    unit.put(address, 2n)
    expect(unit.dma(0x1000n)).toMatchObject({ ok: false, fault: { record: null } })
    expect(unit.model.mmio.read32(0x34)).toBe(0)
  })

  it("records unqualified faults in spite of FPD", () => {
    const unit = new Unit()
    unit.scalable(0n)
    unit.put(CONTEXT, HOLE | 3n)
    const outcome = unit.dma(0x1000n)
    expect(outcome).toMatchObject({ fault: { code: 0x50 } })
    expect(outcome.ok || outcome.fault.record).toHaveLength(2)
  })

  it("sends the fault event once, holds it while masked, and drops it when served", () => {
    const unit = new Unit()
    const { mmio } = unit.model
    const { messages } = listen(unit)
    mmio.write32(0x3c, 0x4021)
    mmio.write32(0x40, 0xfee0_1000)
    mmio.write32(0x44, 7)
    unit.enable(HOLE)
    unit.code(0x1000n)
    expect(messages).toEqual([])
    expect(mmio.read32(0x38)).toBe(0xc000_0000)
    mmio.write32(0x38, 0)
    expect(messages).toEqual([{ address: 0x7_fee0_1000n, data: 0x4021 }])
    expect(mmio.read32(0x38)).toBe(0)
    unit.code(0x2000n)
    expect(messages).toHaveLength(1)
    mmio.write32(FRCD0 + 12, F)
    mmio.write32(FRCD0 + 28, F)
    unit.code(0x3000n)
    expect(messages).toHaveLength(2)

    mmio.write32(FRCD0 + 44, F)
    mmio.write32(0x38, F)
    unit.code(0x4000n)
    mmio.write32(FRCD0 + 60, F)
    mmio.write32(0x38, 0)
    expect(messages).toHaveLength(2)
  })
})

describe("queued invalidation", () => {
  it.each(DESCRIPTOR_VECTORS)("$layout of a real kernel", ({ layout, words, fields }) => {
    const unit = new Unit()
    const { invalidations } = listen(unit)
    unit.scalable(0n)
    enableQueue(unit, true)
    submit(unit, true, words)
    expect(invalidations).toEqual([{ command: layout, words: [words[0], words[1], 0n, 0n], fields }])
    expect(unit.model.mmio.read64(0x80)).toBe(32n)
  })

  it("executes 128-bit descriptors in legacy mode", () => {
    const unit = new Unit()
    const { invalidations } = listen(unit)
    enableQueue(unit, false)
    submit(unit, false, [0x11n], [0x300f2n, 0xffffd040n], [0x1500000014n])
    expect(invalidations.map(({ command }) => command)).toEqual([
      "cc_inv_dsc",
      "iotlb_inv_dsc",
      "iec_inv_dsc",
    ])
    expect(unit.model.mmio.read64(0x80)).toBe(48n)
  })

  it("wraps at the end of the queue", () => {
    const unit = new Unit()
    const { invalidations } = listen(unit)
    enableQueue(unit, false)
    for (let i = 0; i < 256; i++) unit.put(QUEUE + BigInt(16 * i), 0x11n, 0n)
    unit.model.mmio.write32(0x88, 255 * 16)
    unit.model.mmio.write32(0x88, 16)
    expect(invalidations).toHaveLength(257)
    expect(unit.model.mmio.read64(0x80)).toBe(16n)
  })

  it("writes the status of a wait and raises its interrupt once", () => {
    const unit = new Unit()
    const { mmio } = unit.model
    const { messages } = listen(unit)
    mmio.write32(0xa4, 0x42)
    mmio.write32(0xa8, 0xfee0_2000)
    mmio.write32(0xa0, 0)
    enableQueue(unit, false)
    submit(unit, false, [0x0000_0002_0000_0035n, 0x20004n])
    expect(unit.get(0x20000n)).toBe(2n << 32n)
    expect(mmio.read32(0x9c)).toBe(1)
    expect(messages).toEqual([{ address: 0xfee0_2000n, data: 0x42 }])
    submit(unit, false, [0x15n])
    expect(messages).toHaveLength(1)
    mmio.write32(0x9c, 1)
    expect(mmio.read32(0x9c)).toBe(0)
    submit(unit, false, [0x15n])
    expect(messages).toHaveLength(2)
  })

  it("crosses a multiple of 4 GiB, and so does the page request queue", () => {
    const memory = createMemory([
      { base: 0n, size: 0x1_0000n },
      { base: 0xffff_f000n, size: 0x2000n },
    ])
    const model = vtdModel({ memory, caches: "none" })
    const { mmio } = model
    memory.write64(0x1000n, 0x2001n)
    memory.write64(0x2000n, 0x3000n | 0x15n)
    memory.write64(0x3000n, 0x4001n)
    memory.write64(0x4000n, 1n | (2n << 2n) | (4n << 6n))
    mmio.write64(RTADDR, 0x1000n | SCALABLE)
    mmio.write32(GCMD, SRTP)
    mmio.write64(0x90, 0xffff_f801n)
    mmio.write64(0x88, 0x1000n)
    mmio.write32(GCMD, (TE | QIE) >>> 0)
    // The head is wherever it got to: a queue of no-ops (zeros) stops at once; the wait stands behind the boundary.
    for (let at = 0xffff_f000n; at < 0x1_0000_0000n; at += 32n) memory.write64(at, 5n)
    memory.write64(0x1_0000_0000n, 5n | (1n << 5n) | (0x99n << 32n))
    memory.write64(0x1_0000_0008n, 0x8000n)
    mmio.write32(0x34, 0x10)
    mmio.write64(0x88, 0x1020n)
    expect(memory.read64(0x8000n)).toBe(0x99n)
    mmio.write64(0xd0, 0xffff_f001n)
    mmio.write64(0xc0, 0x1000n)
    mmio.write64(0xc8, 0x1000n)
    const ask = { read: true, write: false, execute: false, privileged: false, last: true, group: 0 }
    model.pageRequest({ device: 0, pasid: null, address: 0x5000n, ...ask })
    expect(memory.read64(0x1_0000_0000n)).toBe(1n)
  })

  it("does not begin again inside of a hook, and loses the status of a wait that has no memory", () => {
    const unit = new Unit()
    enableQueue(unit, false)
    const seen: string[] = []
    unit.model.onInvalidate = ({ command }) => {
      seen.push(command)
      if (seen.length === 1) submit(unit, false, [0x12n])
    }
    submit(unit, false, [0x11n], [0x25n, HOLE])
    expect(seen).toEqual(["cc_inv_dsc", "iotlb_inv_dsc"])
    expect(unit.model.mmio.read32(0x34)).toBe(0)
  })

  it("waits for the queue to be enabled, and rewinds the head when it is disabled", () => {
    const unit = new Unit()
    const { mmio } = unit.model
    const { invalidations } = listen(unit)
    unit.put(QUEUE, 0x11n, 0n)
    mmio.write64(0x90, QUEUE)
    mmio.write32(0x88, 16)
    expect(invalidations).toHaveLength(0)
    mmio.write32(GCMD, QIE)
    expect(invalidations).toHaveLength(1)
    mmio.write32(GCMD, 0)
    expect(mmio.read64(0x80)).toBe(0n)
  })

  interface Wrong {
    readonly what: string
    readonly info: number
    readonly words: readonly bigint[]
    readonly caps?: VtdCapabilities
    readonly narrow?: true
  }
  const errors: readonly Wrong[] = [
    { what: "type 0", info: 3, words: [0n] },
    { what: "type 0xA: no host permission tables here", info: 3, words: [0xan] },
    { what: "a high type bit", info: 3, words: [0x211n] },
    { what: "a device-TLB invalidation without DT", info: 3, words: [3n], caps: withFields({}, { DT: 0n }) },
    { what: "a reserved bit", info: 4, words: [0x111n] },
    { what: "a bit in the upper half", info: 4, words: [0x11n, 0n, 1n] },
    { what: "granularity 0 of a context-cache invalidation", info: 4, words: [0x1n] },
    { what: "granularity 2 of a PASID-cache invalidation", info: 4, words: [0x27n] },
    { what: "granularity 0 of a PASID-based IOTLB invalidation", info: 4, words: [0x6n] },
    { what: "an address mask beyond MAMV", info: 4, words: [0x32n, 9n], caps: withFields({ MAMV: 8n }, {}) },
    { what: "a page without PSI", info: 4, words: [0x32n], caps: withFields({ PSI: 0n }, {}) },
    { what: "PD without PDS", info: 4, words: [0x85n], caps: withFields({}, { PDS: 0n }) },
    { what: "PFSID without DIT", info: 4, words: [0x1003n], caps: withFields({}, { DIT: 0n }) },
    { what: "128-bit descriptors in scalable mode", info: 5, words: [0x11n], narrow: true },
  ]
  it.each(errors)("stops at $what", ({ info, words, caps, narrow }) => {
    const wide = narrow === undefined
    const unit = new Unit(caps)
    const { messages, invalidations } = listen(unit)
    unit.model.mmio.write32(0x38, 0)
    unit.scalable(0n)
    enableQueue(unit, wide)
    submit(unit, wide, words, [0x11n])
    const { mmio } = unit.model
    expect(mmio.read32(0x34)).toBe(0x10)
    expect(Number(mmio.read64(0xb0) & 15n)).toBe(info)
    expect(mmio.read64(0x80)).toBe(0n)
    expect(invalidations).toHaveLength(0)
    expect(messages).toHaveLength(1)
  })

  it("goes on after software repaired the descriptor and cleared IQE", () => {
    const unit = new Unit()
    const { invalidations } = listen(unit)
    enableQueue(unit, false)
    submit(unit, false, [0n], [0x11n])
    unit.put(QUEUE, 0x11n, 0n)
    submit(unit, false, [0x11n])
    expect(invalidations).toHaveLength(0)
    unit.model.mmio.write32(0x34, 0x10)
    expect(invalidations).toHaveLength(3)
    expect(unit.model.mmio.read32(0x34)).toBe(0)
  })

  it("refuses PASID descriptors in legacy mode, 256 bits without SMTS and ADMS, and wrong tails", () => {
    const info = (unit: Unit, act: () => void): number => {
      act()
      expect(unit.model.mmio.read32(0x34)).toBe(0x10)
      return Number(unit.model.mmio.read64(0xb0) & 15n)
    }
    const legacy = new Unit()
    enableQueue(legacy, true)
    expect(info(legacy, () => submit(legacy, true, [0x70017n]))).toBe(3)
    const narrow = new Unit(LEGACY_ONLY)
    enableQueue(narrow, true)
    expect(info(narrow, () => submit(narrow, true, [0x11n]))).toBe(5)
    const odd = new Unit()
    enableQueue(odd, true)
    expect(info(odd, () => odd.model.mmio.write32(0x88, 16))).toBe(6)
    const far = new Unit()
    enableQueue(far, false)
    expect(info(far, () => far.model.mmio.write32(0x88, 0x1000))).toBe(1)
    const hole = new Unit()
    hole.model.mmio.write64(0x90, HOLE)
    hole.model.mmio.write32(GCMD, QIE)
    expect(info(hole, () => hole.model.mmio.write32(0x88, 16))).toBe(2)
    const mode = new Unit()
    mode.enable(ROOT | (2n << 10n))
    mode.model.mmio.write64(0x90, QUEUE)
    mode.model.mmio.write32(GCMD, QIE)
    expect(info(mode, () => mode.model.mmio.write32(0x88, 16))).toBe(7)
  })
})

describe("register-based invalidation", () => {
  it("of the context cache is done at the granularity asked for", () => {
    const unit = new Unit(LEGACY_ONLY)
    const { invalidations } = listen(unit)
    const { mmio } = unit.model
    mmio.write64(0x28, (1n << 63n) | (3n << 61n) | (0x38n << 16n) | 7n)
    expect(invalidations).toEqual([
      { command: "CCMD_REG", words: [], fields: { DID: 7n, SID: 0x38n, FM: 0n, CIRG: 3n } },
    ])
    expect(mmio.read64(0x28) >> 63n).toBe(0n)
    expect((mmio.read64(0x28) >> 59n) & 3n).toBe(3n)
  })

  it("of the IOTLB takes its page from IVA, in halves, too", () => {
    const unit = new Unit(LEGACY_ONLY)
    const { invalidations } = listen(unit)
    const { mmio } = unit.model
    mmio.write64(0xf0, 0x1234_5000n | 0x40n | 9n)
    mmio.write32(0xf8, 0)
    mmio.write32(0xfc, 0xb001_0005)
    expect(invalidations).toEqual([
      {
        command: "IOTLB_REG",
        words: [],
        fields: { IIRG: 3n, DID: 5n, DW: 1n, DR: 0n, AM: 9n, IH: 1n, ADDR: 0x12345n },
      },
    ])
    expect((mmio.read64(0xf8) >> 57n) & 3n).toBe(3n)
  })

  it("is done for the domain where pages cannot be named", () => {
    const { mmio } = new Unit({ ...LEGACY_ONLY, cap: LEGACY_ONLY.cap & ~(1n << 39n) }).model
    mmio.write64(0xf0, 0x5000n)
    mmio.write64(0xf8, (1n << 63n) | (3n << 60n) | (7n << 32n))
    expect((mmio.read64(0xf8) >> 57n) & 3n).toBe(2n)
  })

  it("is refused in scalable mode, while the queue runs, and for a mask beyond MAMV", () => {
    const refused = (unit: Unit): void => {
      const { invalidations } = listen(unit)
      const { mmio } = unit.model
      mmio.write64(0x28, (1n << 63n) | (1n << 61n))
      mmio.write64(0xf0, 0x3fn)
      mmio.write64(0xf8, (1n << 63n) | (3n << 60n))
      expect(invalidations).toHaveLength(0)
      expect((mmio.read64(0xf8) >> 57n) & 3n).toBe(0n)
      expect((mmio.read64(0x28) >> 59n) & 3n).toBe(0n)
    }
    const scalable = new Unit()
    scalable.scalable(0n)
    refused(scalable)
    const queue = new Unit(LEGACY_ONLY)
    enableQueue(queue, false)
    refused(queue)
    const mask = new Unit(LEGACY_ONLY)
    const { invalidations } = listen(mask)
    mask.model.mmio.write64(0xf0, 0x3fn)
    mask.model.mmio.write64(0xf8, (1n << 63n) | (3n << 60n))
    expect(invalidations).toHaveLength(0)
  })
})

describe("options", () => {
  it.each([31, 53, 40.5, Number.NaN])("refuse a host address width of %s", width => {
    expect.assertions(1)
    try {
      vtdModel({ memory: new Unit().memory, hostAddressWidth: width })
    } catch (error) {
      expect(isIommuError(error) && error.code).toBe("EINVAL")
    }
  })

  it("refuse capability registers that do not fit", () => {
    const { memory } = new Unit()
    expect(() => vtdModel({ memory, capabilities: { ...EVERYTHING, cap: 1n << 64n } })).toThrow(/EINVAL/)
    expect(() => vtdModel({ memory, capabilities: { ...EVERYTHING, ver: 1n << 32n } })).toThrow(/EINVAL/)
  })
})
