/**
 * iommufd over the drivers of real hardware under random calls: each ends well or in an errno, DMA goes where some page
 * table of the process says, and when the process has closed everything nothing is left.
 */
import {
  type CacheInvalidateData,
  type DomainUserData,
  isIommuError,
  VeventqType,
  ViommuType,
} from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { Bench, GPA, RAM_HPA, USER_VA, VENDOR_NAMES, type VendorName } from "./iommufd-bench.ts"

const PAGES = 8n
/** Ids run up to here when they are chosen blindly. */
const BLIND = 24
const VTD: readonly DomainUserData[] = [
  { type: 1, flags: 0n, pgtblAddr: GPA + 0x1000n, addrWidth: 48, __reserved: 0 },
  { type: 1, flags: 8n, pgtblAddr: GPA, addrWidth: 39, __reserved: 0 },
]
const SMMUV3: readonly DomainUserData[] = [
  { type: 2, ste: [(GPA + 0x1000n) | 0xbn, 0xd6n] },
  { type: 2, ste: [0x9n, 0n] },
  { type: 2, ste: [0x7n, 0n] },
]
const AMD: readonly DomainUserData[] = [
  { type: 3, dte: [3n | (3n << 61n), 7n, 0n, 0n] },
  { type: 3, dte: [3n | (3n << 54n) | (3n << 61n) | (1n << 58n), 9n | (0x8000n << 16n), 0n, 0n] },
  { type: 3, dte: [1n << 9n, 0n, 0n, 0n] },
]
/** Mostly a vendor's own, right or wrong, and one of another's. */
const DATA: Readonly<Record<VendorName, readonly DomainUserData[]>> = {
  vtd: [...VTD, ...VTD, ...SMMUV3.slice(0, 1)],
  smmuv3: [...SMMUV3, ...AMD.slice(0, 1)],
  amd: [...AMD, ...VTD.slice(0, 1)],
}
const VIOMMU_TYPES: Readonly<Record<VendorName, number>> = { vtd: 1, smmuv3: 1, amd: ViommuType.AMD }
const INVALIDATIONS: readonly CacheInvalidateData[] = [
  { type: 0, entries: [{ addr: 0n, npages: 0xffff_ffff_ffff_ffffn, flags: 0, __reserved: 0 }] },
  { type: 0, entries: [{ addr: 0x1001n, npages: 1n, flags: 0, __reserved: 0 }] },
  { type: 1, entries: [{ cmd: [0x30n, 0n] }, { cmd: [0x06n | (3n << 32n), 0n] }] },
  {
    type: 0x8000_0003,
    entries: [{ cmd: [3n << 60n, 0x7fff_ffff_ffff_f003n] }, { cmd: [(2n << 60n) | 3n, 0n] }],
  },
]

/** Chooses an object, of the right kind most of the time. */
const pick = fc.nat(999)
const which = fc.nat(1)
const page = fc.bigInt({ min: 0n, max: PAGES - 1n })
const only = <const Kind extends string>(kind: Kind): fc.Arbitrary<Kind> => fc.constant(kind)
const step = fc.oneof(
  fc.record({
    kind: only("paging"),
    device: which,
    flags: fc.constantFrom(0, 1, 1, 2, 8),
    fault: fc.option(pick),
  }),
  fc.record({ kind: only("nested"), device: which, parent: pick, data: fc.nat(9), fault: fc.constant(null) }),
  fc.record({ kind: only("nested"), device: which, parent: pick, data: fc.nat(9), fault: fc.option(pick) }),
  fc.record({ kind: only("viommu"), device: which, hwpt: pick, isWrong: fc.nat(9) }),
  fc.record({
    kind: only("vdevice"),
    device: which,
    viommu: pick,
    virtualId: fc.constantFrom(3n, 4n, 1n << 40n),
  }),
  fc.record({
    kind: only("veventq"),
    viommu: pick,
    type: fc.constantFrom(VeventqType.ARM_SMMUV3, VeventqType.AMD),
  }),
  fc.record({ kind: only("fault") }),
  fc.record({ kind: only("attach"), device: which, pt: pick }),
  fc.record({ kind: only("replace"), device: which, pt: pick }),
  fc.record({ kind: only("detach"), device: which }),
  fc.record({ kind: only("pasid"), device: which, pt: pick, pasid: fc.constantFrom(1, 2, 300) }),
  fc.record({ kind: only("map"), page, pages: fc.bigInt({ min: 1n, max: 3n }) }),
  fc.record({ kind: only("unmap"), page }),
  fc.record({ kind: only("invalidate"), target: pick, data: fc.nat(INVALIDATIONS.length - 1) }),
  fc.record({ kind: only("destroy"), target: pick }),
  fc.record({ kind: only("dma"), device: which, page, access: fc.constantFrom(1, 2) }),
  fc.record({
    kind: only("ask"),
    device: which,
    page,
    pasid: fc.constantFrom(null, 1, 2),
    last: fc.boolean(),
  }),
  fc.record({ kind: only("interrupts") }),
)
const KINDS: readonly Step["kind"][] = [
  "paging",
  "nested",
  "viommu",
  "vdevice",
  "veventq",
  "fault",
  "attach",
  "replace",
  "detach",
  "pasid",
  "map",
  "unmap",
  "invalidate",
  "destroy",
  "dma",
  "ask",
  "interrupts",
]
type Step = typeof step extends fc.Arbitrary<infer Value> ? Value : never
type ObjectKind = "ioas" | "paging" | "nested" | "viommu" | "fault" | "other"

class Run {
  readonly b: Bench
  readonly #vendor: VendorName
  readonly #made: { readonly kind: ObjectKind; readonly id: number }[]
  readonly #fds: number[] = []

  constructor(vendor: VendorName) {
    this.#vendor = vendor
    this.b = new Bench(vendor, { ats: true, pasidBits: 8 })
    this.#made = [{ kind: "ioas", id: this.b.ioas }]
    // What guests stand on is there from the start, so that the calls after it get somewhere.
    this.take({ kind: "paging", device: 0, flags: 1, fault: null })
    if (vendor === "vtd") return
    this.take({ kind: "viommu", device: 0, hwpt: 1, isWrong: 1 })
    this.take({ kind: "vdevice", device: 0, viommu: 1, virtualId: 3n })
  }

  take(s: Step): void {
    const { iommufd, ioas, ops } = this.b
    switch (s.kind) {
      case "paging": {
        const { flags, fault } = s
        this.#keep("paging", this.#hwpt(s.device, { parentId: ioas, flags, fault }))
        return
      }
      case "nested": {
        const all = DATA[this.#vendor]
        const data = all[s.data % all.length] as DomainUserData
        const usual = this.#vendor === "vtd" ? "paging" : "viommu"
        const parentId = this.#pick(s.parent, usual, usual, usual, "paging", "viommu")
        this.#keep("nested", this.#hwpt(s.device, { parentId, flags: 0, data, fault: s.fault }))
        return
      }
      case "viommu": {
        const type = s.isWrong === 0 ? 9 : VIOMMU_TYPES[this.#vendor]
        const hwptId = this.#pick(s.hwpt, "paging")
        this.#keep("viommu", iommufd.viommuAlloc({ deviceId: this.#device(s.device).id, hwptId, type }).id)
        return
      }
      case "vdevice": {
        const viommuId = this.#pick(s.viommu, "viommu")
        const { virtualId } = s
        this.#keep(
          "other",
          iommufd.vdeviceAlloc({ viommuId, deviceId: this.#device(s.device).id, virtualId }),
        )
        return
      }
      case "veventq": {
        const viommuId = this.#pick(s.viommu, "viommu")
        const { id, fd } = iommufd.veventqAlloc({ viommuId, type: s.type, depth: 2 })
        this.#keep("other", id)
        this.#fds.push(fd)
        return
      }
      case "fault": {
        const { id, fd } = iommufd.faultQueueAlloc()
        this.#keep("fault", id)
        this.#fds.push(fd)
        return
      }
      case "attach":
        this.#device(s.device).attach(this.#pick(s.pt, "paging", "nested", "nested", "ioas"))
        return
      case "replace":
        this.#device(s.device).replace(this.#pick(s.pt, "paging", "nested", "nested", "ioas"))
        return
      case "detach":
        this.#device(s.device).detach()
        return
      case "pasid":
        this.#device(s.device).attachPasid(s.pasid, this.#pick(s.pt, "paging", "nested"))
        return
      case "map": {
        const [iova, length] = [GPA + s.page * 0x1000n, s.pages * 0x1000n]
        const userVa = USER_VA + s.page * 0x1000n
        iommufd.ioasMap({ ioasId: ioas, userVa, iova, length, readable: true, writeable: true })
        return
      }
      case "unmap":
        iommufd.ioasUnmap(ioas, GPA + s.page * 0x1000n, 0x1000n)
        return
      case "invalidate": {
        const id = this.#pick(s.target, "viommu", "nested")
        iommufd.hwptInvalidate(id, INVALIDATIONS[s.data] as CacheInvalidateData)
        return
      }
      case "destroy":
        iommufd.destroy(this.#pick(s.target, "paging", "nested", "viommu", "other", "fault"))
        return
      case "dma":
        this.#dma(s.device, s.page, s.access)
        return
      case "ask":
        this.#ask(s.device, s.page, s.pasid, s.last)
        return
      case "interrupts":
        ops.handleInterrupts?.()
    }
  }

  /** Closes everything in the order in which a program ends: devices, queue files, the iommufd. */
  end(): void {
    for (const device of this.b.devices) {
      for (const pasid of [1, 2]) device.detachPasid(pasid)
      device.detach()
      device.unbind()
    }
    for (const fd of this.#fds) this.b.process.files.close(fd)
    this.b.iommufd.close()
  }

  #hwpt(
    n: number,
    given: { parentId: number; flags: number; data?: DomainUserData; fault: number | null },
  ): number {
    const { fault, ...request } = given
    const faultId = fault === null ? {} : { faultId: this.#pick(fault, "fault") }
    return this.b.iommufd.hwptAlloc({ deviceId: this.#device(n).id, ...request, ...faultId })
  }

  #keep(kind: ObjectKind, id: number): void {
    this.#made.push({ kind, id })
  }

  /** One in ten is any id; the others are of the kinds, destroyed ones among them. */
  #pick(n: number, ...kinds: ObjectKind[]): number {
    const kind = kinds[n % kinds.length]
    const fitting = this.#made.filter(made => made.kind === kind)
    const blindly = n % 10 === 0 || fitting.length === 0
    return blindly ? 1 + (n % BLIND) : (fitting[n % fitting.length]?.id ?? 0)
  }

  #device(n: number): Bench["device"] {
    return this.b.devices[n] as Bench["device"]
  }

  #ask(n: number, at: bigint, pasid: number | null, last: boolean): void {
    const rights = { read: true, write: false, execute: false, privileged: false }
    const { device } = this.#device(n)
    const address = GPA + at * 0x1000n
    this.b.model.pageRequest({ ...rights, device: device.id, pasid, address, last, group: 1 })
  }

  /** What a page table maps at a page is that page of the process's memory, and no other. */
  #dma(n: number, at: bigint, access: number): void {
    const { model } = this.b
    const iova = GPA + at * 0x1000n
    const { id: source } = this.#device(n).device
    const status = model.translate(source, -1, Number(iova >> 32n), Number(iova & 0xffff_ffffn), access)
    if (status !== 0) return
    const { paHi, paLo } = model.result
    const pa = (BigInt(paHi >>> 0) << 32n) | BigInt(paLo >>> 0)
    expect(pa).toBe(RAM_HPA + at * 0x1000n)
  }
}

describe.each(VENDOR_NAMES)("random calls on %s", vendor => {
  it("end well or in an errno, and leave nothing behind", () => {
    const done = new Map<string, number>()
    fc.assert(
      fc.property(fc.array(step, { minLength: 60, maxLength: 120 }), steps => {
        const run = new Run(vendor)
        for (const s of steps) {
          try {
            run.take(s)
            done.set(s.kind, (done.get(s.kind) ?? 0) + 1)
          } catch (error) {
            if (!isIommuError(error)) throw error
          }
        }
        run.end()
        expect(run.b.process.account.usagePages).toBe(0)
        expect([run.b.process.pinnedPages, run.b.process.user.lockedPages]).toEqual([0, 0])
        for (const { device } of run.b.devices) run.b.ops.releaseDevice(device)
      }),
      { seed: 16, numRuns: 80 },
    )
    const absent = vendor === "vtd" ? ["viommu", "vdevice", "veventq"] : []
    expect(KINDS.filter(kind => !absent.includes(kind) && !done.has(kind))).toEqual([])
  })
})
