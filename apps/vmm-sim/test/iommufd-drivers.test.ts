/** What iommufd promises of every driver, held to with the drivers of real hardware: sections 2.14, 2.15, 5.2 to 5.4. */
import { ACCESS_READ, ACCESS_WRITE, HwInfoType, iommuDevice, MemoryAccount, ViommuType } from "@iommu/core"
import { describe, expect, it } from "vitest"
import { Bench, errnoOf, GPA, RAM_HPA, USER_VA, VENDOR_NAMES } from "./iommufd-bench.ts"

const DIRTY = 2
const PASID = 8
const PAGE = 0x1000n
/** Type and bytes of each vendor's capability registers. */
const HW_INFO = {
  vtd: [HwInfoType.INTEL_VTD, 24],
  smmuv3: [HwInfoType.ARM_SMMUV3, 40],
  amd: [HwInfoType.AMD, 16],
} as const

const VIOMMU_TYPES = { vtd: null, smmuv3: ViommuType.ARM_SMMUV3, amd: ViommuType.AMD } as const

describe.each(VENDOR_NAMES)("iommufd over %s", vendor => {
  const mapped = (b: Bench, iova: bigint, pages: bigint, at = 0n): void => {
    const placement = { ioasId: b.ioas, length: pages * PAGE, iova, readable: true, writeable: true }
    b.iommufd.ioasMap({ ...placement, userVa: USER_VA + at })
  }

  it("2.14: hw_info has the vendor's registers, and says what the hardware can", () => {
    const b = new Bench(vendor, { pasidBits: 8 })
    const info = b.iommufd.hwInfo(b.device.id)
    expect([info.type, info.bytes.length]).toEqual(HW_INFO[vendor])
    expect(info.maxPasidLog2).toBe(8)
    expect(info.capabilities & 1n).toBe(1n)
    expect(errnoOf(() => b.iommufd.hwInfo(b.device.id, 0x99))).toBe("EOPNOTSUPP")
  })

  it("2.15: dirty bits are those of pages that a device wrote to, read once or left for later", () => {
    const b = new Bench(vendor)
    const hwptId = b.hwpt(b.ioas, null, DIRTY)
    // A leaf is dirty as a whole, and AMD would make one of all 16 pages.
    b.iommufd.setHugePages(b.ioas, false)
    mapped(b, GPA, 16n)
    b.device.attach(hwptId)
    b.dma(GPA + 9n * PAGE, ACCESS_WRITE)
    b.iommufd.hwptSetDirtyTracking(hwptId, "on")
    for (const page of [3n, 5n]) b.dma(GPA + page * PAGE, ACCESS_WRITE)
    b.dma(GPA + 7n * PAGE, ACCESS_READ)
    const dirty = (after: "keep" | "clear"): number[] => {
      const request = { hwptId, iova: GPA, length: 16n * PAGE, pageSize: PAGE, after }
      const bitmap = b.iommufd.hwptGetDirtyBitmap(request)
      return Array.from({ length: 16 }, (_, i) => i).filter(i => bitmap.has(GPA + BigInt(i) * PAGE))
    }
    expect(dirty("keep")).toEqual([3, 5])
    expect(dirty("clear")).toEqual([3, 5])
    expect(dirty("clear")).toEqual([])
  })

  it("5.2: an IOAS gets a page table for its devices, shared, filled, and gone with the last of them", () => {
    const b = new Bench(vendor)
    mapped(b, GPA, 4n, 0x8000n)
    const [one, two] = b.devices
    const hwpt = one.attach(b.ioas)
    expect(two.attach(b.ioas)).toBe(hwpt)
    expect(b.dma(GPA + 1n)).toBe(RAM_HPA + 0x8001n)
    one.detach()
    expect(b.dma(GPA)).toBeNull()
    two.detach()
    expect(errnoOf(() => b.iommufd.destroy(hwpt))).toBe("ENOENT")
    expect(b.process.pinnedPages).toBe(0)
  })

  it("5.3: a page table or a vIOMMU of another IOMMU is EINVAL; an IOAS gets a page table for each", () => {
    const b = new Bench(vendor)
    const other = new Bench(vendor)
    const device = iommuDevice({ id: 0x20, account: new MemoryAccount("host") })
    other.ops.probeDevice(device)
    const stranger = b.iommufd.bindDevice({ ops: other.ops, device })
    const hwpt = b.hwpt(b.ioas, null)
    expect(errnoOf(() => stranger.attach(hwpt))).toBe("EINVAL")
    const parent = b.nestParent()
    const type = VIOMMU_TYPES[vendor]
    if (type !== null) {
      const viommu = (deviceId: number) => b.iommufd.viommuAlloc({ deviceId, hwptId: parent, type }).id
      expect(errnoOf(() => viommu(stranger.id))).toBe("EINVAL")
      const vdevice = { viommuId: viommu(b.device.id), deviceId: stranger.id, virtualId: 1 }
      expect(errnoOf(() => b.iommufd.vdeviceAlloc(vdevice))).toBe("EINVAL")
    }
    expect(stranger.attach(b.ioas)).not.toBe(b.device.attach(b.ioas))
  })

  it("5.4: PASIDs have page tables of their own, replaced and detached one by one", () => {
    const b = new Bench(vendor, { pasidBits: 8 })
    const [rid, one, two] = [0, 1, 2].map(() => b.hwpt(b.ioas, null, PASID)) as [number, number, number]
    mapped(b, GPA, 1n)
    b.device.attach(rid)
    const reaches = (pasid: number): boolean => {
      const { id } = b.device.device
      return b.model.translate(id, pasid, Number(GPA >> 32n), Number(GPA & 0xffff_ffffn), 1) === 0
    }
    expect([reaches(1), reaches(2)]).toEqual([false, false])
    b.device.attachPasid(1, one)
    b.device.attachPasid(2, two)
    expect(errnoOf(() => b.device.attachPasid(1, two))).toBe("EBUSY")
    b.device.replacePasid(1, two)
    expect([reaches(1), reaches(2)]).toEqual([true, true])
    b.iommufd.destroy(one)
    expect(errnoOf(() => b.iommufd.destroy(two))).toBe("EBUSY")
    b.device.detachPasid(2)
    expect([reaches(1), reaches(2)]).toEqual([true, false])
    expect(errnoOf(() => b.device.attachPasid(256, one))).not.toBe("ok")
    expect(errnoOf(() => b.device.attachPasid(256, two))).toBe("EINVAL")
    expect(errnoOf(() => b.device.replace(b.hwpt(b.ioas, null)))).toBe("EINVAL")
  })
})
