/**
 * What each device is on, and the four verbs that change it. AMD 48882 rev 3.10, §2.2.2.1 and §2.2.6.
 *
 * All is built before the device table is touched; a failure leaves the device where it was.
 */
import { type IommuDevice, IommuError, NO_PASID } from "@iommu/core"
import { type Entry, guestEntry, hostEntry, untranslatedEntry, withPageRequests } from "./device-table.ts"
import { BLOCKED_ID, IDENTITY_ID } from "./ids.ts"
import { type AmdNestedDomain, nestedEntry } from "./nested-domain.ts"
import type { AmdDriver } from "./ops.ts"
import type { AmdPagingDomain } from "./paging-domain.ts"
import { Gcr3Table } from "./pasid-table.ts"
import type { AmdBlockedDomain, AmdIdentityDomain } from "./static-domains.ts"

export type AmdDomain = AmdPagingDomain | AmdNestedDomain | AmdBlockedDomain | AmdIdentityDomain

export interface DeviceState {
  readonly device: IommuDevice
  /** Where requests without PASID go. */
  rid: AmdDomain
  readonly pasids: Map<number, AmdPagingDomain>
  /** Present while the RID or a PASID is on guest (v2) tables. */
  gcr3: Gcr3Table | null
}

/** One device, or one PASID of it, on a user-owned domain. */
export interface Attachment {
  readonly state: DeviceState
  /** {@link NO_PASID} for requests without one. */
  readonly pasid: number
}

/** What a domain without devices has: one array for all of them. */
export const NO_ATTACHMENTS: readonly Attachment[] = Object.freeze([])

/** @throws ENODEV, EINVAL, ENOSPC, ENOMEM, EIO, ETIMEDOUT; the device is then on its old domain */
export function attachRid(driver: AmdDriver, device: IommuDevice, domain: AmdDomain): void {
  const state = driver.stateOf(device)
  checkUsable(domain, device)
  if (state.rid === domain) return
  checkRid(state, domain)
  const { gcr3 } = state
  const next = gcr3For(driver, state, domain)
  const kept = next !== null && next === gcr3
  const before = kept ? next.replace(state, NO_PASID, guestTableOf(domain)) : 0n
  try {
    writeEntry(driver, { ...state, rid: domain, gcr3: next })
  } catch (error) {
    if (kept) next.putBack(state, NO_PASID, before)
    else next?.free()
    throw error
  }
  if (gcr3 !== next) gcr3?.free()
  state.gcr3 = next
  leave(state.rid, state, NO_PASID)
  state.rid = domain
  enter(domain, { state, pasid: NO_PASID })
}

/** @throws EINVAL when the device is on another domain; ENODEV, EIO, ETIMEDOUT */
export function detachRid(driver: AmdDriver, device: IommuDevice, domain: AmdDomain): void {
  if (driver.stateOf(device).rid !== domain) {
    throw new IommuError("EINVAL", `${device.name} is not on this domain`)
  }
  attachRid(driver, device, driver.blockedDomain)
}

/** @throws ENODEV, EOPNOTSUPP, EINVAL, ENOSPC, ENOMEM, EIO, ETIMEDOUT; the PASID is then on its old domain */
export function attachPasid(
  driver: AmdDriver,
  device: IommuDevice,
  pasid: number,
  domain: AmdPagingDomain,
): void {
  const state = driver.stateOf(device)
  checkUsable(domain, device)
  checkPasid(driver, device, pasid)
  const old = state.pasids.get(pasid)
  if (old === domain) return
  checkPasidDomain(state, domain)
  const pasids = new Map(state.pasids).set(pasid, domain)
  if (state.gcr3 === null) state.gcr3 = installGcr3(driver, { ...state, pasids }, pasid, domain)
  else replaceGuestTable(driver, { ...state, pasids }, state.gcr3, pasid, domain.table.root)
  state.pasids.set(pasid, domain)
  if (old !== undefined) leave(old, state, pasid)
  enter(domain, { state, pasid })
}

/** @throws ENODEV, EINVAL when the PASID is not on this domain, EIO, ETIMEDOUT */
export function detachPasid(
  driver: AmdDriver,
  device: IommuDevice,
  pasid: number,
  domain: AmdPagingDomain,
): void {
  const state = driver.stateOf(device)
  const { gcr3 } = state
  if (gcr3 === null || state.pasids.get(pasid) !== domain) {
    throw new IommuError("EINVAL", `PASID ${pasid} of ${device.name} is not on this domain`)
  }
  const pasids = new Map(state.pasids)
  pasids.delete(pasid)
  const isLast = pasids.size === 0 && !usesGuestTables(state.rid)
  replaceGuestTable(driver, { ...state, pasids, gcr3: isLast ? null : gcr3 }, gcr3, pasid, 0n)
  if (isLast) {
    gcr3.free()
    state.gcr3 = null
  }
  state.pasids.delete(pasid)
  leave(domain, state, pasid)
}

/** Takes one PASID of a device off whatever it is on. @throws ENODEV, EOPNOTSUPP, EINVAL, EIO, ETIMEDOUT */
export function blockPasid(driver: AmdDriver, device: IommuDevice, pasid: number): void {
  const domain = driver.stateOf(device).pasids.get(pasid)
  checkPasid(driver, device, pasid)
  if (domain !== undefined) detachPasid(driver, device, pasid, domain)
}

/**
 * Puts a PASID on another guest table, or on none, and the device's entry in step with it.
 * @param next what the device will be on then
 */
function replaceGuestTable(
  driver: AmdDriver,
  next: DeviceState,
  gcr3: Gcr3Table,
  pasid: number,
  root: bigint,
): void {
  const before = gcr3.replace(next, pasid, root)
  try {
    writeEntry(driver, next)
  } catch (error) {
    gcr3.putBack(next, pasid, before)
    throw error
  }
}

/** Writes the entries of all devices on a domain anew: its root has grown, or dirty tracking changed. */
export function refreshEntries(domain: AmdPagingDomain | AmdNestedDomain): void {
  for (const { state, pasid } of domain.attachments) {
    if (pasid === NO_PASID) writeEntry(domain.ops, state)
  }
}

/**
 * Brings the entry of a device to what it is on. Nothing is written when it is there already.
 * @throws EIO, ETIMEDOUT with the old entry in place
 */
export function writeEntry(driver: AmdDriver, state: DeviceState): void {
  const { device, rid, pasids } = state
  const entry = entryFor(state)
  // A guest says for itself whether its devices may ask for pages.
  const { handlers } = driver.pageRequests
  const asks = device.ats && rid.type !== "nested" && handlers.areTaken([rid, ...pasids.values()])
  driver.hardware.deviceTable.update(device.id, asks ? withPageRequests(entry) : entry)
}

function entryFor({ device, rid, gcr3 }: DeviceState): Entry {
  switch (rid.type) {
    case "paging":
      return gcr3 === null ? hostEntry(rid.id, device, rid.hostTables) : guestEntry(gcr3, device, 1n)
    case "nested":
      return nestedEntry(rid, device)
    case "blocked":
      // PASID 0 has no guest table: requests without PASID are refused there.
      return gcr3 === null ? untranslatedEntry(BLOCKED_ID, device, 0n) : guestEntry(gcr3, device, 1n)
    case "identity":
      return gcr3 === null ? untranslatedEntry(IDENTITY_ID, device, 1n) : guestEntry(gcr3, device, 0n)
  }
}

function checkUsable(domain: AmdDomain, device: IommuDevice): void {
  if (domain.type === "nested") domain.checkAttachable(device)
  if (domain.type === "paging" && domain.isFreed) throw new IommuError("EINVAL", "the domain has been freed")
}

/** While PASIDs are in use, the entry must stay one that has a GCR3 table of the driver's, of these levels. */
function checkRid(state: DeviceState, domain: AmdDomain): void {
  if (state.pasids.size === 0 || domain.type === "blocked" || domain.type === "identity") return
  if (!usesGuestTables(domain)) {
    throw new IommuError(
      "EINVAL",
      "while PASIDs are attached, the device needs a domain that can have PASIDs",
    )
  }
  checkLevels(state, domain)
}

function checkPasidDomain(state: DeviceState, domain: AmdPagingDomain): void {
  const { rid } = state
  if (rid.type === "nested" || (rid.type === "paging" && !rid.isGuestFormat)) {
    throw new IommuError(
      "EINVAL",
      "the device is on a domain without PASIDs: host tables, or a guest's GCR3 table",
    )
  }
  checkLevels(state, domain)
}

function checkLevels({ gcr3 }: DeviceState, domain: AmdPagingDomain): void {
  if (gcr3 !== null && gcr3.guestLevels !== domain.table.levels) {
    throw new IommuError(
      "EINVAL",
      `all guest tables of a device have the same levels, here ${gcr3.guestLevels}`,
    )
  }
}

function checkPasid(driver: AmdDriver, device: IommuDevice, pasid: number): void {
  const bits = Math.min(device.pasidBits, driver.capabilities.pasidBits)
  if (bits === 0) throw new IommuError("EOPNOTSUPP", `${device.name} or its IOMMU has no PASIDs`)
  if (!Number.isInteger(pasid) || pasid < 1 || pasid >= 2 ** bits) {
    throw new IommuError("EINVAL", `PASIDs of ${device.name} are 1 to ${2 ** bits - 1}, got ${pasid}`)
  }
}

function usesGuestTables(domain: AmdDomain): domain is AmdPagingDomain {
  return domain.type === "paging" && domain.isGuestFormat
}

/** Root of the guest table for requests without PASID, 0n for none. */
function guestTableOf(domain: AmdDomain): bigint {
  return usesGuestTables(domain) ? domain.table.root : 0n
}

/** The GCR3 table that a device needs on a domain: none, the one it has, or a new one. */
function gcr3For(driver: AmdDriver, state: DeviceState, domain: AmdDomain): Gcr3Table | null {
  if (state.pasids.size > 0) return state.gcr3
  if (!usesGuestTables(domain)) return null
  if (state.gcr3?.guestLevels === domain.table.levels) return state.gcr3
  return newGcr3(driver, state, 0, domain)
}

function newGcr3(
  { hardware, capabilities }: AmdDriver,
  { device }: DeviceState,
  pasid: number,
  domain: AmdPagingDomain,
): Gcr3Table {
  const bits = Math.min(device.pasidBits, capabilities.pasidBits)
  const gcr3 = new Gcr3Table(hardware, device.account, bits, domain.table.levels)
  try {
    gcr3.set(pasid, domain.table.root, device.account)
  } catch (error) {
    gcr3.free()
    throw error
  }
  return gcr3
}

/**
 * Gives a device on the blocked or the identity domain a GCR3 table with its first PASID.
 * @param next what the device will be on then
 */
function installGcr3(
  driver: AmdDriver,
  next: DeviceState,
  pasid: number,
  domain: AmdPagingDomain,
): Gcr3Table {
  const gcr3 = newGcr3(driver, next, pasid, domain)
  try {
    writeEntry(driver, { ...next, gcr3 })
  } catch (error) {
    gcr3.free()
    throw error
  }
  return gcr3
}

function enter(domain: AmdDomain, attachment: Attachment): void {
  if (domain.type === "blocked" || domain.type === "identity") return
  domain.attachments = [...domain.attachments, attachment]
  if (domain.type === "nested") domain.guestDomain.attached++
}

function leave(domain: AmdDomain, state: DeviceState, pasid: number): void {
  if (domain.type === "blocked" || domain.type === "identity") return
  const left = domain.attachments.filter(other => other.state !== state || other.pasid !== pasid)
  domain.attachments = left.length === 0 ? NO_ATTACHMENTS : left
  if (domain.type === "nested") domain.guestDomain.attached--
  domain.ops.pageRequests.withdraw(state, domain, pasid)
}
