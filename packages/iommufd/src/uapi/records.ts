/** Structs that travel through the files of fault queues and event queues. */
import { type StructLayout, type StructValue, structLayout } from "@iommu/core"

const pgfault = {
  flags: ["u32", 0],
  devId: ["u32", 4],
  pasid: ["u32", 8],
  grpid: ["u32", 12],
  perm: ["u32", 16],
  __reserved: ["u32", 20],
  addr: ["u64", 24],
  length: ["u32", 32],
  cookie: ["u32", 36],
} as const
/** `struct iommu_hwpt_pgfault`: what a fault queue's file gives to read. */
export const IOMMU_HWPT_PGFAULT: StructLayout<typeof pgfault> = structLayout(
  "iommu_hwpt_pgfault",
  40,
  pgfault,
)
export type HwptPgfault = StructValue<typeof pgfault>

const pageResponse = { cookie: ["u32", 0], code: ["u32", 4] } as const
/** `struct iommu_hwpt_page_response`: what it takes. */
export const IOMMU_HWPT_PAGE_RESPONSE: StructLayout<typeof pageResponse> = structLayout(
  "iommu_hwpt_page_response",
  8,
  pageResponse,
)

const veventHeader = { flags: ["u32", 0], sequence: ["u32", 4] } as const
/** `struct iommufd_vevent_header`: stands before the data of every event. */
export const IOMMUFD_VEVENT_HEADER: StructLayout<typeof veventHeader> = structLayout(
  "iommufd_vevent_header",
  8,
  veventHeader,
)
