/** What a VMM asks the kernel for, however the call is made: typed methods, or ioctls byte by byte. */
import type { CacheInvalidateData, DomainUserData } from "@iommu/core"

export interface HwptRequest {
  readonly deviceId: number
  /** An IOAS, a nest parent or a vIOMMU. */
  readonly parentId: number
  readonly flags: number
  readonly data: DomainUserData | null
}

/** What a read of an event queue gave. */
export interface GuestEvents {
  /** Events that found the queue full, or that the reader missed. */
  readonly lost: number
  /** Each in the vendor's layout, oldest first. */
  readonly events: readonly Uint8Array[]
}

/** Ids and descriptors are the kernel's; wrong calls throw `IommuError`. */
export interface KernelCalls {
  /** System calls so far. */
  readonly count: number
  /** @param deviceFd of a VFIO device file; @returns the device's id */
  bind(deviceFd: number): number
  /** Puts a device on a page table, in place of what it is on. */
  attach(deviceFd: number, ptId: number): void
  /** Blocks a device's DMA. */
  detach(deviceFd: number): void
  close(fd: number): void
  ioasAlloc(): number
  /** At a fixed IOVA, readable and writeable. */
  ioasMap(ioasId: number, userVa: bigint, iova: bigint, length: bigint): void
  ioasUnmap(ioasId: number, iova: bigint, length: bigint): void
  hwptAlloc(request: HwptRequest): number
  viommuAlloc(deviceId: number, hwptId: number, type: number): number
  vdeviceAlloc(viommuId: number, deviceId: number, virtualId: number): number
  veventqAlloc(viommuId: number, type: number, depth: number): { readonly id: number; readonly fd: number }
  /** @param eventBytes of one event */
  readEvents(fd: number, eventBytes: number): GuestEvents
  /** @param id of a nested page table or a vIOMMU; @throws the error of the first entry that is not carried out */
  hwptInvalidate(id: number, data: CacheInvalidateData): void
  destroy(id: number): void
}
