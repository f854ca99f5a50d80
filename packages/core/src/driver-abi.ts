/**
 * How bytes of userspace become what a driver takes, and back. Core has the layouts of its own types; a third-party
 * driver offers those of its types in {@link DriverAbi}, and goes through the same doors.
 */
import type { CacheInvalidateData, DomainUserData, HwInfo } from "./user-data.ts"

/** One kind of user data of `domainAllocUser`. */
export interface UserDataLayout {
  /** What data of this kind can describe. */
  readonly describes: "paging" | "nested" | "either"
  /** Bytes of the struct. */
  readonly size: number
  /** Fewest bytes that userspace may pass; missing ones count as zero. */
  readonly minSize: number
  /**
   * @param bytes {@link size} bytes
   * @param flags `IOMMU_HWPT_ALLOC_*` of the call; data of a paging domain takes them over
   */
  decode(bytes: Uint8Array, flags: number): DomainUserData
}

/** One kind of invalidation requests. */
export interface InvalidateLayout {
  /** Bytes of one entry. */
  readonly size: number
  readonly minSize: number
  /**
   * Which of Linux's helpers reads the array. `entry`: each entry when its turn comes; one that is longer than
   * {@link size} is EINVAL. `array`: all before the first is carried out; longer ones end in zeros, else E2BIG.
   */
  readonly copies: "entry" | "array"
  /** @param entries of {@link size} bytes each */
  decode(entries: readonly Uint8Array[]): CacheInvalidateData
}

/** The layouts that a driver brings along. Each answers null for a type that it does not have. */
export interface DriverAbi {
  /**
   * What userspace gets for a nested domain of a kind of data that the driver does not nest with: Linux's drivers do
   * not agree. EOPNOTSUPP when left out.
   */
  readonly foreignNestedData?: "EINVAL"
  userData?(hwptType: number): UserDataLayout | null
  /** Invalidations of a nested domain. */
  nestedInvalidate?(type: number): InvalidateLayout | null
  /** Invalidations of a virtual IOMMU. */
  viommuInvalidate?(type: number): InvalidateLayout | null
  hwInfo?(info: HwInfo): Uint8Array | null
}
