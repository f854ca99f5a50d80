/** Devices of the mock IOMMU, and what the mock remembers of each. */
import {
  type DeviceOptions,
  type IommuDevice,
  type IommuDomain,
  iommuDevice,
  type MemoryAccount,
} from "@iommu/core"
import type { MockViommu } from "./mock-viommu.ts"

/** log2 of the PASIDs of a mock device made with PASID. */
export const MOCK_PASID_BITS = 20
/** Slots of the pretended device cache, and what is in them at first. */
export const DEVICE_CACHE_SLOTS = 4
export const DEVICE_CACHE_DEFAULT = 0xbad_dad

export interface MockDeviceOptions extends Omit<DeviceOptions, "pasidBits"> {
  /** `MOCK_FLAGS_DEVICE_PASID`. */
  readonly pasid?: boolean
  /** `MOCK_FLAGS_DEVICE_NO_DIRTY`. */
  readonly noDirty?: boolean
}

/** A device, or one PASID of it, on a domain. */
interface MockAttachment {
  readonly domain: IommuDomain
  /** Paid for it. */
  readonly account: MemoryAccount
}

/** What the mock knows of a probed device. */
export interface MockDeviceState {
  readonly device: IommuDevice
  /** By PASID, NO_PASID for requests without one. */
  readonly attachments: Map<number, MockAttachment>
  readonly cache: number[]
  viommu: MockViommu | null
  /** The next attach of PASID 1024 fails: for tests of what is rolled back. */
  failsPasid1024: boolean
}

/** Devices made with `noDirty`. */
const withoutDirty = new WeakSet<IommuDevice>()

export function mockDevice({ pasid = false, noDirty = false, ...options }: MockDeviceOptions): IommuDevice {
  const device = iommuDevice({ ...options, pasidBits: pasid ? MOCK_PASID_BITS : 0 })
  if (noDirty) withoutDirty.add(device)
  return device
}

export function tracksDirty(device: IommuDevice): boolean {
  return !withoutDirty.has(device)
}

export function newDeviceState(device: IommuDevice): MockDeviceState {
  const cache = new Array<number>(DEVICE_CACHE_SLOTS).fill(DEVICE_CACHE_DEFAULT)
  return { device, attachments: new Map(), cache, viommu: null, failsPasid1024: false }
}
