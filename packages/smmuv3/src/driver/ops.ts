/** The driver's face: Linux's `struct iommu_ops` for Arm SMMUv3. */
import {
  type DomainAllocUser,
  type DomainUserData,
  type DriverAbi,
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
  PageTableFormatId,
  type PagingDomain,
  type ReservedRegion,
  type ViommuOps,
  ViommuType,
} from "@iommu/core"
import { createPageTable } from "@iommu/pagetable"
import { stage1Format } from "../formats/stage1.ts"
import { stage2Format } from "../formats/stage2.ts"
import { attachRid, type DeviceState } from "./attach.ts"
import { handleEvents } from "./events.ts"
import { Hardware, type SmmuV3DriverOptions } from "./hardware.ts"
import { SmmuNestedDomain, SmmuViommu } from "./nested-domain.ts"
import { PageRequests } from "./page-requests.ts"
import { SmmuPagingDomain, SmmuPasidDomain } from "./paging-domain.ts"
import { SmmuBlockedDomain, SmmuIdentityDomain } from "./static-domains.ts"
import { type Abilities, nestedPlan, type PagingPlan, pagingPlan, userDataLen } from "./user-data.ts"

/** An {@link IommuOps} that serves iommufd: the ops for user-owned domains are there. */
export interface SmmuV3Ops extends IommuOps {
  readonly domainAllocUser: DomainAllocUser<DomainUserData>
  readonly identityDomain: IdentityDomain
  domainAllocUserDataLen(hwptType: number): number
  reservedRegions(device: IommuDevice): readonly ReservedRegion[]
  handleInterrupts(): number
}

/** Where software maps doorbells of MSI controllers: IOVAs that Linux sets aside for it (MSI_IOVA_BASE). */
const SOFTWARE_MSI: ReservedRegion = { type: "sw-msi", start: 0x800_0000n, last: 0x80f_ffffn }

/**
 * Brings an SMMU up and takes charge of it. Every stream aborts until its device is probed and attached.
 * @throws ENODEV for hardware that the driver cannot use, ENOMEM, ETIMEDOUT for hardware that does not answer
 */
export function smmuv3Driver(platform: IommuPlatform, options: SmmuV3DriverOptions = {}): SmmuV3Ops {
  return new SmmuV3Driver(platform, options)
}

/** One SMMU under control: the context of all its domains. */
export class SmmuV3Driver implements SmmuV3Ops {
  readonly name = "Arm SMMUv3"
  readonly hardware: Hardware
  readonly capabilities: DriverCapabilities
  readonly blockedDomain: SmmuBlockedDomain
  readonly identityDomain: SmmuIdentityDomain
  readonly abi: DriverAbi = { foreignNestedData: "EINVAL" }
  readonly viommu?: ViommuOps
  readonly pageRequests: PageRequests
  /** Virtual SMMUs that live. */
  readonly viommus: Set<SmmuViommu> = new Set()
  readonly #abilities: Abilities
  /** The plan of a domain without user data, shared by all of them. */
  readonly #defaultPlan: PagingPlan
  readonly #devices = new Map<number, DeviceState>()
  readonly #firmwareRegions: readonly FirmwareRegion[]
  readonly #onEvent: (event: HardwareEvent) => void

  constructor(platform: IommuPlatform, options: SmmuV3DriverOptions) {
    this.#firmwareRegions = firmwareRegions(options.reservedRegions ?? [])
    this.#onEvent = options.onEvent ?? (() => {})
    this.hardware = new Hardware(platform, options)
    this.#abilities = abilitiesOf(this.hardware)
    this.#defaultPlan = pagingPlan(this.#abilities, null)
    this.capabilities = capabilitiesOf(this.#abilities)
    this.blockedDomain = new SmmuBlockedDomain(this)
    this.identityDomain = new SmmuIdentityDomain(this)
    this.pageRequests = new PageRequests(this)
    if (this.capabilities.nesting) this.viommu = this.#viommuOps()
  }

  capable(device: IommuDevice, cap: IommuCap): boolean {
    this.stateOf(device)
    switch (cap) {
      case "CACHE_COHERENCY":
        return this.hardware.features.COHACC
      case "ENFORCE_CACHE_COHERENCY":
        return this.hardware.canwbs
      case "DIRTY_TRACKING":
        return this.capabilities.dirtyTracking
      case "NOEXEC":
      case "DEFERRED_FLUSH":
        return true
      case "PRE_BOOT_PROTECTION":
        return false
    }
  }

  hwInfo(device: IommuDevice): HwInfo {
    this.stateOf(device)
    const { idr, iidr, aidr } = this.hardware.features
    return { type: HwInfoType.ARM_SMMUV3, flags: 0, __reserved: 0, idr, iidr, aidr }
  }

  probeDevice(device: IommuDevice): void {
    if (this.#devices.has(device.id)) {
      throw new IommuError("EEXIST", `StreamID 0x${device.id.toString(16)} is probed already`)
    }
    this.hardware.deviceTable.add(device.id)
    this.#devices.set(device.id, {
      device,
      rid: this.blockedDomain,
      pasids: new Map(),
      pasidTable: null,
      ats: false,
    })
  }

  releaseDevice(device: IommuDevice): void {
    const state = this.stateOf(device)
    const { rid, pasids } = state
    if (rid.type === "paging" || rid.type === "nested" || pasids.size > 0) {
      throw new IommuError("EBUSY", "the device or a PASID of it is on a user-owned domain")
    }
    if ([...this.viommus].some(viommu => viommu.devices.idOf(device) !== null)) {
      throw new IommuError("EBUSY", "the device has a StreamID on a virtual SMMU")
    }
    attachRid(this, device, this.blockedDomain)
    this.pageRequests.withdraw(state, "all")
    this.#devices.delete(device.id)
    this.hardware.deviceTable.remove(device.id)
  }

  domainAllocUser(device: IommuDevice, parent: null, userData: DomainUserData | null): SmmuPagingDomain
  domainAllocUser(device: IommuDevice, parent: IommuDomain, userData: DomainUserData | null): SmmuNestedDomain
  domainAllocUser(
    device: IommuDevice,
    parent: IommuDomain | null,
    userData: DomainUserData | null,
  ): SmmuPagingDomain | SmmuNestedDomain
  domainAllocUser(
    device: IommuDevice,
    parent: IommuDomain | null,
    userData: DomainUserData | null,
  ): SmmuPagingDomain | SmmuNestedDomain {
    this.stateOf(device)
    return parent === null
      ? this.#allocPaging(device, userData)
      : this.allocNested(device, parent, userData, null)
  }

  domainAllocUserDataLen(hwptType: number): number {
    return userDataLen(this.#abilities, hwptType)
  }

  #allocPaging(device: IommuDevice, userData: DomainUserData | null): SmmuPagingDomain {
    if (userData !== null && userData.type !== HwptDataType.PAGING) {
      throw new IommuError("EOPNOTSUPP", "without a parent, user data is the parameters of a paging domain")
    }
    const plan = userData === null ? this.#defaultPlan : pagingPlan(this.#abilities, userData)
    const { memory, pages, asids, vmids } = this.hardware
    const ids = plan.stage === 1 ? asids : vmids
    const { granuleLg2, lpa2, dirty } = plan
    const options = { lpa2, dirty }
    const tag = ids.take()
    try {
      const table = createPageTable({
        format: plan.stage === 1 ? stage1Format(granuleLg2, options) : stage2Format(granuleLg2, options),
        memory,
        pages,
        account: device.account,
        levels: plan.levels,
        inputBits: plan.inputBits,
        outputBits: plan.outputBits,
        apertureStart: plan.apertureStart,
        apertureLast: plan.apertureLast,
      })
      const takesPasids = plan.stage === 1 && this.capabilities.pasidBits > 0
      const parts = { ops: this, plan, table, tag }
      return takesPasids ? new SmmuPasidDomain(parts) : new SmmuPagingDomain(parts)
    } catch (error) {
      ids.give(tag)
      throw error
    }
  }

  /** @param viommu the virtual SMMU that it is made on, null for the parent alone */
  allocNested(
    device: IommuDevice,
    parent: IommuDomain,
    userData: DomainUserData | null,
    viommu: SmmuViommu | null,
  ): SmmuNestedDomain {
    this.stateOf(device)
    if (!this.capabilities.nesting) throw new IommuError("EOPNOTSUPP", "this SMMU cannot nest")
    if (userData === null || userData.type === HwptDataType.PAGING) {
      throw new IommuError("EOPNOTSUPP", "a nested domain is made from the guest's STE")
    }
    if (userData.type !== HwptDataType.ARM_SMMUV3) {
      throw new IommuError(
        "EINVAL",
        `a nested domain of an SMMU takes ARM_SMMUV3 data, not type ${userData.type}`,
      )
    }
    return new SmmuNestedDomain(this, this.#nestParent(parent), nestedPlan(userData), viommu)
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
        return new SmmuViommu(this, this.#nestParent(parent))
      },
    }
  }

  hasViommuOn(parent: SmmuPagingDomain): boolean {
    return [...this.viommus].some(viommu => viommu.parent === parent)
  }

  /** @throws EINVAL */
  #nestParent(parent: IommuDomain | PagingDomain): SmmuPagingDomain {
    const isOurs = parent instanceof SmmuPagingDomain && parent.ops === this
    if (!isOurs || !parent.nestParent || parent.tag === 0) {
      throw new IommuError("EINVAL", "the parent is a nest parent of this driver instance")
    }
    return parent
  }

  reservedRegions(device: IommuDevice): readonly ReservedRegion[] {
    return [SOFTWARE_MSI, ...firmwareRegionsOf(device, this.#firmwareRegions)]
  }

  handleInterrupts(): number {
    const { eventQueue, pageRequestQueue } = this.hardware
    this.hardware.acknowledgeErrors()
    const events = handleEvents(this, eventQueue, this.#onEvent)
    return events + (pageRequestQueue === null ? 0 : this.pageRequests.handle(pageRequestQueue))
  }

  /** The probed device with a StreamID, or null. */
  deviceAt(streamId: number): DeviceState | null {
    return this.#devices.get(streamId) ?? null
  }

  /** @throws ENODEV for a device that is not probed here */
  stateOf(device: IommuDevice): DeviceState {
    const state = this.#devices.get(device.id)
    if (state?.device !== device)
      throw new IommuError("ENODEV", `${device.name} is not probed by this SMMU's driver`)
    return state
  }
}

/** @throws EOPNOTSUPP */
function checkViommuType(type: number): void {
  if (type !== ViommuType.ARM_SMMUV3) {
    throw new IommuError("EOPNOTSUPP", `an SMMU serves virtual IOMMUs of type ARM_SMMUV3, not ${type}`)
  }
}

function abilitiesOf({ features, canwbs }: Hardware): Abilities {
  return {
    features,
    nesting: features.S1P && features.S2P && canwbs,
    dirtyTracking: features.S1P && features.dirtyState && features.COHACC,
    pasidBits: features.S1P ? features.SSIDSIZE : 0,
  }
}

function capabilitiesOf({ features, nesting, dirtyTracking, pasidBits }: Abilities): DriverCapabilities {
  return {
    nesting,
    dirtyTracking,
    pasidBits,
    formats: [
      ...(features.S1P ? [PageTableFormatId.ARM_64_LPAE_S1] : []),
      ...(features.S2P ? [PageTableFormatId.ARM_64_LPAE_S2] : []),
    ],
    userDataTypes: nesting ? [HwptDataType.PAGING, HwptDataType.ARM_SMMUV3] : [HwptDataType.PAGING],
    invalidateDataTypes: nesting ? [HwptInvalidateDataType.ARM_SMMUV3] : [],
    coherentWalks: features.COHACC,
  }
}
