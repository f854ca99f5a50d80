/** The driver: what it can do, the devices it serves, the domains it makes. Intel VT-d 5.10 (D51397-018). */
import {
  type DomainAllocUser,
  type DomainUserData,
  type DriverCapabilities,
  type FirmwareRegion,
  firmwareRegions,
  firmwareRegionsOf,
  type HardwareEvent,
  HW_INFO_VTD_ERRATA_772415_SPR17,
  type HwInfo,
  HwInfoType,
  HwptDataType,
  HwptInvalidateDataType,
  type IdPool,
  type IommuCap,
  type IommuDevice,
  type IommuDomain,
  IommuError,
  type IommuOps,
  type IommuPlatform,
  NO_PASID,
  PageTableFormatId,
  type ReservedRegion,
} from "@iommu/core"
import { blockPasid, blockRid, type DeviceState } from "./attach.ts"
import {
  changeEntry,
  DeviceTable,
  type Entry,
  SCALABLE_CONTEXT_ENTRY_WORDS,
  scalableContext,
} from "./device-table.ts"
import { handleEvents } from "./events.ts"
import type { Features } from "./features.ts"
import { Hardware, type VtdDriverOptions } from "./hardware.ts"
import { domainIds } from "./ids.ts"
import { invalidateNewContextEntry, invalidateScalableContext } from "./invalidate.ts"
import { VtdNestedDomain } from "./nested-domain.ts"
import { PageRequests } from "./page-requests.ts"
import { VtdPagingDomain } from "./paging-domain.ts"
import { PasidTable } from "./pasid-table.ts"
import { IDENTITY_DID, VtdBlockedDomain, VtdIdentityDomain } from "./static-domains.ts"
import { pagingPlan, userDataLen } from "./user-data.ts"

/** An {@link IommuOps} that serves iommufd: the ops for user-owned domains are there. */
export interface VtdOps extends IommuOps {
  readonly domainAllocUser: DomainAllocUser<DomainUserData>
  domainAllocUserDataLen(hwptType: number): number
  reservedRegions(device: IommuDevice): readonly ReservedRegion[]
  handleInterrupts(): number
}

/** Interrupt messages: requests to these addresses are not translated. §3.15. */
const INTERRUPT_RANGE: ReservedRegion = { type: "msi", start: 0xfee0_0000n, last: 0xfeef_ffffn }

/**
 * Starts a remapping unit and takes charge of it.
 * @throws ENODEV for hardware that cannot be served, ENOMEM, ETIMEDOUT and EIO for hardware that does not answer
 */
export function vtdDriver(platform: IommuPlatform, options: VtdDriverOptions = {}): VtdOps {
  return new VtdDriver(platform, options)
}

/** Also what all domains of one unit share: `domain.ops`. */
export class VtdDriver implements VtdOps {
  readonly name = "Intel VT-d"
  readonly hardware: Hardware
  readonly deviceTable: DeviceTable
  readonly ids: IdPool
  readonly capabilities: DriverCapabilities
  readonly blockedDomain: VtdBlockedDomain
  readonly identityDomain?: VtdIdentityDomain
  /** New mappings have to be made known to the hardware: caching mode, or buffered writes. */
  readonly announcesMaps: boolean
  readonly pageRequests: PageRequests
  readonly #devices = new Map<number, DeviceState>()
  readonly #firmwareRegions: readonly FirmwareRegion[]
  readonly #onEvent: (event: HardwareEvent) => void

  constructor(platform: IommuPlatform, options: VtdDriverOptions) {
    this.#firmwareRegions = firmwareRegions(options.reservedRegions ?? [])
    this.#onEvent = options.onEvent ?? (() => {})
    this.hardware = new Hardware(platform, options)
    const { features } = this.hardware
    this.deviceTable = startWithTable(this.hardware)
    this.ids = domainIds(IDENTITY_DID + 1, features.domainIdBits)
    this.capabilities = manifest(features)
    this.announcesMaps = features.cachingMode || features.writeBufferFlush
    this.pageRequests = new PageRequests(this)
    this.blockedDomain = new VtdBlockedDomain(this)
    if (features.passThrough) this.identityDomain = new VtdIdentityDomain(this)
  }

  capable(_device: IommuDevice, cap: IommuCap): boolean {
    const { features } = this.hardware
    switch (cap) {
      case "CACHE_COHERENCY":
      case "DEFERRED_FLUSH":
        return true
      case "ENFORCE_CACHE_COHERENCY":
        return features.snoopControl
      case "DIRTY_TRACKING":
        return features.dirtyTracking
      case "NOEXEC":
      case "PRE_BOOT_PROTECTION":
        return false
    }
  }

  hwInfo(device: IommuDevice): HwInfo {
    this.stateOf(device)
    const { cap, ecap } = this.hardware.features
    return {
      type: HwInfoType.INTEL_VTD,
      flags: HW_INFO_VTD_ERRATA_772415_SPR17,
      __reserved: 0,
      capReg: cap,
      ecapReg: ecap,
    }
  }

  probeDevice(device: IommuDevice): void {
    if (!Number.isInteger(device.id) || device.id < 0 || device.id > 0xffff) {
      throw new IommuError("ENODEV", "a source id has 16 bits")
    }
    if (this.#devices.has(device.id)) {
      throw new IommuError("EEXIST", `source id 0x${device.id.toString(16)} is probed already`)
    }
    const context = this.deviceTable.prepare(device.id)
    this.#devices.set(device.id, deviceState(this.hardware, device, context))
  }

  releaseDevice(device: IommuDevice): void {
    const state = this.stateOf(device)
    const attachments = [...state.pasids.values(), ...(state.rid ? [state.rid] : [])]
    if (attachments.some(({ domain }) => domain.type !== "identity")) {
      throw new IommuError("EBUSY", `${device.name} is on a user-owned domain`)
    }
    for (const { pasid } of attachments) {
      if (pasid === NO_PASID) blockRid(state)
      else blockPasid(state, pasid)
    }
    if (state.pasidTable !== null) {
      changeScalableContext(this.hardware, state, null)
      state.pasidTable.free()
    }
    this.pageRequests.withdraw(state, "all")
    this.#devices.delete(device.id)
  }

  domainAllocUser(device: IommuDevice, parent: null, data: DomainUserData | null): VtdPagingDomain
  domainAllocUser(device: IommuDevice, parent: IommuDomain, data: DomainUserData | null): VtdNestedDomain
  domainAllocUser(
    device: IommuDevice,
    parent: IommuDomain | null,
    data: DomainUserData | null,
  ): VtdPagingDomain | VtdNestedDomain
  domainAllocUser(
    device: IommuDevice,
    parent: IommuDomain | null,
    data: DomainUserData | null,
  ): VtdPagingDomain | VtdNestedDomain {
    this.stateOf(device)
    return parent === null ? this.#allocPaging(device, data) : this.#allocNested(parent, data)
  }

  domainAllocUserDataLen(hwptType: number): number {
    return userDataLen(this.hardware.features, hwptType)
  }

  reservedRegions(device: IommuDevice): readonly ReservedRegion[] {
    return [INTERRUPT_RANGE, ...firmwareRegionsOf(device, this.#firmwareRegions)]
  }

  handleInterrupts(): number {
    return handleEvents(this.hardware, this.#onEvent) + this.pageRequests.handle()
  }

  /** The probed device with a source id, or null. */
  deviceAt(sourceId: number): DeviceState | null {
    return this.#devices.get(sourceId) ?? null
  }

  /** @throws ENODEV for a device that is not probed here */
  stateOf(device: IommuDevice): DeviceState {
    const state = this.#devices.get(device.id)
    if (state?.device !== device) throw new IommuError("ENODEV", `${device.name} is not probed`)
    return state
  }

  #allocPaging(device: IommuDevice, data: DomainUserData | null): VtdPagingDomain {
    if (data !== null && data.type !== HwptDataType.PAGING) {
      throw new IommuError("EOPNOTSUPP", `user data of type ${data.type} does not describe a paging domain`)
    }
    return new VtdPagingDomain(this, pagingPlan(this.hardware.features, data), device.account)
  }

  #allocNested(parent: IommuDomain, data: DomainUserData | null): VtdNestedDomain {
    if (!this.hardware.features.nesting) throw new IommuError("EOPNOTSUPP", "the hardware does not nest")
    if (data === null || data.type !== HwptDataType.VTD_S1) {
      throw new IommuError("EOPNOTSUPP", "a nested domain takes user data of type VTD_S1")
    }
    if (!(parent instanceof VtdPagingDomain) || parent.ops !== this || !parent.nestParent) {
      throw new IommuError("EINVAL", "the parent is a nest parent of the same remapping unit")
    }
    parent.checkAlive()
    return new VtdNestedDomain(this, parent, data)
  }
}

function manifest(features: Features): DriverCapabilities {
  const { VTD_SECOND_STAGE, X86_64_FIRST_STAGE } = PageTableFormatId
  return {
    nesting: features.nesting,
    dirtyTracking: features.dirtyTracking,
    pasidBits: features.pasidBits,
    formats: [
      ...(features.firstStageLevels.length > 0 ? [X86_64_FIRST_STAGE] : []),
      ...(features.secondStageLevels.length > 0 ? [VTD_SECOND_STAGE] : []),
    ],
    userDataTypes: features.nesting ? [HwptDataType.VTD_S1, HwptDataType.PAGING] : [HwptDataType.PAGING],
    invalidateDataTypes: features.nesting ? [HwptInvalidateDataType.VTD_S1] : [],
    coherentWalks: features.coherentWalks,
  }
}

function startWithTable(hardware: Hardware): DeviceTable {
  try {
    const table = new DeviceTable(hardware)
    try {
      hardware.start(BigInt(table.root))
      return table
    } catch (error) {
      table.free()
      throw error
    }
  } catch (error) {
    hardware.free()
    throw error
  }
}

/** The structures of a device, with its DMA blocked. @throws ENOMEM, EIO, ETIMEDOUT; nothing is kept then */
function deviceState(hardware: Hardware, device: IommuDevice, context: bigint): DeviceState {
  const { features } = hardware
  const pasidBits = Math.min(features.pasidBits, device.pasidBits)
  const pasidTable = features.scalable ? new PasidTable(hardware, pasidBits) : null
  const usesAts = device.ats && features.deviceTlb
  const nothing = { rid: null, pasids: new Map<number, never>(), asksForPages: false }
  const state: DeviceState = { device, usesAts, pasidBits, context, pasidTable, ...nothing }
  if (pasidTable === null) return state
  try {
    changeScalableContext(hardware, state, scalableContext(features, pasidTable, usesAts))
  } catch (error) {
    pasidTable.free()
    throw error
  }
  return state
}

function changeScalableContext(hardware: Hardware, state: DeviceState, entry: Entry | null): void {
  changeEntry(hardware.memory, state.context, entry, SCALABLE_CONTEXT_ENTRY_WORDS, {
    removed: () => invalidateScalableContext(hardware, state),
    added: () => invalidateNewContextEntry(hardware, state, null),
  })
}
