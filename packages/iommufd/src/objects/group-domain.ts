/** All members of a group on one domain: Linux's `__iommu_group_set_domain` and `__iommu_set_group_pasid`. */
import { type IommuDevice, IommuError, NO_PASID } from "@iommu/core"
import type { BoundDevice } from "./device.ts"
import type { IommuGroup } from "./group.ts"
import { type Hwpt, pagingOf } from "./hwpt.ts"

/**
 * Rules that do not need the driver.
 * @throws EINVAL, EOPNOTSUPP
 */
export function checkCompatible(device: BoundDevice, pasid: number, hwpt: Hwpt): void {
  const { group } = device
  if (pasid === NO_PASID) {
    const hasPasids = [...group.attachments.keys()].some(key => key !== NO_PASID)
    if (hasPasids && !hwpt.isPasidCompatible) {
      throw new IommuError("EINVAL", "PASIDs are attached, so the page table must be allocated for PASIDs")
    }
  } else {
    checkPasidRules(device, pasid, hwpt)
  }
  if (hwpt.fault !== null && device.sharesPageRequests) {
    throw new IommuError("EINVAL", "a virtual function that shares page requests cannot have its own")
  }
  if (hwpt.fault !== null && hwpt.domain.pageFaultHandler === undefined) {
    throw new IommuError("ENODEV", `${group.ops.name} reports no page requests`)
  }
  if (hwpt.domain.ops !== group.ops) {
    throw new IommuError("EINVAL", `hwpt ${hwpt.id} belongs to another IOMMU than ${device.device.name}`)
  }
  if (pagingOf(hwpt).enforcesCoherency && !device.enforcesCoherency) {
    throw new IommuError("EINVAL", `the IOMMU of ${device.device.name} cannot make its DMA coherent`)
  }
  if (group.resetting !== null) {
    throw new IommuError("EBUSY", `${group.resetting.name} is being reset`)
  }
}

function checkPasidRules({ group, pasidBits }: BoundDevice, pasid: number, hwpt: Hwpt): void {
  if (!hwpt.isPasidCompatible) {
    throw new IommuError("EINVAL", `hwpt ${hwpt.id} is not allocated for PASIDs`)
  }
  if (group.rid !== undefined && !group.rid.hwpt.isPasidCompatible) {
    throw new IommuError("EINVAL", "requests without PASID are on a hwpt that is not allocated for PASIDs")
  }
  if (hwpt.domain.setDevPasid === undefined || group.ops.blockedDomain.setDevPasid === undefined) {
    throw new IommuError("EOPNOTSUPP", `${group.ops.name} attaches no PASIDs`)
  }
  // A device without PASID never sends one, and takes no part.
  const bits = [pasidBits, ...group.members.map(member => sendable(group, member))].filter(n => n > 0)
  if (bits.some(width => pasid >= 2 ** width)) {
    throw new IommuError("EINVAL", `PASID ${pasid} is wider than what a device of the group sends`)
  }
}

/** Puts all members on a page table's domain, all or none. @param old what they are on now */
export function putMembers(group: IommuGroup, pasid: number, hwpt: Hwpt, old: Hwpt | null): void {
  const done: IommuDevice[] = []
  try {
    for (const member of membersWith(group, pasid)) {
      put(hwpt, member, pasid)
      done.push(member)
    }
  } catch (error) {
    for (const member of done) putBack(member, pasid, hwpt, old)
    throw error
  }
}

/** A member that cannot go back is blocked: nothing else is safe. */
function putBack(member: IommuDevice, pasid: number, hwpt: Hwpt, old: Hwpt | null): void {
  if (old === null) {
    take(hwpt, member, pasid)
    return
  }
  try {
    put(old, member, pasid)
  } catch {
    take(hwpt, member, pasid)
  }
}

/** Takes all members off; their DMA is blocked. One that is being reset is off already. */
export function blockMembers(group: IommuGroup, pasid: number, hwpt: Hwpt): void {
  for (const member of membersWith(group, pasid)) if (member !== group.resetting) take(hwpt, member, pasid)
}

export function beginReset(group: IommuGroup, device: IommuDevice): void {
  if (group.resetting !== null) throw new IommuError("EBUSY", `${group.resetting.name} is being reset`)
  for (const [pasid, hwpt] of tablesOf(group, device)) take(hwpt, device, pasid)
  group.resetting = device
}

export function endReset(group: IommuGroup, device: IommuDevice): void {
  if (group.resetting !== device) throw new IommuError("EINVAL", `${device.name} is not being reset`)
  group.resetting = null
  for (const [pasid, hwpt] of tablesOf(group, device)) put(hwpt, device, pasid)
}

/** What a member is on, by PASID. */
function tablesOf(group: IommuGroup, device: IommuDevice): (readonly [pasid: number, hwpt: Hwpt])[] {
  return [...group.attachments]
    .filter(([pasid]) => membersWith(group, pasid).includes(device))
    .map(([pasid, { hwpt }]) => [pasid, hwpt])
}

function put({ domain }: Hwpt, device: IommuDevice, pasid: number): void {
  if (pasid === NO_PASID) domain.attachDev(device)
  else domain.setDevPasid?.(device, pasid)
}

function take({ domain }: Hwpt, device: IommuDevice, pasid: number): void {
  if (pasid === NO_PASID) domain.detachDev(device)
  else domain.removeDevPasid?.(device, pasid)
}

function membersWith(group: IommuGroup, pasid: number): readonly IommuDevice[] {
  return pasid === NO_PASID ? group.members : group.members.filter(member => sendable(group, member) > 0)
}

/** log2 of the PASIDs that a member can send through the IOMMU. */
function sendable({ ops }: IommuGroup, { pasidBits }: IommuDevice): number {
  return Math.min(pasidBits, ops.capabilities.pasidBits)
}
