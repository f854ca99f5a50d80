/**
 * What each device is on, and how it gets there: the only place that changes either.
 *
 * Everything new is built first. Then memory is written in the order that live entries need, caches are flushed,
 * and only when all that has succeeded does the driver's own view change; before that every step can be undone.
 */
import { type IommuDevice, IommuError, NO_PASID } from "@iommu/core"
import type { Entry } from "./device-table.ts"
import { invalidateAtc, invalidateLeft } from "./invalidate.ts"
import type { SmmuNestedDomain } from "./nested-domain.ts"
import type { SmmuV3Driver } from "./ops.ts"
import type { SmmuPagingDomain } from "./paging-domain.ts"
import { contextDescriptor, NO_CD, PasidTable } from "./pasid-table.ts"
import type { SmmuBlockedDomain, SmmuIdentityDomain } from "./static-domains.ts"

type UserDomain = SmmuPagingDomain | SmmuNestedDomain
export type SmmuDomain = UserDomain | SmmuBlockedDomain | SmmuIdentityDomain

/** One device, or one PASID of it, on a user-owned domain. */
export interface Attachment {
  readonly state: DeviceState
  /** NO_PASID for requests without. */
  readonly pasid: number
  readonly domain: UserDomain
}

/** A probed device. */
export interface DeviceState {
  readonly device: IommuDevice
  /** Where requests without PASID go. */
  rid: SmmuDomain
  readonly pasids: Map<number, Attachment>
  /** Present while a stage 1 of the driver is on the device or on a PASID of it. */
  pasidTable: PasidTable | null
  /** STE.EATS as it is in memory. */
  ats: boolean
}

/** Moves a device's requests without PASID to a domain. */
export function attachRid(driver: SmmuV3Driver, device: IommuDevice, domain: SmmuDomain): void {
  const state = driver.stateOf(device)
  requireUsable(domain, device)
  if (state.rid === domain) return
  if (state.pasids.size > 0 && !leavesRoomForPasids(domain)) {
    throw new IommuError("EBUSY", "PASIDs of the device are in use, and this domain takes the whole stream")
  }
  move(driver, state, NO_PASID, domain)
}

export function detachRid(driver: SmmuV3Driver, device: IommuDevice, domain: SmmuDomain): void {
  const state = driver.stateOf(device)
  if (state.rid !== domain) throw new IommuError("EINVAL", "the device is on another domain")
  if (domain !== driver.blockedDomain) move(driver, state, NO_PASID, driver.blockedDomain)
}

/** Moves one PASID of a device to a stage 1. */
export function attachPasid(
  driver: SmmuV3Driver,
  device: IommuDevice,
  pasid: number,
  domain: SmmuPagingDomain,
): void {
  const state = driver.stateOf(device)
  requireUsable(domain, device)
  requirePasid(driver, device, pasid)
  if (state.pasids.get(pasid)?.domain === domain) return
  if (!leavesRoomForPasids(state.rid)) {
    throw new IommuError(
      "EINVAL",
      "the device is on a stage 2 or nested domain, which takes the whole stream",
    )
  }
  move(driver, state, pasid, domain)
}

export function detachPasid(
  driver: SmmuV3Driver,
  device: IommuDevice,
  pasid: number,
  domain: SmmuPagingDomain,
): void {
  const state = driver.stateOf(device)
  requirePasid(driver, device, pasid)
  if (state.pasids.get(pasid)?.domain !== domain) {
    throw new IommuError("EINVAL", `PASID ${pasid} of the device is not on this domain`)
  }
  move(driver, state, pasid, driver.blockedDomain)
}

/** Takes one PASID of a device off whatever it is on. */
export function blockPasid(driver: SmmuV3Driver, device: IommuDevice, pasid: number): void {
  const state = driver.stateOf(device)
  requirePasid(driver, device, pasid)
  if (state.pasids.has(pasid)) move(driver, state, pasid, driver.blockedDomain)
}

function requireUsable(domain: SmmuDomain, device: IommuDevice): void {
  if (domain.type === "nested") domain.checkAttachable(device)
  if (domain.type === "paging" && domain.tag === 0) throw new IommuError("EINVAL", "the domain was freed")
}

function requirePasid(driver: SmmuV3Driver, device: IommuDevice, pasid: number): void {
  const bits = Math.min(device.pasidBits, driver.capabilities.pasidBits)
  if (bits === 0) throw new IommuError("EOPNOTSUPP", "the device sends no PASIDs")
  if (!Number.isInteger(pasid) || pasid < 1 || pasid >= 2 ** bits) {
    throw new IommuError("EINVAL", `a PASID of this device is 1 to ${2 ** bits - 1}, not ${pasid}`)
  }
}

/** Stage 2 has no SubstreamIDs, and a guest's CD table has them all. */
function leavesRoomForPasids(domain: SmmuDomain): boolean {
  return domain.type === "blocked" || domain.type === "identity" || stage1Of(domain) !== null
}

function stage1Of(domain: SmmuDomain): SmmuPagingDomain | null {
  return domain.type === "paging" && domain.plan.stage === 1 ? domain : null
}

/**
 * Puts one slot of a device, NO_PASID or a PASID, on a domain.
 * @throws ENOMEM, EIO, ETIMEDOUT: everything is as before then
 */
function move(driver: SmmuV3Driver, state: DeviceState, pasid: number, domain: SmmuDomain): void {
  const { hardware } = driver
  const { deviceTable, queue, features } = hardware
  const streamId = state.device.id
  const ssid = pasid === NO_PASID ? 0 : pasid
  const from = pasid === NO_PASID ? attachmentOf(state) : state.pasids.get(pasid)
  const next = nextPlacement(state, pasid, domain)
  const stage1 = stage1Of(domain)
  const undo: (() => void)[] = []
  const writeCd = (table: PasidTable, words: Entry): void => {
    const old = table.read(ssid)
    table.write(ssid, words)
    undo.push(() => table.restore(ssid, old))
  }
  let table: PasidTable | null = null
  let ats = false
  try {
    if (next.needsTable) table = state.pasidTable ?? newTable(driver, state, undo)
    if (table !== null && stage1 !== null) {
      table.reserve(ssid)
      writeCd(table, contextDescriptor(features, stage1.stage1Root))
    }
    ats = state.device.ats && hardware.translatesForAtcs && usesAts(next.rid, table)
    const oldSte = deviceTable.read(streamId)
    deviceTable.write(streamId, steOf(next.rid, table, ats))
    undo.push(() => deviceTable.restore(streamId, oldSte))
    if (table !== null && stage1 === null && from !== undefined) writeCd(table, NO_CD)
    if (from !== undefined && from.domain.attachments.length === 1) invalidateLeft(from)
    if (state.ats || ats) invalidateAtc(queue, streamId, pasid)
  } catch (error) {
    for (const step of undo.reverse()) step()
    throw error
  }
  if (table === null) state.pasidTable?.free()
  state.pasidTable = table
  state.ats = ats
  if (from !== undefined) from.domain.attachments = from.domain.attachments.filter(other => other !== from)
  settle(state, pasid, domain)
  if (from !== undefined) driver.pageRequests.withdraw(state, requestsFrom(from))
}

/** Whose page requests an attachment had: a guest's stage 1 has all PASIDs. */
function requestsFrom({ domain, pasid }: Attachment): number | null | "all" {
  if (domain.type === "nested") return "all"
  return pasid === NO_PASID ? null : pasid
}

interface Placement {
  readonly rid: SmmuDomain
  /** A stage 1 of the driver is left on the device. */
  readonly needsTable: boolean
}

function nextPlacement(state: DeviceState, pasid: number, domain: SmmuDomain): Placement {
  if (pasid === NO_PASID) {
    return { rid: domain, needsTable: stage1Of(domain) !== null || state.pasids.size > 0 }
  }
  const others = state.pasids.size - (state.pasids.has(pasid) ? 1 : 0)
  const needsTable = stage1Of(domain) !== null || stage1Of(state.rid) !== null || others > 0
  return { rid: state.rid, needsTable }
}

function newTable(driver: SmmuV3Driver, { device }: DeviceState, undo: (() => void)[]): PasidTable {
  const cdsLg2 = Math.min(device.pasidBits, driver.capabilities.pasidBits)
  const table = new PasidTable(driver.hardware, device.id, cdsLg2, device.account)
  undo.push(() => table.free())
  return table
}

/** What the STE says when requests without PASID go to `rid`, and PASIDs through `table`. */
function steOf(rid: SmmuDomain, table: PasidTable | null, ats: boolean): Entry {
  return rid.type === "nested" ? rid.ste(ats) : rid.ste(table, ats)
}

/** A guest says for itself whether it uses ATS. */
function usesAts(rid: SmmuDomain, table: PasidTable | null): boolean {
  return rid.type === "nested" ? rid.plan.ats : rid.type === "paging" || table !== null
}

function attachmentOf(state: DeviceState): Attachment | undefined {
  const { rid } = state
  if (rid.type === "blocked" || rid.type === "identity") return undefined
  return rid.attachments.find(other => other.state === state && other.pasid === NO_PASID)
}

function settle(state: DeviceState, pasid: number, domain: SmmuDomain): void {
  if (pasid === NO_PASID) state.rid = domain
  if (domain.type === "blocked" || domain.type === "identity") {
    state.pasids.delete(pasid)
    return
  }
  const attachment = { state, pasid, domain }
  if (pasid !== NO_PASID) state.pasids.set(pasid, attachment)
  domain.attachments = [...domain.attachments, attachment]
}
