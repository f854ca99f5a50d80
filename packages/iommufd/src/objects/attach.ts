/** Attach, replace and detach as users call them: Linux's `iommufd_device_attach` and its kin. */
import { IommuError, isIommuError, NO_PASID, type ReservedRegion } from "@iommu/core"
import type { BoundDevice } from "./device.ts"
import { blockMembers, checkCompatible, putMembers } from "./group-domain.ts"
import { type Hwpt, type HwptPaging, pagingOf } from "./hwpt.ts"
import { draftPaging } from "./hwpt-alloc.ts"
import type { IoasObject } from "./ioas-object.ts"

type Put = (device: BoundDevice, pasid: number, hwpt: Hwpt) => void

/** @returns id of the page table used: the one named, or one of the address space named */
export function attachTo(device: BoundDevice, pasid: number, ptId: number): number {
  return change(device, pasid, ptId, attach)
}

/** {@link attachTo} in place of the present page table. When it throws, that one stays. */
export function replaceWith(device: BoundDevice, pasid: number, ptId: number): number {
  return change(device, pasid, ptId, replace)
}

function change(device: BoundDevice, pasid: number, ptId: number, put: Put): number {
  const target = device.context.objects.find(ptId)
  switch (target.kind) {
    case "hwpt-paging":
    case "hwpt-nested":
      put(device, pasid, target)
      return target.id
    case "ioas":
      return changeToAddressSpace(device, pasid, target, put).id
    default:
      throw new IommuError(
        "EINVAL",
        `devices attach to page tables and address spaces, not to a ${target.kind}`,
      )
  }
}

/** On the first page table of the address space that suits the device, or on one made for it. */
function changeToAddressSpace(device: BoundDevice, pasid: number, ioas: IoasObject, put: Put): HwptPaging {
  for (const hwpt of ioas.pageTables.filter(({ isAuto }) => isAuto)) {
    try {
      put(device, pasid, hwpt)
      return hwpt
    } catch (error) {
      // EINVAL says that this page table does not suit the device; another may.
      if (!isIommuError(error) || error.code !== "EINVAL") throw error
    }
  }
  const { context } = device
  const draft = draftPaging(context, device, ioas, { account: context.process.account, isAuto: true })
  try {
    put(device, pasid, draft.object)
  } catch (error) {
    draft.abort()
    throw error
  }
  return draft.publish()
}

function attach(device: BoundDevice, pasid: number, hwpt: Hwpt): void {
  const { group } = device
  const current = group.attachments.get(pasid)
  if (current?.devices.has(device)) {
    throw new IommuError("EBUSY", `${device.device.name} is attached already; replace it instead`)
  }
  if (current !== undefined && current.hwpt !== hwpt) {
    throw new IommuError("EINVAL", `group "${group.name}" is on hwpt ${current.hwpt.id}`)
  }
  const { ioas } = pagingOf(hwpt).ioas
  if (pasid === NO_PASID) ioas.reserve(device, reservedRegions(device))
  try {
    if (current === undefined) {
      checkCompatible(device, pasid, hwpt)
      putMembers(group, pasid, hwpt, null)
      const handle = { device }
      group.attachments.set(pasid, { hwpt, handle, devices: new Set([device]) })
    } else {
      current.devices.add(device)
    }
  } catch (error) {
    if (pasid === NO_PASID) ioas.unreserve(device)
    throw error
  }
  hwpt.users++
}

function replace(device: BoundDevice, pasid: number, hwpt: Hwpt): void {
  const { group } = device
  const attachment = group.attachments.get(pasid)
  if (!attachment?.devices.has(device)) {
    throw new IommuError("EINVAL", `${device.device.name} is on no page table that could be replaced`)
  }
  const old = attachment.hwpt
  if (old === hwpt) return
  const moves = pasid === NO_PASID && pagingOf(old).ioas !== pagingOf(hwpt).ioas
  if (moves) reserveAll(attachment.devices, pagingOf(hwpt).ioas)
  try {
    checkCompatible(device, pasid, hwpt)
    putMembers(group, pasid, hwpt, old)
  } catch (error) {
    if (moves) unreserveAll(attachment.devices, pagingOf(hwpt).ioas)
    throw error
  }
  if (moves) unreserveAll(attachment.devices, pagingOf(old).ioas)
  old.fault?.answerAll(attachment.handle)
  attachment.hwpt = hwpt
  attachment.handle = { device }
  hwpt.users += attachment.devices.size
  letGo(device, old, attachment.devices.size)
}

/** Takes a device off what it is on, if anything. */
export function detach(device: BoundDevice, pasid: number): void {
  const { group } = device
  const attachment = group.attachments.get(pasid)
  if (!attachment?.devices.has(device)) return
  const { hwpt } = attachment
  attachment.devices.delete(device)
  if (attachment.devices.size === 0) {
    blockMembers(group, pasid, hwpt)
    group.attachments.delete(pasid)
    hwpt.fault?.answerAll(attachment.handle)
  }
  if (pasid === NO_PASID) pagingOf(hwpt).ioas.ioas.unreserve(device)
  letGo(device, hwpt, 1)
}

function letGo(device: BoundDevice, hwpt: Hwpt, users: number): void {
  hwpt.users -= users
  if (hwpt.kind === "hwpt-paging" && hwpt.isAuto && hwpt.users === 0) device.context.objects.destroy(hwpt)
}

function reserveAll(devices: ReadonlySet<BoundDevice>, { ioas }: IoasObject): void {
  const done: BoundDevice[] = []
  try {
    for (const device of devices) {
      ioas.reserve(device, reservedRegions(device))
      done.push(device)
    }
  } catch (error) {
    for (const device of done) ioas.unreserve(device)
    throw error
  }
}

function unreserveAll(devices: ReadonlySet<BoundDevice>, { ioas }: IoasObject): void {
  for (const device of devices) ioas.unreserve(device)
}

/** @throws EINVAL when the driver offers two ways for interrupts: a controller's doorbells and a window, or two windows */
function reservedRegions({ ops, device }: BoundDevice): readonly ReservedRegion[] {
  const regions = ops.reservedRegions?.(device) ?? []
  const count = (wanted: ReservedRegion["type"]): number =>
    regions.filter(({ type }) => type === wanted).length
  if (count("sw-msi") > 1 || (count("sw-msi") > 0 && count("msi") > 0)) {
    throw new IommuError("EINVAL", `${ops.name} reserves IOVAs for interrupts of ${device.name} in two ways`)
  }
  return regions
}
