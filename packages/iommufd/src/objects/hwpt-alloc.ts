/** How page tables are made: IOMMU_HWPT_ALLOC, and what attaching to an address space makes by itself. */
import {
  type DomainUserData,
  IommuError,
  iommuDomainFree,
  type MemoryAccount,
  type NestedDomain,
  type PagingDomain,
  pagingParameters,
} from "@iommu/core"
import type { Process } from "../process/process.ts"
import {
  HWPT_ALLOC_DIRTY_TRACKING,
  HWPT_ALLOC_NEST_PARENT,
  HWPT_ALLOC_PASID,
  HWPT_FAULT_ID_VALID,
} from "../uapi/constants.ts"
import type { BoundDevice } from "./device.ts"
import { type Hwpt, HwptNested, HwptPaging } from "./hwpt.ts"
import type { IoasObject } from "./ioas-object.ts"
import type { IommufdContext } from "./iommufd-context.ts"
import type { AnyObject } from "./object.ts"
import type { Draft } from "./object-table.ts"
import { sanitise, type UserBytes } from "./user-bytes.ts"
import type { ViommuObject } from "./viommu.ts"

const PAGING_FLAGS =
  HWPT_ALLOC_NEST_PARENT | HWPT_ALLOC_DIRTY_TRACKING | HWPT_FAULT_ID_VALID | HWPT_ALLOC_PASID
const NESTED_FLAGS = HWPT_FAULT_ID_VALID | HWPT_ALLOC_PASID

export interface HwptAllocRequest {
  readonly deviceId: number
  /** An IOAS for a page table that the driver fills; a nest parent or a vIOMMU for one that the guest fills. */
  readonly parentId: number
  /** `IOMMU_HWPT_ALLOC_*`. */
  readonly flags: number
  readonly data: UserBytes | null
  /** Looked at with FAULT_ID_VALID. */
  readonly faultId: number
}

/** @throws ENOENT for the device, EINVAL for the parent, then what page tables of the parent's kind refuse; nothing is left */
export function draftHwpt(context: IommufdContext, caller: Process, request: HwptAllocRequest): Draft<Hwpt> {
  const { objects } = context
  const device = objects.get(request.deviceId, "device")
  const draft = draftOn(context, caller, device, findParent(context, request.parentId), request)
  if ((request.flags & HWPT_FAULT_ID_VALID) === 0) return draft
  try {
    objects.get(request.faultId, "fault").serve(draft.object)
  } catch (error) {
    draft.abort()
    throw error
  }
  return draft
}

/** Alone among ids, a missing parent is EINVAL and not ENOENT. */
function findParent({ objects }: IommufdContext, id: number): AnyObject {
  try {
    return objects.find(id)
  } catch {
    throw new IommuError("EINVAL", `no object has id ${id}, so it cannot be the parent`)
  }
}

function draftOn(
  context: IommufdContext,
  caller: Process,
  device: BoundDevice,
  parent: AnyObject,
  { flags, data }: HwptAllocRequest,
): Draft<Hwpt> {
  const { account } = caller
  switch (parent.kind) {
    case "ioas":
      checkFlags(flags, PAGING_FLAGS)
      return draftPaging(context, device, parent, { account, isAuto: false, flags, data })
    case "hwpt-paging": {
      checkFlags(flags, NESTED_FLAGS)
      const bytes = required(data)
      return draftNested(context, account, parent, flags, () => nestedOnHwpt(device, parent, flags, bytes))
    }
    case "viommu": {
      checkFlags(flags, NESTED_FLAGS)
      const bytes = required(data)
      return draftNested(context, account, parent, flags, () => nestedOnViommu(device, parent, flags, bytes))
    }
    default:
      throw new IommuError("EINVAL", `a ${parent.kind} is no parent of page tables`)
  }
}

function checkFlags(flags: number, known: number): void {
  if ((flags & ~known) !== 0)
    throw new IommuError("EOPNOTSUPP", `flags ${flags & ~known} are not understood here`)
}

function required(data: UserBytes | null): UserBytes {
  if (data === null) throw new IommuError("EOPNOTSUPP", "a guest's page table needs user data")
  return data
}

export interface PagingOptions {
  readonly account: MemoryAccount
  readonly isAuto: boolean
  readonly flags?: number
  readonly data?: UserBytes | null
}

/** A page table that the driver fills. */
export function draftPaging(
  context: IommufdContext,
  device: BoundDevice,
  ioas: IoasObject,
  { account, isAuto, flags = 0, data = null }: PagingOptions,
): Draft<HwptPaging> {
  if ((flags & HWPT_ALLOC_DIRTY_TRACKING) !== 0 && !device.ops.capable(device.device, "DIRTY_TRACKING")) {
    throw new IommuError("EOPNOTSUPP", `the IOMMU of ${device.device.name} does not track dirty pages`)
  }
  if ((flags & HWPT_FAULT_ID_VALID) !== 0 && (flags & HWPT_ALLOC_NEST_PARENT) !== 0) {
    throw new IommuError("EOPNOTSUPP", "page requests are not delivered for nest parents")
  }
  return context.objects.draft(account, identity => {
    const domain = allocPaging(device, flags & ~HWPT_FAULT_ID_VALID, data)
    try {
      return new HwptPaging(identity, {
        domain,
        ioas,
        isAuto,
        isNestParent: (flags & HWPT_ALLOC_NEST_PARENT) !== 0,
        isPasidCompatible: (flags & HWPT_ALLOC_PASID) !== 0,
        enforcesCoherency: enforceCoherency(device, domain),
      })
    } catch (error) {
      iommuDomainFree(domain)
      throw error
    }
  })
}

function allocPaging({ ops, device }: BoundDevice, flags: number, data: UserBytes | null): PagingDomain {
  if (ops.domainAllocUser === undefined) {
    throw new IommuError("EOPNOTSUPP", `${ops.name} makes no user-owned domains`)
  }
  return ops.domainAllocUser(device, null, pagingData(ops, flags, data))
}

function pagingData(ops: BoundDevice["ops"], flags: number, data: UserBytes | null): DomainUserData | null {
  if (data !== null) return sanitise(ops, data, "paging", flags)
  return flags === 0 ? null : pagingParameters({ flags })
}

/** @throws EINVAL when the device's DMA must be coherent and the domain cannot make it so */
function enforceCoherency(device: BoundDevice, domain: PagingDomain): boolean {
  if (!device.enforcesCoherency) return false
  if (domain.enforceCacheCoherency?.() !== true) {
    throw new IommuError("EINVAL", "the IOMMU enforces coherency, but this domain does not")
  }
  return true
}

/** A page table that the guest fills. */
function draftNested(
  context: IommufdContext,
  account: MemoryAccount,
  parent: HwptPaging | ViommuObject,
  flags: number,
  alloc: () => NestedDomain,
): Draft<HwptNested> {
  return context.objects.draft(
    account,
    identity => new HwptNested(identity, alloc(), parent, (flags & HWPT_ALLOC_PASID) !== 0),
  )
}

function nestedOnHwpt(device: BoundDevice, parent: HwptPaging, flags: number, data: UserBytes): NestedDomain {
  const { ops } = device
  if (ops.domainAllocUser === undefined) {
    throw new IommuError("EOPNOTSUPP", `${ops.name} makes no user-owned domains`)
  }
  if (ops.viommu?.isOnlyWayToNest) {
    throw new IommuError("EOPNOTSUPP", `${ops.name} nests on a vIOMMU, not on a hwpt`)
  }
  if (parent.isAuto || !parent.isNestParent || parent.domain.ops !== ops) {
    throw new IommuError(
      "EINVAL",
      `hwpt ${parent.id} is no nest parent of the IOMMU of ${device.device.name}`,
    )
  }
  const userData = sanitise(ops, data, "nested", flags & ~HWPT_FAULT_ID_VALID)
  return ops.domainAllocUser(device.device, parent.domain, userData)
}

function nestedOnViommu(
  device: BoundDevice,
  viommu: ViommuObject,
  flags: number,
  data: UserBytes,
): NestedDomain {
  const { ops } = device
  const driver = viommu.viommu
  if (driver.domainAllocNested === undefined) {
    throw new IommuError("EOPNOTSUPP", "this kind of vIOMMU makes no nested domains")
  }
  if (viommu.ops !== ops) {
    throw new IommuError("EINVAL", `vIOMMU ${viommu.id} is not of the IOMMU of ${device.device.name}`)
  }
  const allocFlags = flags & ~HWPT_FAULT_ID_VALID
  return driver.domainAllocNested(device.device, sanitise(ops, data, "nested", allocFlags), allocFlags)
}
