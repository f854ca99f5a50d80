/** The answer to IOMMU_GET_INFO: a struct, and behind it a chain of capabilities, as many as there is room for. */
import {
  VFIO_IOMMU_INFO_CAPS,
  VFIO_IOMMU_INFO_PGSIZES,
  VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
  VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
} from "./constants.ts"
import type { VfioInfo } from "./container.ts"
import { VFIO_INFO } from "./structs.ts"

/** Id, version and the place of the next: `struct vfio_info_cap_header`. */
const HEADER_BYTES = 8
const RANGE_BYTES = 16
const CAPABILITY_VERSION = 1

/**
 * What is written to a caller's buffer of `argsz` bytes. The struct's own argsz says how many all of it needs; only
 * with those does it point to the capabilities.
 */
export function encodeInfo(info: VfioInfo, argsz: number): Uint8Array {
  const capabilities = [dmaAvail(info), iovaRanges(info)]
  const total = capabilities.reduce(
    (bytes, capability) => bytes + roundTo8(capability.length),
    VFIO_INFO.size,
  )
  const image = new Uint8Array(total)
  image.set(
    VFIO_INFO.encode({
      argsz: total,
      flags: VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS,
      iovaPgsizes: info.pageSizes,
      capOffset: argsz >= total ? VFIO_INFO.size : 0,
      pad: 0,
    }),
  )
  let end = VFIO_INFO.size
  for (const [index, capability] of capabilities.entries()) {
    const next = end + roundTo8(capability.length)
    if (index < capabilities.length - 1) new DataView(capability.buffer).setUint32(4, next, true)
    image.set(capability, end)
    end = next
    if (argsz < next) return image.subarray(0, Math.min(argsz, end - roundTo8(capability.length)))
  }
  return image
}

function dmaAvail(info: VfioInfo): Uint8Array<ArrayBuffer> {
  const { bytes, view } = capability(VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, 4)
  view.setUint32(HEADER_BYTES, info.dmaAvail, true)
  return bytes
}

function iovaRanges({ iovaRanges: ranges }: VfioInfo): Uint8Array<ArrayBuffer> {
  const { bytes, view } = capability(VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 8 + ranges.length * RANGE_BYTES)
  view.setUint32(HEADER_BYTES, ranges.length, true)
  ranges.forEach(({ start, last }, index) => {
    const at = HEADER_BYTES + 8 + index * RANGE_BYTES
    view.setBigUint64(at, start, true)
    view.setBigUint64(at + 8, last, true)
  })
  return bytes
}

function capability(
  id: number,
  payloadBytes: number,
): { readonly bytes: Uint8Array<ArrayBuffer>; readonly view: DataView } {
  const bytes = new Uint8Array(HEADER_BYTES + payloadBytes)
  const view = new DataView(bytes.buffer)
  view.setUint16(0, id, true)
  view.setUint16(2, CAPABILITY_VERSION, true)
  return { bytes, view }
}

function roundTo8(bytes: number): number {
  return Math.ceil(bytes / 8) * 8
}
