/** VFIO's structs, command numbers and constants next to Linux's newest packaged header, through the C compiler. */
import { describe, expect, it } from "vitest"
import { compiler } from "../../core/test/c-compiler.ts"
import { headersWith, measured, ours } from "../../core/test/c-facts.ts"
import * as vfio from "../src/vfio/constants.ts"
import * as structs from "../src/vfio/structs.ts"

const { VfioCommand, VfioDeviceCommand, VfioExtension } = vfio

const FACTS = {
  layouts: [
    structs.VFIO_DMA_MAP,
    structs.VFIO_DMA_UNMAP,
    structs.VFIO_INFO,
    structs.VFIO_DEVICE_INFO,
    structs.VFIO_BIND,
    structs.VFIO_ATTACH,
    structs.VFIO_DETACH,
  ],
  constants: {
    VFIO_GET_API_VERSION: VfioCommand.GET_API_VERSION,
    VFIO_CHECK_EXTENSION: VfioCommand.CHECK_EXTENSION,
    VFIO_SET_IOMMU: VfioCommand.SET_IOMMU,
    VFIO_IOMMU_GET_INFO: VfioCommand.IOMMU_GET_INFO,
    VFIO_IOMMU_MAP_DMA: VfioCommand.IOMMU_MAP_DMA,
    VFIO_IOMMU_UNMAP_DMA: VfioCommand.IOMMU_UNMAP_DMA,
    VFIO_DEVICE_GET_INFO: VfioDeviceCommand.GET_INFO,
    VFIO_DEVICE_BIND_IOMMUFD: VfioDeviceCommand.BIND_IOMMUFD,
    VFIO_DEVICE_ATTACH_IOMMUFD_PT: VfioDeviceCommand.ATTACH_IOMMUFD_PT,
    VFIO_DEVICE_DETACH_IOMMUFD_PT: VfioDeviceCommand.DETACH_IOMMUFD_PT,
    VFIO_API_VERSION: vfio.VFIO_API_VERSION,
    VFIO_TYPE1_IOMMU: VfioExtension.TYPE1_IOMMU,
    VFIO_TYPE1v2_IOMMU: VfioExtension.TYPE1V2_IOMMU,
    VFIO_DMA_CC_IOMMU: VfioExtension.DMA_CC_IOMMU,
    VFIO_UNMAP_ALL: VfioExtension.UNMAP_ALL,
    VFIO_DMA_MAP_FLAG_READ: vfio.VFIO_DMA_MAP_FLAG_READ,
    VFIO_DMA_MAP_FLAG_WRITE: vfio.VFIO_DMA_MAP_FLAG_WRITE,
    VFIO_DMA_UNMAP_FLAG_ALL: vfio.VFIO_DMA_UNMAP_FLAG_ALL,
    VFIO_IOMMU_INFO_PGSIZES: vfio.VFIO_IOMMU_INFO_PGSIZES,
    VFIO_IOMMU_INFO_CAPS: vfio.VFIO_IOMMU_INFO_CAPS,
    VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE: vfio.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
    VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL: vfio.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
    VFIO_DEVICE_FLAGS_PCI: vfio.VFIO_DEVICE_FLAGS_PCI,
    VFIO_DEVICE_ATTACH_PASID: vfio.VFIO_DEVICE_ATTACH_PASID,
    VFIO_DEVICE_DETACH_PASID: vfio.VFIO_DEVICE_DETACH_PASID,
  },
}

/** A header of the age that AMD's structs have also knows PASIDs of VFIO devices. */
const headers = headersWith("iommu_hwpt_amd_guest")

describe("VFIO's ABI", () => {
  it.skipIf(compiler === null || headers === null)("is laid out as in Linux's header", () => {
    expect(ours(FACTS)).toEqual(measured(FACTS, headers as string))
  })
})
