/** ATS: AMD 48882 rev 3.10, DTE.I in §2.2.2.1, INVALIDATE_IOTLB_PAGES in §2.4.4, records in §2.5. */
import {
  ACCESS_EXEC,
  ACCESS_PRIV,
  ACCESS_READ,
  ACCESS_WRITE,
  ATS_COMPLETER_ABORT,
  ATS_SUCCESS,
  ATS_UNSUPPORTED_REQUEST,
  type AtsDevice,
  Endpoint,
  hi32,
  lo32,
  NO_PASID,
} from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import {
  A,
  bit,
  CMDBUF,
  D,
  DTE_GIOV,
  DTE_GV,
  DTE_TV,
  DTE_V,
  DTE1_I,
  DTE1_SATS,
  EVT_LOG_EN,
  IR,
  IRW,
  Machine,
  NX,
  ON,
  P,
  PRWU,
  page,
  pde,
  REG,
  RW,
  sized,
  US,
} from "./machine.ts"

const RW_ACCESS = ACCESS_READ | ACCESS_WRITE
const DOMAIN = 5n
const HAD = 3n << 7n
const NO_ANSWER = {
  addressHi: 0,
  addressLo: 0,
  sizeLg2: 12,
  allowed: 0,
  global: false,
  untranslatedOnly: false,
}

/** Device 1 with ATS behind three levels of host tables; `leaves` are entries of the level-1 table for address 0. */
function hostMachine(leaves: Readonly<Record<number, bigint>>, extra = 0n, control = ON): Machine & Tables {
  const machine = new Machine({}, control)
  const level1 = machine.table(leaves)
  const level2 = machine.table({ 0: pde(1, level1) })
  const root = machine.table({ 0: pde(2, level2) })
  machine.dte(1, DTE_V | DTE_TV | (3n << 9n) | root | IRW | extra, DOMAIN | DTE1_I, 0n, 0n)
  return Object.assign(machine, { level1, level2, root })
}

interface Tables {
  readonly level1: bigint
  readonly level2: bigint
  readonly root: bigint
}

/** Device 1 with ATS, guest tables for PASID 5 and 0 behind one GCR3 table, no host tables. */
function guestMachine(leaves: Readonly<Record<number, bigint>>, rights = IRW): Machine & { level1: bigint } {
  const machine = new Machine()
  const level1 = machine.table(leaves)
  const level2 = machine.table({ 0: level1 | PRWU })
  const level3 = machine.table({ 0: level2 | PRWU })
  const root = machine.table({ 0: level3 | PRWU })
  const gcr3 = machine.table({ 0: root | 1n, 5: root | 1n })
  const pointer = (((gcr3 >> 12n) & 7n) << 58n) | DTE_GV | DTE_GIOV
  const second = DOMAIN | DTE1_I | (((gcr3 >> 15n) & 0xffffn) << 16n)
  machine.dte(1, DTE_V | DTE_TV | rights | pointer, second, 0n, 0n)
  return Object.assign(machine, { level1 })
}

function ask(machine: Machine, iova: bigint, access = RW_ACCESS, pasid = NO_PASID, device = 1): number {
  return machine.model.translationRequest(device, pasid, hi32(iova), lo32(iova), access)
}

const address = ({ model: { completion } }: Machine): bigint =>
  (BigInt(completion.addressHi) << 32n) | BigInt(completion.addressLo)

describe("translation requests", () => {
  it("complete with page, size and rights", () => {
    const machine = hostMachine({ 4: page(0x30_0000n), 5: page(0x31_0000n, IR) })
    expect(ask(machine, 0x4123n)).toBe(ATS_SUCCESS)
    expect(address(machine)).toBe(0x30_0000n)
    expect(machine.model.completion).toMatchObject({
      sizeLg2: 12,
      allowed: RW_ACCESS,
      untranslatedOnly: false,
    })
    expect(ask(machine, 0x5000n)).toBe(ATS_SUCCESS)
    expect(machine.model.completion.allowed).toBe(ACCESS_READ)
    expect(machine.events()).toEqual([])
  })

  it("name the whole page of a large or sized leaf", () => {
    const machine = hostMachine({})
    machine.set(machine.level2, { 3: page(0x1_4000_0000n) })
    expect(ask(machine, 0x6a_5678n)).toBe(ATS_SUCCESS)
    expect(address(machine)).toBe(0x1_4000_0000n)
    expect(machine.model.completion.sizeLg2).toBe(21)
    const entry = sized(0x70_0000n, 0x1_0000n)
    machine.set(machine.level1, Object.fromEntries(Array.from({ length: 16 }, (_, n) => [16 + n, entry])))
    expect(ask(machine, 0x1_3000n)).toBe(ATS_SUCCESS)
    expect(address(machine)).toBe(0x70_0000n)
    expect(machine.model.completion.sizeLg2).toBe(16)
  })

  it("grant no write to a request with No Write", () => {
    const machine = hostMachine({ 4: page(0x30_0000n) })
    ask(machine, 0x4000n, ACCESS_READ)
    expect(machine.model.completion.allowed).toBe(ACCESS_READ)
  })

  it("complete without rights, and without an event, where nothing is mapped or allowed", () => {
    const machine = hostMachine({ 4: page(0x30_0000n, 0n) })
    for (const iova of [0x4000n, 0x5000n, bit(45)]) {
      expect(ask(machine, iova)).toBe(ATS_SUCCESS)
      expect(machine.model.completion).toEqual(NO_ANSWER)
    }
    expect(machine.events()).toEqual([])
    expect(machine.model.atsFault).toBeNull()
  })

  it("carry U of the leaf (bit 59)", () => {
    const machine = hostMachine({ 4: page(0x30_0000n) | bit(59) })
    ask(machine, 0x4000n)
    expect(machine.model.completion).toMatchObject({ allowed: RW_ACCESS, untranslatedOnly: true })
  })

  it("mark as accessed and dirty only what they grant", () => {
    const machine = hostMachine(
      { 4: page(0x30_0000n), 5: page(0x31_0000n, IR), 6: page(0x32_0000n, 0n) },
      HAD,
    )
    ask(machine, 0x6000n)
    expect([machine.entry(machine.level1, 6) & (A | D), machine.entry(machine.root, 0) & A]).toEqual([0n, 0n])
    ask(machine, 0x4000n, ACCESS_READ)
    expect(machine.entry(machine.level1, 4) & (A | D)).toBe(A)
    ask(machine, 0x4000n)
    expect(machine.entry(machine.level1, 4) & (A | D)).toBe(A | D)
    ask(machine, 0x5000n)
    expect(machine.entry(machine.level1, 5) & (A | D)).toBe(A)
  })

  it.each([33, 39, 47])("name a page of 2^%i bytes", lg2 => {
    const machine = new Machine()
    const level4 = machine.table()
    const size = bit(lg2)
    const entry = lg2 === 39 ? page(0x7n << 39n) : sized(0x1n << 48n, size)
    const isLevel3 = lg2 < 39
    const level3 = machine.table(Object.fromEntries(Array.from({ length: 16 }, (_, n) => [n, entry])))
    machine.set(
      level4,
      isLevel3
        ? { 0: pde(3, level3) }
        : Object.fromEntries(Array.from({ length: 256 }, (_, n) => [n, entry])),
    )
    machine.dte(1, DTE_V | DTE_TV | (4n << 9n) | level4 | IRW, DOMAIN | DTE1_I, 0n, 0n)
    expect(ask(machine, size - 0x1234n)).toBe(ATS_SUCCESS)
    expect(machine.model.completion.sizeLg2).toBe(lg2)
    expect(address(machine)).toBe(lg2 === 39 ? 0x7n << 39n : 1n << 48n)
  })

  it("pass the exclusion range untranslated", () => {
    const machine = hostMachine({})
    machine.model.mmio.write64(REG.EXCL_BASE, 0x8000n | 3n)
    machine.model.mmio.write64(REG.EXCL_LIMIT, 0x9000n)
    expect(ask(machine, 0x9abcn)).toBe(ATS_SUCCESS)
    expect(address(machine)).toBe(0x9000n)
    expect(machine.model.completion).toMatchObject({ sizeLg2: 12, allowed: RW_ACCESS })
  })
})

describe("translation requests with a PASID", () => {
  it("complete from the guest's tables, execute and privilege only when asked for", () => {
    const machine = guestMachine({ 4: 0x30_0000n | PRWU, 5: 0x31_0000n | PRWU | NX })
    expect(ask(machine, 0x4000n, RW_ACCESS, 5)).toBe(ATS_SUCCESS)
    expect(machine.model.completion.allowed).toBe(RW_ACCESS)
    ask(machine, 0x4000n, RW_ACCESS | ACCESS_EXEC, 5)
    expect(machine.model.completion.allowed).toBe(RW_ACCESS | ACCESS_EXEC)
    ask(machine, 0x5000n, RW_ACCESS | ACCESS_EXEC | ACCESS_PRIV, 5)
    expect(machine.model.completion.allowed).toBe(RW_ACCESS | ACCESS_PRIV)
  })

  it("say Global for a global page, but not without PASID (GIOV)", () => {
    const machine = guestMachine({ 4: 0x30_0000n | PRWU | bit(8) })
    ask(machine, 0x4000n, RW_ACCESS, 5)
    expect(machine.model.completion.global).toBe(true)
    ask(machine, 0x4000n)
    expect(machine.model.completion).toMatchObject({ allowed: RW_ACCESS, global: false })
  })

  it("keep supervisor pages from users", () => {
    const machine = guestMachine({ 4: 0x30_0000n | P | RW })
    ask(machine, 0x4000n, RW_ACCESS, 5)
    expect(machine.model.completion.allowed).toBe(0)
    ask(machine, 0x4000n, RW_ACCESS | ACCESS_PRIV, 5)
    expect(machine.model.completion.allowed).toBe(RW_ACCESS | ACCESS_PRIV)
  })

  it("get the rights that both stages give", () => {
    const machine = guestMachine({ 4: 0x30_0000n | PRWU | A }, IR)
    machine.model.mmio.write64(REG.CONTROL, ON | bit(48) | bit(54))
    ask(machine, 0x4000n, RW_ACCESS, 5)
    expect(machine.model.completion.allowed).toBe(ACCESS_READ)
  })

  it("set A always, D with a granted write", () => {
    const machine = guestMachine({ 4: 0x30_0000n | PRWU, 5: 0x31_0000n | P | US })
    ask(machine, 0x4000n, ACCESS_READ, 5)
    expect(machine.entry(machine.level1, 4) & (A | D)).toBe(A)
    ask(machine, 0x4000n, RW_ACCESS, 5)
    expect(machine.entry(machine.level1, 4) & (A | D)).toBe(A | D)
    ask(machine, 0x5000n, RW_ACCESS, 5)
    expect(machine.entry(machine.level1, 5) & (A | D)).toBe(A)
  })

  it("grant nothing where A cannot be set, because the host tables do not let the IOMMU write", () => {
    const machine = guestMachine({ 4: 0x30_0000n | PRWU }, IR)
    expect(ask(machine, 0x4000n, ACCESS_READ, 5)).toBe(ATS_SUCCESS)
    expect(machine.model.completion).toEqual(NO_ANSWER)
    expect(machine.entry(machine.level1, 4) & (A | D)).toBe(0n)
  })

  it("complete without rights for a PASID without a guest CR3", () => {
    const machine = guestMachine({ 4: 0x30_0000n | PRWU })
    expect(ask(machine, 0x4000n, RW_ACCESS, 6)).toBe(ATS_SUCCESS)
    expect(machine.model.completion).toEqual(NO_ANSWER)
    expect(machine.events()).toEqual([])
  })

  it("are unsupported by a device without guest translation: IO_PAGE_FAULT with GN, TR", () => {
    const machine = hostMachine({ 4: page(0x30_0000n) })
    expect(ask(machine, 0x4000n, RW_ACCESS, 0xabcde)).toBe(ATS_UNSUPPORTED_REQUEST)
    expect(machine.events()).toEqual([[0x2105_bcde_000a_0001n, 0x4000n]])
  })
})

describe("refused translation requests leave exact records", () => {
  const UNSUPPORTED = 0x8100_0000_0000_0001n

  it("DTE.I = 0, TV = 0 and V = 0: INVALID_DEVICE_REQUEST, TR = 1, type 0", () => {
    const words: [bigint, bigint][] = [
      [DTE_V | DTE_TV | IRW, DOMAIN],
      [DTE_V | IRW, DTE1_I],
      [0n, DTE1_I],
    ]
    for (const [first, second] of words) {
      const machine = new Machine()
      machine.dte(1, first, second, 0n, 0n)
      expect(ask(machine, 0x7000n)).toBe(ATS_UNSUPPORTED_REQUEST)
      expect(machine.events()).toEqual([[UNSUPPORTED, 0x7000n]])
      expect(machine.model.atsFault?.record).toEqual([UNSUPPORTED, 0x7000n])
    }
  })

  it("the interrupt range: INVALID_DEVICE_REQUEST, TR = 1, type 1", () => {
    const machine = hostMachine({})
    expect(ask(machine, 0xfee0_1000n)).toBe(ATS_UNSUPPORTED_REQUEST)
    expect(machine.events()).toEqual([[0x8300_0000_0000_0001n, 0xfee0_1000n]])
  })

  it("a reserved bit: IO_PAGE_FAULT with TR, PR, RZ", () => {
    const machine = hostMachine({ 4: page(0x30_0000n) | bit(52) })
    expect(ask(machine, 0x4000n)).toBe(ATS_COMPLETER_ABORT)
    expect(machine.events()).toEqual([[0x2190_0005_0000_0001n, 0x4000n]])
  })

  it("an illegal level: IO_PAGE_FAULT with TR, PR", () => {
    const machine = hostMachine({})
    machine.set(machine.level2, { 1: pde(2, machine.level1) })
    expect(ask(machine, 0x20_0000n)).toBe(ATS_COMPLETER_ABORT)
    expect(machine.events()).toEqual([[0x2110_0005_0000_0001n, 0x20_0000n]])
  })

  it("a table where no memory is: PAGE_TAB_HARDWARE_ERROR with TR, master abort", () => {
    const machine = hostMachine({})
    machine.set(machine.level2, { 1: pde(1, 0xf_0000_0000n) })
    expect(ask(machine, 0x20_3000n)).toBe(ATS_COMPLETER_ABORT)
    expect(machine.events()).toEqual([[0x4300_0005_0000_0001n, 0xf_0000_0018n]])
  })

  it("a reserved bit in the device table entry: ILLEGAL_DEV_TABLE_ENTRY with RZ, TR", () => {
    const machine = new Machine()
    machine.dte(1, DTE_V | DTE_TV | bit(2), DTE1_I, 0n, 0n)
    expect(ask(machine, 0x4000n)).toBe(ATS_COMPLETER_ABORT)
    expect(machine.events()).toEqual([[0x1180_0000_0000_0001n, 0x4000n]])
  })

  it("a DeviceID beyond the table: IO_PAGE_FAULT with TR", () => {
    const machine = new Machine()
    machine.model.mmio.write64(REG.DEVTAB_BASE, 0x20_0000n)
    expect(ask(machine, 0x4000n, RW_ACCESS, NO_PASID, 0x80)).toBe(ATS_UNSUPPORTED_REQUEST)
    expect(machine.events()).toEqual([[0x2100_0000_0000_0080n, 0x4000n]])
  })

  it("nothing while the IOMMU is off", () => {
    const machine = hostMachine({ 4: page(0x30_0000n) }, 0n, EVT_LOG_EN)
    expect(ask(machine, 0x4000n)).toBe(ATS_UNSUPPORTED_REQUEST)
    expect(machine.model.atsFault).toBeNull()
  })

  it("no TR in what an untranslated request leaves afterwards", () => {
    const machine = hostMachine({})
    ask(machine, 0xfee0_1000n)
    machine.read(1, 0x5000n)
    expect(machine.events()[1]).toEqual([0x2000_0005_0000_0001n, 0x5000n])
  })
})

describe("a translation request that meets an old directory entry", () => {
  it("finds what the table there says now: the IOMMU may use either", () => {
    const machine = new Machine({ caches: "hoard" })
    const [old, next] = [machine.table({ 4: page(0x30_0000n) }), machine.table({ 5: page(0x31_0000n) })]
    const root = machine.table({ 0: pde(1, old) })
    machine.dte(1, DTE_V | DTE_TV | (2n << 9n) | root | IRW, DOMAIN | DTE1_I, 0n, 0n)
    expect(machine.read(1, 0x4000n).ok).toBe(true)
    machine.set(old, { 5: page(0x32_0000n) | bit(52) })
    machine.set(root, { 0: pde(1, next) })
    expect(ask(machine, 0x5000n)).toBe(ATS_COMPLETER_ABORT)
    expect(machine.events()).toEqual([[0x2190_0005_0000_0001n, 0x5000n]])
    machine.command((3n << 60n) | (DOMAIN << 32n), 0x7fff_ffff_ffff_f000n | 3n)
    expect(ask(machine, 0x5000n)).toBe(ATS_SUCCESS)
    expect(address(machine)).toBe(0x31_0000n)
  })
})

describe("translated requests", () => {
  const send = (machine: Machine, pa: bigint, access = ACCESS_READ, device = 1): number =>
    machine.model.translatedRequest(device, NO_PASID, hi32(pa), lo32(pa), access)

  it("pass, unchecked, from a device with DTE.I", () => {
    expect(send(hostMachine({}), 0x1234_5000n)).toBe(0)
  })

  it.each([
    ["DTE.I = 0", DTE_V | DTE_TV | IRW, 0n],
    ["V = 0", 0n, DTE1_I],
    ["secure ATS", DTE_V | DTE_TV | IRW, DTE1_I | DTE1_SATS],
  ])("are refused with %s: INVALID_DEVICE_REQUEST, TR = 0, type 1", (_, first, second) => {
    const machine = new Machine()
    machine.dte(1, first, second, 0n, 0n)
    expect(send(machine, 0x1234_5000n, ACCESS_WRITE)).not.toBe(0)
    expect(machine.events()).toEqual([[0x8200_0000_0000_0001n, 0x1234_5000n]])
    expect(machine.model.atsFault).toMatchObject({ reason: "INVALID_DEVICE_REQUEST", code: 8 })
  })

  it("to the interrupt range are interrupts", () => {
    const machine = hostMachine({})
    machine.dte(1, DTE_V | DTE_TV | IRW, DTE1_I, 1n, 0n)
    expect(send(machine, 0xfee0_0000n, ACCESS_WRITE)).not.toBe(0)
    expect(machine.events()).toEqual([[0x8a00_0000_0000_0001n, 0xfee0_0000n]])
  })

  it("to the interrupt range pass where DTE.IV is 0, as interrupts of other requests do", () => {
    expect(send(hostMachine({}), 0xfee0_0000n, ACCESS_WRITE)).toBe(0)
  })

  it("with a PASID have no interrupt range", () => {
    const machine = hostMachine({})
    expect(machine.model.translatedRequest(1, 5, 0, 0xfee0_0000, ACCESS_WRITE)).toBe(0)
  })

  it("of an entry that cannot be used meet its own event", () => {
    const machine = new Machine()
    machine.dte(1, DTE_V | DTE_TV | bit(2), DTE1_I, 0n, 0n)
    expect(send(machine, 0x5000n)).not.toBe(0)
    expect(machine.model.atsFault?.reason).toBe("ILLEGAL_DEV_TABLE_ENTRY")
  })

  it("pass while the IOMMU is off", () => {
    expect(send(new Machine({}, 0n), 0x5000n)).toBe(0)
  })
})

class Recorder implements AtsDevice {
  readonly calls: [address: bigint, sizeLg2: number, pasid: number | null, allPasids: boolean][] = []
  readonly responses: [group: number, pasid: number | null, code: number][] = []
  answers = true

  invalidate(...call: [bigint, number, number | null, boolean]): boolean {
    this.calls.push(call)
    return this.answers
  }

  pageGroupResponse(...response: [number, number | null, number]): void {
    this.responses.push(response)
  }
}

function recorded(control = ON): { machine: Machine; device: Recorder } {
  const machine = new Machine({}, control)
  const device = new Recorder()
  machine.model.connect(0x42, device)
  return { machine, device }
}

describe("INVALIDATE_IOTLB_PAGES", () => {
  const TO_42 = (4n << 60n) | 0x42n

  it("reaches the device with the range that S and Address encode", () => {
    const { machine, device } = recorded()
    machine.command(TO_42, 0x1234_5000n)
    machine.command(TO_42, 0x1234_5000n | 1n)
    machine.command(TO_42, 0x1234_7000n | 1n)
    machine.command(TO_42, 0x000f_f000n | 1n)
    machine.command(TO_42, 0x7fff_ffff_ffff_f000n | 1n)
    expect(device.calls).toEqual([
      [0x1234_5000n, 12, null, false],
      [0x1234_4000n, 14, null, false],
      [0x1234_0000n, 16, null, false],
      [0n, 21, null, false],
      [0n, 64, null, false],
    ])
  })

  it("assembles the PASID of its three pieces where GN is set", () => {
    const { machine, device } = recorded()
    // PASID 0xABCDE as Linux writes it: bits 15:8 at 23:16, bits 7:0 at 55:48, bits 19:16 at 59:56.
    machine.command(TO_42 | (0xan << 56n) | (0xden << 48n) | (0xbcn << 16n), 0x5000n | bit(2))
    expect(device.calls).toEqual([[0x5000n, 12, 0xabcde, false]])
  })

  it("is done at once for a device without a cache", () => {
    const { machine } = recorded()
    machine.command((4n << 60n) | 0x43n, 0x5000n)
    expect(machine.model.mmio.read64(REG.CMD_HEAD)).toBe(0x10n)
    expect(machine.events()).toEqual([])
  })

  it("times out by CONTROL.InvTimeOut: IOTLB_INV_TIMEOUT with the command's address, and commands go on", () => {
    const { machine, device } = recorded(ON | (4n << 5n))
    device.answers = false
    machine.command(2n << 60n, 0n)
    machine.command(TO_42, 0x5000n)
    machine.command((1n << 60n) | 1n | 0x8000n, 0x77n)
    expect(machine.events()).toEqual([[0x7000_0000_0000_0042n, CMDBUF + 0x10n]])
    expect(machine.memory.read64(0x8000n)).toBe(0x77n)
  })

  it("is waited for for ever where InvTimeOut is 0: the head stays and no completion comes", () => {
    const { machine, device } = recorded()
    device.answers = false
    machine.command(TO_42, 0x5000n)
    machine.command((1n << 60n) | 1n | 0x8000n, 0x77n)
    expect(machine.model.mmio.read64(REG.CMD_HEAD)).toBe(0n)
    expect(machine.memory.read64(0x8000n)).toBe(0n)
    expect(machine.status & bit(4)).toBe(bit(4))
    device.answers = true
    machine.command(2n << 60n, 0n)
    expect(machine.model.mmio.read64(REG.CMD_HEAD)).toBe(0x30n)
    expect(machine.memory.read64(0x8000n)).toBe(0x77n)
  })
})

describe("an endpoint that does DMA through its ATC", () => {
  const bytes = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8)

  it("translates once, and keeps what no invalidation takes away", () => {
    const machine = hostMachine({ 4: page(0x30_0000n) })
    const { model, memory } = machine
    const endpoint = new Endpoint({ model, memory, device: 1, ats: true })
    expect(endpoint.write(0x4008n, bytes)).toEqual({ kind: "done" })
    expect(memory.read(0x30_0008n, 8)).toEqual(bytes)
    expect(endpoint.cached).toBe(1)
    machine.set(machine.level1, { 4: page(0x40_0000n) })
    endpoint.write(0x4010n, bytes)
    expect(memory.read(0x30_0010n, 8)).toEqual(bytes)
    machine.command((2n << 60n) | 1n, 0n)
    machine.command((3n << 60n) | (DOMAIN << 32n), 0x4000n)
    machine.command((4n << 60n) | 1n, 0x4000n)
    expect(endpoint.cached).toBe(0)
    endpoint.write(0x4010n, bytes)
    expect(memory.read(0x40_0010n, 8)).toEqual(bytes)
  })

  it("is stopped when the driver takes ATS away, even with a full cache", () => {
    const machine = hostMachine({ 4: page(0x30_0000n) })
    const { model, memory } = machine
    const endpoint = new Endpoint({ model, memory, device: 1, ats: true })
    endpoint.write(0x4000n, bytes)
    machine.dte(1, DTE_V | DTE_TV | (3n << 9n) | machine.root | IRW, DOMAIN, 0n, 0n)
    machine.command((2n << 60n) | 1n, 0n)
    const result = endpoint.write(0x4000n, bytes)
    expect(result.kind === "refused" && result.fault?.record?.[0]).toBe(0x8200_0000_0000_0001n)
  })

  it("reads large pages through one translation", () => {
    const machine = hostMachine({})
    machine.set(machine.level2, { 0: page(0x200_0000n) })
    machine.memory.write(0x200_0ffcn, bytes)
    const { model, memory } = machine
    const endpoint = new Endpoint({ model, memory, device: 1, ats: true })
    const into = new Uint8Array(8)
    expect(endpoint.read(0xffcn, into)).toEqual({ kind: "done" })
    expect([into, endpoint.cached]).toEqual([bytes, 1])
  })

  it("uses untranslated requests where U says so", () => {
    const machine = hostMachine({ 4: page(0x30_0000n) | bit(59) })
    const { model, memory } = machine
    const endpoint = new Endpoint({ model, memory, device: 1, ats: true })
    expect(endpoint.write(0x4000n, bytes)).toEqual({ kind: "done" })
    expect([endpoint.cached, memory.read(0x30_0000n, 8)]).toEqual([0, bytes])
  })

  it("keeps translations of PASIDs apart", () => {
    const machine = guestMachine({ 4: 0x30_0000n | PRWU })
    const { model, memory } = machine
    const endpoint = new Endpoint({ model, memory, device: 1, ats: true })
    endpoint.write(0x4000n, bytes, 5)
    endpoint.write(0x4000n, bytes)
    expect(endpoint.cached).toBe(2)
    machine.command((4n << 60n) | (5n << 48n) | 1n, 0x7fff_ffff_ffff_f000n | 5n)
    expect(endpoint.cached).toBe(1)
  })
})

it("random entries, tables and requests leave no exception and no half-filled answer", () => {
  const u64 = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n })
  const near = fc.oneof(u64, fc.bigInt({ min: 0n, max: 0x3ff_ffffn }))
  const anyPasid = fc.oneof(fc.constant(NO_PASID), fc.integer())
  fc.assert(
    fc.property(
      fc.array(near, { minLength: 4, maxLength: 4 }),
      fc.array(fc.tuple(near, near), { maxLength: 32 }),
      fc.array(fc.tuple(anyPasid, near, fc.nat(15), fc.integer()), { maxLength: 8 }),
      (dte, tables, requests) => {
        const machine = new Machine({}, ON | (7n << 13n))
        machine.dte(1, ...dte)
        for (const [at, word] of tables) machine.memory.write64(0x100_0000n + ((at % 0x1_0000n) & ~7n), word)
        for (const [pasid, iova, access, group] of requests) {
          const answer = ask(machine, iova, access, pasid)
          const { allowed, sizeLg2 } = machine.model.completion
          if (answer === ATS_SUCCESS) expect([allowed & ~access, sizeLg2 >= 12]).toEqual([0, true])
          const status = machine.model.translatedRequest(1, pasid, hi32(iova), lo32(iova), access)
          expect(status === 0).toBe(machine.model.atsFault === null)
          const bits = {
            read: (access & 1) !== 0,
            write: (access & 2) !== 0,
            execute: false,
            privileged: false,
          }
          const request = {
            device: 1,
            pasid: pasid < 0 ? null : pasid,
            address: iova,
            last: group > 0,
            group,
          }
          machine.model.pageRequest({ ...request, ...bits })
          machine.command(group === 0 ? iova : (BigInt(4 + (group & 3)) << 60n) | 1n, iova)
        }
      },
    ),
    { seed: 4, numRuns: 300 },
  )
})
