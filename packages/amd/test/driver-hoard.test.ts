/**
 * The driver against a model that forgets nothing on its own: whatever software does, afterwards every answer is that
 * of a model without caches over the same memory. So no invalidation is missing.
 */
import { amdModel } from "@iommu/amd"
import {
  DirtyBitmap,
  type IommuDevice,
  iommuDomainFree,
  isIommuError,
  type NestedDomain,
  NO_PASID,
  PAGING_DIRTY_TRACKING,
  PAGING_NEST_PARENT,
  PAGING_PASID,
  type PagingDomain,
  translateRequest,
} from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { guestDte, Host } from "./driver-machine.ts"

const RW = 3
const READ_ONLY = 1
const PAGE = 0x1000n
const LARGE = 0x20_0000n
const IOVAS = [0x1000n, 0x2000n, 0x1f_f000n, 0x20_0000n, 0x3f_f000n, 0x8000_0000n]
const PASIDS = [NO_PASID, 1, 2]
/** Host memory that is the guest's. */
const GUEST_RAM = 0x100_0000n
const GUEST_BYTES = 0x1_0000n

/** Two hosts' worth of state: what is attached, the driver knows. */
class Bench {
  readonly host: Host = new Host({ caches: "hoard" })
  readonly devices: readonly IommuDevice[] = [1, 2].map(id =>
    this.host.device(id, { pasidBits: 9, virtualId: id }),
  )
  readonly domains: PagingDomain[]
  readonly parent: PagingDomain
  readonly nested: NestedDomain[]

  constructor() {
    const { host } = this
    const device = this.devices[0] as IommuDevice
    this.domains = [0, 0, PAGING_DIRTY_TRACKING, PAGING_PASID, PAGING_PASID].map(flags =>
      host.paging(device, { flags }),
    )
    this.parent = host.paging(device, { flags: PAGING_NEST_PARENT })
    for (let gpa = 0n; gpa < GUEST_BYTES; gpa += PAGE) this.parent.map(gpa, GUEST_RAM + gpa, PAGE, RW)
    this.guestTables()
    this.nested = [0x77n, 0x78n].map(id => host.nested(device, this.parent, guestDte(0x1000n, id)))
  }

  /** A GCR3 table with one guest table for PASIDs 0 to 2: 0x1000 and 0x2000 at the guest's pages 0x8000 and 0x9000. */
  private guestTables(): void {
    const write = (gpa: bigint, value: bigint): void => this.host.memory.write64(GUEST_RAM + gpa, value)
    for (let pasid = 0n; pasid < 3n; pasid++) write(0x1000n + pasid * 8n, 0x2001n)
    for (const table of [0x2000n, 0x3000n, 0x4000n]) write(table, (table + PAGE) | 7n)
    write(0x5008n, 0x8007n)
    write(0x5010n, 0x9007n)
  }

  /** Every answer of the hoarding model, and of one without caches. */
  answers(): [hoard: (bigint | null)[], fresh: (bigint | null)[]] {
    const { host } = this
    const fresh = amdModel({ memory: host.memory, caches: "none" })
    const { mmio } = host.model
    fresh.restoreRegisters({ DEVTAB_BASE: mmio.read64(0x00), CONTROL: mmio.read64(0x18) })
    const asked = this.devices.flatMap(device =>
      PASIDS.flatMap(pasid => IOVAS.map(iova => ({ device: device.id, pasid, iova, access: 1 }))),
    )
    const of = (model: typeof host.model) =>
      asked.map(request => {
        const outcome = translateRequest(model, request)
        return outcome.ok ? outcome.pa : null
      })
    return [of(host.model), of(fresh)]
  }
}

interface Deed {
  readonly kind: number
  readonly device: number
  readonly domain: number
  readonly where: number
  readonly size: number
  readonly to: number
}

/** One thing that software does; wrong calls are refused, and that is all right. */
function act(bench: Bench, { kind, device: d, domain: n, where, size, to }: Deed): unknown {
  const { host, domains, nested, parent } = bench
  const device = bench.devices[d] as IommuDevice
  const domain = domains[n] as PagingDomain
  const iova = IOVAS[where] as bigint
  const length = size === 0 ? PAGE : LARGE
  const pa = 0x1_0000_0000n + BigInt(to) * LARGE
  switch (kind) {
    case 0:
      return domain.map(iova & -length, pa, length, to === 0 ? READ_ONLY : RW)
    case 1:
      return domain.unmap(iova & -length, length)
    case 2:
      return domain.attachDev(device)
    case 3:
      return domain.detachDev(device)
    case 4:
      return nested[to & 1]?.attachDev(device)
    case 5:
      return (to === 0 ? host.ops.identityDomain : host.ops.blockedDomain).attachDev(device)
    case 6:
      return domain.setDevPasid?.(device, 1 + (to & 1))
    case 7:
      return domain.removeDevPasid?.(device, 1 + (to & 1))
    case 8:
      iommuDomainFree(domain)
      domains[n] = host.paging(device, {
        flags: [0, 0, PAGING_DIRTY_TRACKING, PAGING_PASID, PAGING_PASID][n] as number,
      })
      return
    case 9:
      return domain.dirty?.setDirtyTracking(to < 2)
    case 10: {
      const gpa = BigInt(to + 5) * PAGE
      if (size === 0) return parent.unmap(gpa, PAGE)
      return parent.map(gpa, GUEST_RAM + gpa, PAGE, RW)
    }
    default:
      domain.unmapFast(iova & -length, length)
      return domain.iotlbSync()
  }
}

describe("the driver on a model that hoards", () => {
  it("leaves nothing stale, whatever software does", () => {
    let done = 0
    fc.assert(
      fc.property(
        fc.array(
          fc.record({
            kind: fc.nat(11),
            device: fc.nat(1),
            domain: fc.nat(4),
            where: fc.nat(IOVAS.length - 1),
            size: fc.nat(1),
            to: fc.nat(4),
          }),
          { minLength: 10, maxLength: 60 },
        ),
        deeds => {
          const bench = new Bench()
          for (const deed of deeds) {
            try {
              act(bench, deed)
              done++
            } catch (error) {
              if (!isIommuError(error)) throw error
            }
            const [hoard, fresh] = bench.answers()
            expect(hoard, JSON.stringify(deed)).toEqual(fresh)
          }
        },
      ),
      { seed: 48882, numRuns: 60 },
    )
    expect(done).toBeGreaterThan(800)
  })

  it("finds every page dirty that was written since tracking began or was last read", () => {
    const host = new Host({ caches: "hoard" })
    const device = host.device(1)
    const domain = host.paging(device, { flags: PAGING_DIRTY_TRACKING })
    domain.map(0n, 0x1_0000_0000n, 0x40_0000n, RW)
    for (let n = 0n; n < 8n; n++) domain.map(0x80_0000n + n * PAGE, 0x1_1000_0000n + n * 2n * PAGE, PAGE, RW)
    domain.attachDev(device)
    const touched = [0x80_1000n, 0x80_4000n, 0x20_3000n]
    const write = (): void => {
      for (const iova of touched) expect(host.dma(device, iova, 2)).not.toBeNull()
    }
    write()
    domain.dirty?.setDirtyTracking(true)
    for (let round = 0; round < 3; round++) {
      const before = new DirtyBitmap(0n, 0x100_0000n, PAGE)
      domain.dirty?.readAndClearDirty(before)
      expect(before.count).toBe(0)
      write()
      write()
      const dirty = new DirtyBitmap(0n, 0x100_0000n, PAGE)
      domain.dirty?.readAndClearDirty(dirty)
      for (const iova of touched) expect(dirty.has(iova)).toBe(true)
      expect(dirty.has(0x80_2000n)).toBe(false)
    }
  })
})
