/** Page requests on their way from a device to the owner of its domain: Linux's `iommu_report_device_fault`. */
import type { PageRequest } from "./ats.ts"
import type { IommuDevice } from "./device.ts"

/** Linux's `enum iommu_page_response_code`, as far as userspace may give it. */
export const PageResponseCode = { SUCCESS: 0, INVALID: 1 } as const
export type PageResponse = (typeof PageResponseCode)[keyof typeof PageResponseCode]

/** All page requests of one group, the last of which asks for an answer. */
export interface PageFaultGroup {
  readonly device: IommuDevice
  readonly pasid: number | null
  readonly requests: readonly PageRequest[]
  /** Answers the group, once; further answers have no effect. */
  respond(code: PageResponse): void
}

/** Takes groups, and answers each some time. */
export type PageFaultHandler = (group: PageFaultGroup) => void
