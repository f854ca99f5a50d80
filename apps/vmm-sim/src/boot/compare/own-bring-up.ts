/** Our own driver on the model that Linux's has had: the same device on a translated domain, one page, one unmap. */
import {
  ACCESS_READ,
  createMemory,
  hi32,
  IOMMU_READ,
  IOMMU_WRITE,
  iommuDevice,
  lo32,
  MemoryAccount,
  NO_PASID,
  PageAllocator,
  pagingParameters,
} from "@iommu/core"
import { NESTED_VENDORS } from "../../nested/vendors.ts"
import type { BootMode, BootPlatform } from "../platform.ts"
import { Transcript, type TranscriptEntry } from "../watch/transcript.ts"

/** What software said until the disk's first translated DMA, and for its first unmap after it. */
export interface BringUp {
  readonly start: readonly TranscriptEntry[]
  readonly unmap: readonly TranscriptEntry[]
}

const BYTES = 64 * 2 ** 20
const TABLES = { base: 0x100_0000, size: 0x300_0000 } as const
const IOVA = 0xffff_f000n

/** @param device requester id of the disk */
export function ownBringUp(platform: BootPlatform, mode: BootMode, device: number): BringUp {
  const memory = createMemory([{ base: 0, size: BYTES }])
  const model = mode.createModel(memory, "exact")
  const transcript = new Transcript(model.mmio, memory, platform.registers.specs, platform.commandQueue)
  const vendor = NESTED_VENDORS[platform.name]
  if (vendor === undefined) throw new Error(`no driver of ${platform.name}`)
  const pages = new PageAllocator(memory, TABLES)
  const ops = vendor.hostDriver({ mmio: transcript, memory, pages }, {})
  const disk = iommuDevice({ id: device, account: new MemoryAccount("disk") })
  ops.probeDevice(disk)
  const domain = ops.domainAllocUser?.(disk, null, pagingParameters({}))
  if (domain === undefined) throw new Error(`${ops.name} makes no user-owned domains`)
  domain.attachDev(disk)
  domain.map(IOVA, 0x5000n, 0x1000n, IOMMU_READ | IOMMU_WRITE)
  const status = model.translate(device, NO_PASID, hi32(IOVA), lo32(IOVA), ACCESS_READ)
  if (status !== 0) throw new Error(`our own driver's page is refused: ${model.result.fault?.detail}`)
  const started = transcript.entries.length
  domain.unmap(IOVA, 0x1000n)
  return { start: transcript.entries.slice(0, started), unmap: transcript.entries.slice(started) }
}
