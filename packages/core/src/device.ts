import type { MemoryAccount } from "./memory-account.ts"

/** A device as its IOMMU sees it, and who owns its DMA. Core's `struct device`. */
export interface IommuDevice {
  readonly name: string
  /** The requester's number on the bus: 16-bit source id (VT-d), DeviceID (AMD), 32-bit StreamID (SMMUv3). */
  readonly id: number
  /**
   * The number by which the owner's guest knows the device; commands of the guest carry it. Equal to
   * {@link id} unless a virtual machine renumbers its devices.
   */
  readonly virtualId: number
  /** log2 of the number of PASIDs the device can send, 0 for a device without PASID. */
  readonly pasidBits: number
  /** The device may mark requests with a PASID as instruction fetches, or as privileged (PCIe PASID capability). */
  readonly pasidExecute: boolean
  readonly pasidPrivileged: boolean
  /** True when the device has an address translation cache and may use ATS. */
  readonly ats: boolean
  /** Pays for what the owner's domains cost. Whoever claims the device's DMA puts its account here. */
  account: MemoryAccount
}

export interface DeviceOptions {
  readonly name?: string
  readonly id: number
  readonly virtualId?: number
  readonly pasidBits?: number
  readonly pasidExecute?: boolean
  readonly pasidPrivileged?: boolean
  readonly ats?: boolean
  readonly account: MemoryAccount
}

export function iommuDevice(options: DeviceOptions): IommuDevice {
  return {
    name: options.name ?? `device ${options.id.toString(16)}`,
    id: options.id,
    virtualId: options.virtualId ?? options.id,
    pasidBits: options.pasidBits ?? 0,
    pasidExecute: options.pasidExecute ?? false,
    pasidPrivileged: options.pasidPrivileged ?? false,
    ats: options.ats ?? false,
    account: options.account,
  }
}
