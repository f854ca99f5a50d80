/** Hardware page tables: a driver's domain under an id. Linux's `iommufd_hwpt_paging` and `iommufd_hwpt_nested`. */
import { iommuDomainFree, type NestedDomain, type PagingDomain } from "@iommu/core"
import type { FaultQueue } from "./fault-queue.ts"
import type { IoasObject } from "./ioas-object.ts"
import { type Identity, KernelObject, type ObjectState } from "./object.ts"
import type { ViommuObject } from "./viommu.ts"

export type Hwpt = HwptPaging | HwptNested

export interface PagingProperties {
  readonly domain: PagingDomain
  readonly ioas: IoasObject
  /** Made by attaching a device to an IOAS; goes with its last device. */
  readonly isAuto: boolean
  readonly isNestParent: boolean
  readonly isPasidCompatible: boolean
  readonly enforcesCoherency: boolean
}

/** A page table that the driver fills from an address space. */
export class HwptPaging extends KernelObject {
  readonly kind = "hwpt-paging"
  readonly domain: PagingDomain
  readonly ioas: IoasObject
  readonly isAuto: boolean
  readonly isNestParent: boolean
  readonly isPasidCompatible: boolean
  readonly enforcesCoherency: boolean
  fault: FaultQueue | null = null

  /** The address space gets the domain to fill; on failure the domain is still the caller's. */
  constructor(identity: Identity, properties: PagingProperties) {
    super(identity)
    this.domain = properties.domain
    this.ioas = properties.ioas
    this.isAuto = properties.isAuto
    this.isNestParent = properties.isNestParent
    this.isPasidCompatible = properties.isPasidCompatible
    this.enforcesCoherency = properties.enforcesCoherency
    this.ioas.addPageTable(this)
  }

  destroy(): void {
    releaseFault(this)
    this.ioas.context.softwareMsi.unmapAll(this.domain)
    this.ioas.removePageTable(this)
    iommuDomainFree(this.domain)
  }

  state(): ObjectState {
    return {
      ioas: this.ioas.id,
      auto: this.isAuto,
      nestParent: this.isNestParent,
      pasid: this.isPasidCompatible,
      dirtyTracking: this.domain.dirty !== undefined,
      enforcesCoherency: this.enforcesCoherency,
      fault: this.fault?.id ?? null,
    }
  }
}

/** What a guest's page table stands on. */
export type NestedParent = HwptPaging | ViommuObject

/** A page table that the guest fills. */
export class HwptNested extends KernelObject {
  readonly kind = "hwpt-nested"
  readonly domain: NestedDomain
  readonly parent: NestedParent
  readonly isPasidCompatible: boolean
  fault: FaultQueue | null = null

  constructor(identity: Identity, domain: NestedDomain, parent: NestedParent, isPasidCompatible: boolean) {
    super(identity)
    this.domain = domain
    this.parent = parent
    this.isPasidCompatible = isPasidCompatible
    parent.users++
  }

  destroy(): void {
    releaseFault(this)
    iommuDomainFree(this.domain)
    this.parent.users--
  }

  state(): ObjectState {
    return { parent: this.parent.id, pasid: this.isPasidCompatible, fault: this.fault?.id ?? null }
  }
}

/** The page table that the driver fills: the hwpt itself, or the one below a guest's. */
export function pagingOf(hwpt: Hwpt): HwptPaging {
  if (hwpt.kind === "hwpt-paging") return hwpt
  return hwpt.parent.kind === "viommu" ? hwpt.parent.parent : hwpt.parent
}

function releaseFault(hwpt: Hwpt): void {
  if (hwpt.fault === null) return
  if (hwpt.domain.pageFaultHandler !== undefined) hwpt.domain.pageFaultHandler = null
  hwpt.fault.users--
  hwpt.fault = null
}
