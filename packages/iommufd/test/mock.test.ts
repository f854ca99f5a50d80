/** The mock IOMMU has the numbers of Linux's selftests, so that their assertions can be written again word for word. */
import * as uapi from "@iommu/iommufd"
import {
  DEVICE_CACHE_DEFAULT,
  DEVICE_CACHE_SLOTS,
  HWPT_DATA_SELFTEST,
  HWPT_INVALIDATE_SELFTEST,
  HWPT_SELFTEST,
  MOCK_HUGE_PAGE_SIZE,
  MOCK_PAGE_SIZE,
  MOCK_PASID_BITS,
  type MockNestedDomain,
  type MockPagingDomain,
  MockTable,
  NESTED_IOTLB_SLOTS,
  VEVENT_SELFTEST,
  VIOMMU_INVALIDATE_SELFTEST,
  VIOMMU_SELFTEST,
} from "@iommu/iommufd/testing"
import { describe, expect, it } from "vitest"
import { testbench } from "./testbench.ts"

describe("3.7 Mock driver", () => {
  it("has pages of 2048 bytes and 1 MiB, and 16 MiB to 2 GiB to map", () => {
    expect([MOCK_PAGE_SIZE, MOCK_HUGE_PAGE_SIZE]).toEqual([2048, 1 << 20])
    const bench = testbench()
    const device = bench.bound()
    const parentId = bench.iommufd.ioasAlloc()
    for (const [pagetableType, pageSizes] of [
      [MockTable.DEFAULT, 0x800n],
      [MockTable.HUGE, 0x10_0800n],
    ] as const) {
      const data = { type: HWPT_DATA_SELFTEST, bytes: HWPT_SELFTEST.encode({ iotlb: 0, pagetableType }) }
      const id = bench.iommufd.hwptAlloc({ deviceId: device.id, parentId, data })
      const domain = bench.iommufd.context.objects.get(id, "hwpt-paging").domain as MockPagingDomain
      expect(domain.pageSizes).toBe(pageSizes)
      expect(domain.aperture).toEqual({ start: 1n << 24n, last: (1n << 31n) - 1n })
    }
  })

  it("has four slots of an IOTLB and of a device cache, and 20 bits of PASID", () => {
    expect([NESTED_IOTLB_SLOTS, DEVICE_CACHE_SLOTS, MOCK_PASID_BITS]).toEqual([4, 4, 20])
    const bench = testbench()
    const device = bench.bound()
    const { iommufd } = bench
    const flags = uapi.HWPT_ALLOC_NEST_PARENT
    const parentId = iommufd.hwptAlloc({ deviceId: device.id, parentId: iommufd.ioasAlloc(), flags })
    const bytes = HWPT_SELFTEST.encode({ iotlb: 0xbadbeef, pagetableType: 0 })
    const id = iommufd.hwptAlloc({ deviceId: device.id, parentId, data: { type: HWPT_DATA_SELFTEST, bytes } })
    const nested = iommufd.context.objects.get(id, "hwpt-nested").domain as MockNestedDomain
    expect(nested.iotlb).toEqual(new Array(4).fill(0xbadbeef))
    expect(DEVICE_CACHE_DEFAULT).toBe(0xbaddad)
    expect(bench.mock.stateOf(device.device).cache).toEqual(new Array(4).fill(0xbaddad))
  })

  it("has structs of the selftests' sizes", () => {
    const structs = [
      HWPT_SELFTEST,
      HWPT_INVALIDATE_SELFTEST,
      VIOMMU_INVALIDATE_SELFTEST,
      VIOMMU_SELFTEST,
      VEVENT_SELFTEST,
    ]
    expect(structs.map(({ size }) => size)).toEqual([8, 8, 12, 24, 4])
  })
})
