/** The driver's face to iommufd. AMD 48882 rev 3.10; capabilities from the Extended Feature registers, §3.4. */
import {
  type DomainAllocUser,
  type DomainUserData,
  type DriverCapabilities,
  type FirmwareRegion,
  firmwareRegions,
  firmwareRegionsOf,
  type HardwareEvent,
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
  type ReservedRegion,
  type ViommuOps,
  ViommuType,
} from "@iommu/core"
import type { DeviceState } from "./attach.ts"
import { untranslatedEntry } from "./device-table.ts"
import { handleEvents } from "./events.ts"
import type { Features } from "./features.ts"
import { type AmdDriverOptions, Hardware } from "./hardware.ts"
import { BLOCKED_ID } from "./ids.ts"
import { AmdNestedDomain, AmdViommu, GuestDomains } from "./nested-domain.ts"
import { PageRequests } from "./page-requests.ts"
import { AmdPagingDomain } from "./paging-domain.ts"
import { AmdBlockedDomain, AmdIdentityDomain } from "./static-domains.ts"
import { canNest, canUseGuestTables, nestedPlan, pagingPlan, userDataLen } from "./user-data.ts"

export type { AmdDriverOptions } from "./hardware.ts"

/** The ops of this driver: it serves iommufd on all hardware. */
export interface AmdOps extends IommuOps {
  readonly domainAllocUser: DomainAllocUser<DomainUserData>
  readonly identityDomain: IdentityDomain
  domainAllocUserDataLen(hwptType: number): number
  reservedRegions(device: IommuDevice): readonly ReservedRegion[]
  handleInterrupts(): number
}

/** Interrupt messages, and what was HyperTransport's: addresses that are not memory (§2.1). */
const NEVER_TRANSLATED: readonly ReservedRegion[] = [
  { type: "msi", start: 0xfee0_0000n, last: 0xfeef_ffffn },
  { type: "reserved", start: 0xfd_0000_0000n, last: 0xff_ffff_ffffn },
]

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
  readonly viommu?: ViommuOps
  readonly pageRequests: PageRequests
  /** Virtual IOMMUs that live. */
  readonly viommus: Set<AmdViommu> = new Set()
  readonly #devices = new Map<number, DeviceState>()
  readonly #firmwareRegions: readonly FirmwareRegion[]
  readonly #onEvent: (event: HardwareEvent) => void

  constructor(platform: IommuPlatform, options: AmdDriverOptions) {
    this.#firmwareRegions = firmwareRegions(options.reservedRegions ?? [])
    this.#onEvent = options.onEvent ?? (() => {})
    this.hardware = new Hardware(platform, options)
    this.capabilities = capabilitiesOf(this.hardware.features)
    this.blockedDomain = new AmdBlockedDomain(this)
    this.identityDomain = new AmdIdentityDomain(this)
    this.pageRequests = new PageRequests(this)
    if (this.capabilities.nesting) this.viommu = this.#viommuOps()
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
        return false
      case "ENFORCE_CACHE_COHERENCY":
        // Host tables can, guest tables cannot; whoever asks expects it of every domain.
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
    const state = this.stateOf(device)
    const { rid, pasids } = state
    if (rid.type === "paging" || rid.type === "nested" || pasids.size > 0) {
      throw new IommuError("EBUSY", `${device.name} is on a user-owned domain`)
    }
    if ([...this.viommus].some(viommu => viommu.devices.idOf(device) !== null)) {
      throw new IommuError("EBUSY", `${device.name} has a DeviceID on a virtual IOMMU`)
    }
    this.blockedDomain.attachDev(device)
    this.pageRequests.forgetDevice(state)
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
    return parent === null
      ? this.#allocPaging(device, userData)
      : this.allocNested(device, parent, userData, null)
  }

  domainAllocUserDataLen(hwptType: number): number {
    return userDataLen(hwptType)
  }

  reservedRegions(device: IommuDevice): readonly ReservedRegion[] {
    return [...NEVER_TRANSLATED, ...firmwareRegionsOf(device, this.#firmwareRegions)]
  }

  handleInterrupts(): number {
    return handleEvents(this, this.#onEvent) + this.pageRequests.handle()
  }

  /** The probed device with a DeviceID, or null. */
  deviceAt(deviceId: number): DeviceState | null {
    return this.#devices.get(deviceId) ?? null
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

  /** @param guest whose domain it will be, null for the parent's own guest */
  allocNested(
    device: IommuDevice,
    parent: IommuDomain,
    userData: DomainUserData | null,
    guest: GuestDomains | null,
  ): AmdNestedDomain {
    this.stateOf(device)
    const { features } = this.hardware
    if (!canNest(features)) throw new IommuError("EOPNOTSUPP", "this hardware does not nest")
    if (userData?.type !== HwptDataType.AMD_GUEST) {
      throw new IommuError("EOPNOTSUPP", "a nested domain takes a guest's device table entry as user data")
    }
    const host = this.#nestParent(parent)
    const plan = nestedPlan(features, userData)
    return new AmdNestedDomain(host, plan, guest ?? this.#guestWithoutViommu(host))
  }

  #viommuOps(): ViommuOps {
    return {
      isOnlyWayToNest: true,
      dataLen: (_device, type) => {
        checkViommuType(type)
        return 0
      },
      alloc: (device, parent, type) => {
        this.stateOf(device)
        checkViommuType(type)
        return new AmdViommu(this, this.#nestParent(parent))
      },
    }
  }

  #guestWithoutViommu(parent: AmdPagingDomain): GuestDomains {
    const guests = parent.guests ?? []
    const known = guests.find(({ viommu }) => viommu === null)
    if (known !== undefined) return known
    const fresh = new GuestDomains(this.hardware.domainIds, null)
    parent.guests = [...guests, fresh]
    return fresh
  }

  /** @throws EINVAL */
  #nestParent(parent: IommuDomain): AmdPagingDomain {
    if (!(parent instanceof AmdPagingDomain) || parent.ops !== this || !parent.nestParent || parent.isFreed) {
      throw new IommuError("EINVAL", "the parent must be a nest parent that this driver instance made")
    }
    return parent
  }
}

/** @throws EOPNOTSUPP */
function checkViommuType(type: number): void {
  if (type !== ViommuType.AMD) {
    throw new IommuError("EOPNOTSUPP", `AMD-Vi serves virtual IOMMUs of type AMD, not ${type}`)
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
