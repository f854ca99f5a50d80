/** The driver's face to iommufd. AMD 48882 rev 3.10; capabilities from the Extended Feature registers, §3.4. */
import {
  type DomainAllocUser,
  type DomainUserData,
  type DriverCapabilities,
  type HwInfo,
  HwInfoType,
  HwptDataType,
  HwptInvalidateDataType,
  type IdentityDomain,
  type IommuCap,
  type IommuDevice,
  type IommuDomain,
  IommuError,
  type IommuOps,
  type IommuPlatform,
  type NestedDomain,
  PageTableFormatId,
  type PagingDomain,
} from "@iommu/core"
import type { DeviceState } from "./attach.ts"
import { untranslatedEntry } from "./device-table.ts"
import { type AmdDriverOptions, type Features, Hardware } from "./hardware.ts"
import { BLOCKED_ID } from "./ids.ts"
import { AmdNestedDomain } from "./nested-domain.ts"
import { AmdPagingDomain } from "./paging-domain.ts"
import { AmdBlockedDomain, AmdIdentityDomain } from "./static-domains.ts"
import { canNest, canUseGuestTables, nestedPlan, pagingPlan, userDataLen } from "./user-data.ts"

export type { AmdDriverOptions } from "./hardware.ts"

/** The ops of this driver: it serves iommufd on all hardware. */
export interface AmdOps extends IommuOps {
  readonly domainAllocUser: DomainAllocUser<DomainUserData>
  readonly identityDomain: IdentityDomain
  domainAllocUserDataLen(hwptType: number): number
}

/**
 * Brings up an AMD-Vi unit and drives it. Until a device is attached to a domain, its DMA is refused.
 * @throws ENOMEM when the platform's pages do not hold the device table, ETIMEDOUT when the hardware does not
 *   answer, EINVAL for options out of range
 */
export function amdDriver(platform: IommuPlatform, options: AmdDriverOptions = {}): AmdOps {
  return new AmdDriver(platform, options)
}

/** Also what all domains of one unit share: `domain.ops`. */
export class AmdDriver implements AmdOps {
  readonly name = "AMD-Vi"
  readonly hardware: Hardware
  readonly capabilities: DriverCapabilities
  readonly blockedDomain: AmdBlockedDomain
  readonly identityDomain: AmdIdentityDomain
  readonly #devices = new Map<number, DeviceState>()

  constructor(platform: IommuPlatform, options: AmdDriverOptions) {
    this.hardware = new Hardware(platform, options)
    this.capabilities = capabilitiesOf(this.hardware.features)
    this.blockedDomain = new AmdBlockedDomain(this)
    this.identityDomain = new AmdIdentityDomain(this)
  }

  capable(_device: IommuDevice, cap: IommuCap): boolean {
    switch (cap) {
      case "CACHE_COHERENCY":
      case "DEFERRED_FLUSH":
        return true
      case "DIRTY_TRACKING":
        return this.capabilities.dirtyTracking
      case "NOEXEC":
      case "PRE_BOOT_PROTECTION":
      case "ENFORCE_CACHE_COHERENCY":
        return false
    }
  }

  hwInfo(_device: IommuDevice): HwInfo {
    const { efr, efr2 } = this.hardware.features
    return { type: HwInfoType.AMD, efr, efr2 }
  }

  probeDevice(device: IommuDevice): void {
    const { deviceTable } = this.hardware
    if (!Number.isInteger(device.id) || device.id < 0 || device.id >= deviceTable.devices) {
      throw new IommuError("ENODEV", `the device table has no entry for DeviceID ${device.id}`)
    }
    if (this.#devices.has(device.id)) {
      throw new IommuError("EEXIST", `a device with DeviceID ${device.id} is probed already`)
    }
    deviceTable.update(device.id, untranslatedEntry(BLOCKED_ID, device, 0n))
    this.#devices.set(device.id, { device, rid: this.blockedDomain, pasids: new Map(), gcr3: null })
  }

  releaseDevice(device: IommuDevice): void {
    const { rid, pasids } = this.stateOf(device)
    if (rid.type === "paging" || rid.type === "nested" || pasids.size > 0) {
      throw new IommuError("EBUSY", `${device.name} is on a user-owned domain`)
    }
    this.blockedDomain.attachDev(device)
    this.#devices.delete(device.id)
  }

  domainAllocUser(device: IommuDevice, parent: null, userData: DomainUserData | null): PagingDomain
  domainAllocUser(device: IommuDevice, parent: IommuDomain, userData: DomainUserData | null): NestedDomain
  domainAllocUser(
    device: IommuDevice,
    parent: IommuDomain | null,
    userData: DomainUserData | null,
  ): PagingDomain | NestedDomain
  domainAllocUser(
    device: IommuDevice,
    parent: IommuDomain | null,
    userData: DomainUserData | null,
  ): PagingDomain | NestedDomain {
    this.stateOf(device)
    return parent === null ? this.#allocPaging(device, userData) : this.#allocNested(parent, userData)
  }

  domainAllocUserDataLen(hwptType: number): number {
    return userDataLen(hwptType)
  }

  /** @throws ENODEV for a device that is not probed here */
  stateOf(device: IommuDevice): DeviceState {
    const state = this.#devices.get(device.id)
    if (state?.device !== device) throw new IommuError("ENODEV", `${device.name} is not probed here`)
    return state
  }

  #allocPaging(device: IommuDevice, userData: DomainUserData | null): AmdPagingDomain {
    if (userData !== null && userData.type !== HwptDataType.PAGING) {
      throw new IommuError(
        "EOPNOTSUPP",
        `a domain without parent takes no user data of type ${userData.type}`,
      )
    }
    return new AmdPagingDomain(this, device, pagingPlan(this.hardware.features, userData))
  }

  #allocNested(parent: IommuDomain, userData: DomainUserData | null): AmdNestedDomain {
    const { features } = this.hardware
    if (!canNest(features)) throw new IommuError("EOPNOTSUPP", "this hardware does not nest")
    if (userData?.type !== HwptDataType.AMD_GUEST) {
      throw new IommuError("EOPNOTSUPP", "a nested domain takes a guest's device table entry as user data")
    }
    if (!(parent instanceof AmdPagingDomain) || parent.ops !== this || !parent.nestParent || parent.isFreed) {
      throw new IommuError("EINVAL", "the parent must be a nest parent that this driver instance made")
    }
    return new AmdNestedDomain(parent, nestedPlan(features, userData))
  }
}

function capabilitiesOf(features: Features): DriverCapabilities {
  const nesting = canNest(features)
  const guestTables = canUseGuestTables(features)
  const formats: number[] = []
  if (features.hostLevels > 0) formats.push(PageTableFormatId.AMD_V1)
  if (guestTables) formats.push(PageTableFormatId.AMD_V2)
  const userDataTypes: number[] = [HwptDataType.PAGING]
  if (nesting) userDataTypes.push(HwptDataType.AMD_GUEST)
  return {
    nesting,
    dirtyTracking: features.HDSup && features.hostLevels > 0,
    pasidBits: guestTables ? features.pasidBits : 0,
    formats,
    userDataTypes,
    invalidateDataTypes: nesting ? [HwptInvalidateDataType.AMD_GUEST] : [],
    // Table walks snoop the processors' caches as long as no entry sets SD (§2.2.2.1).
    coherentWalks: true,
  }
}
