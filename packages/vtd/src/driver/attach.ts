/**
 * What each device is on, and every change of it.
 *
 * A live entry never changes while it is present (VT-d 5.10 §6.5.3.3): P is cleared, the caches are invalidated and
 * waited for, then the rest is written, P last. The hardware may fetch a context or PASID entry in several pieces,
 * so no replacement in one step exists: DMA of the device, or of the PASID, is refused for that moment.
 */
import { type DomainControl, type IommuDevice, IommuError, isIommuError, NO_PASID } from "@iommu/core"
import {
  CONTEXT_ENTRY_WORDS,
  changeEntry,
  contextDid,
  type Entry,
  storeEntry,
  storePageRequests,
} from "./device-table.ts"
import type { Hardware } from "./hardware.ts"
import {
  invalidateContextEntry,
  invalidateNewContextEntry,
  invalidateNewPasidEntry,
  invalidatePasidEntry,
  invalidateRewritten,
  invalidateScalableContext,
} from "./invalidate.ts"
import type { VtdNestedDomain } from "./nested-domain.ts"
import type { VtdDriver } from "./ops.ts"
import { domainsOf } from "./page-requests.ts"
import type { VtdPagingDomain } from "./paging-domain.ts"
import { type LiveBit, PASID_ENTRY_WORDS, type PasidTable, RID_PASID, storeLiveBit } from "./pasid-table.ts"
import type { VtdBlockedDomain, VtdIdentityDomain } from "./static-domains.ts"

/** Domains that have an entry in the hardware's tables; blocked has none. */
type TranslatingDomain = VtdPagingDomain | VtdNestedDomain | VtdIdentityDomain
type VtdDomain = TranslatingDomain | VtdBlockedDomain

/** One device, or one PASID of it, on a domain. */
export interface Attachment {
  readonly state: DeviceState
  /** NO_PASID for the requests that carry none. */
  readonly pasid: number
  readonly domain: TranslatingDomain
}

/** Shared by all domains without attachment: a domain costs little until it is used. */
export const NO_ATTACHMENTS: readonly Attachment[] = Object.freeze([])

/** What the driver knows of a probed device. */
export interface DeviceState {
  readonly device: IommuDevice
  /** The device has a TLB and the hardware serves it. */
  readonly usesAts: boolean
  readonly pasidBits: number
  /** Address of the context entry. */
  readonly context: bigint
  /** Scalable mode only. */
  readonly pasidTable: PasidTable | null
  /** null while blocked. */
  rid: Attachment | null
  readonly pasids: Map<number, Attachment>
  /** PRE of the context entry as it is in memory. */
  asksForPages: boolean
}

/** Attachment as all four kinds of domain do it. */
export abstract class AttachableDomain {
  readonly ops: VtdDriver

  constructor(driver: VtdDriver) {
    this.ops = driver
  }

  /** Absent where the hardware takes no PASID. A getter, because fields would be paid for in every domain. */
  get setDevPasid(): DomainControl["setDevPasid"] {
    return this.ops.hardware.features.pasidBits > 0 ? setDevPasid : undefined
  }

  get removeDevPasid(): DomainControl["removeDevPasid"] {
    return this.ops.hardware.features.pasidBits > 0 ? removeDevPasid : undefined
  }

  attachDev(this: VtdDomain, device: IommuDevice): void {
    const state = this.ops.stateOf(device)
    this.checkAttachable()
    putRid(state, this)
  }

  detachDev(this: VtdDomain, device: IommuDevice): void {
    const state = this.ops.stateOf(device)
    if ((state.rid?.domain ?? this.ops.blockedDomain) !== this) {
      throw new IommuError("EINVAL", `${device.name} is not on this domain`)
    }
    blockRid(state)
  }

  /** @throws EINVAL for a domain that no device can be put on */
  abstract checkAttachable(): void
}

function setDevPasid(this: VtdDomain, device: IommuDevice, pasid: number): void {
  const state = this.ops.stateOf(device)
  checkPasid(state, pasid)
  this.checkAttachable()
  if (this.type !== "blocked") putPasid(state, pasid, this)
  else if (state.pasids.has(pasid)) blockPasid(state, pasid)
}

function removeDevPasid(this: VtdDomain, device: IommuDevice, pasid: number): void {
  const state = this.ops.stateOf(device)
  checkPasid(state, pasid)
  if ((state.pasids.get(pasid)?.domain ?? this.ops.blockedDomain) !== this) {
    throw new IommuError("EINVAL", `PASID ${pasid} of ${device.name} is not on this domain`)
  }
  if (this.type !== "blocked") blockPasid(state, pasid)
}

/** Switches one bit in the entries of all that is attached to a domain and to nested domains over it. */
export function applyLiveBit(domain: VtdPagingDomain, bit: LiveBit, value: boolean): void {
  const { hardware } = domain.ops
  const attachments = [...domain.attachments, ...domain.children.flatMap(child => child.attachments)]
  const store = (now: boolean): void => {
    for (const { state, pasid } of attachments) storeLiveBit(hardware, entryAddress(state, pasid), bit, now)
  }
  store(value)
  try {
    invalidateRewritten(hardware, attachments)
  } catch (error) {
    store(!value)
    throw error
  }
}

/**
 * Has PRE of a device's context entry follow what its domains take. A device without a TLB asks for no pages.
 * @throws EIO, ETIMEDOUT; the entry is as before then
 */
export function followPageRequests(hardware: Hardware, state: DeviceState, areTaken: boolean): void {
  const asks = areTaken && state.usesAts
  if (state.asksForPages === asks) return
  storePageRequests(hardware.memory, state.context, asks)
  try {
    invalidateScalableContext(hardware, state)
  } catch (error) {
    storePageRequests(hardware.memory, state.context, state.asksForPages)
    throw error
  }
  state.asksForPages = asks
}

/**
 * Changes what a device is on, with page requests on from before the first domain that takes them until after the
 * last. When the hardware does not answer at the end they stay on, and are answered INVALID.
 * @param next what the device is on then
 */
function changeWithPageRequests(
  { pageRequests, hardware }: VtdDriver,
  state: DeviceState,
  next: Pick<DeviceState, "rid" | "pasids">,
  change: () => void,
): void {
  const areTaken = pageRequests.handlers.areTaken(domainsOf(next))
  const before = state.asksForPages
  if (areTaken) followPageRequests(hardware, state, true)
  try {
    change()
  } catch (error) {
    tryFollow(hardware, state, before)
    throw error
  }
  tryFollow(hardware, state, areTaken)
}

function tryFollow(hardware: Hardware, state: DeviceState, areTaken: boolean): void {
  try {
    followPageRequests(hardware, state, areTaken)
  } catch (error) {
    if (!isIommuError(error)) throw error
  }
}

function checkPasid(state: DeviceState, pasid: number): void {
  if (state.pasidBits === 0) throw new IommuError("EOPNOTSUPP", `${state.device.name} sends no PASID`)
  if (!Number.isInteger(pasid) || pasid < 1 || pasid >= 2 ** state.pasidBits) {
    throw new IommuError("EINVAL", `PASIDs of ${state.device.name} run from 1 to ${2 ** state.pasidBits - 1}`)
  }
}

function putRid(state: DeviceState, domain: VtdDomain): void {
  const current = state.rid
  const { hardware, blockedDomain } = domain.ops
  if ((current?.domain ?? blockedDomain) === domain) return
  const target = domain.type === "blocked" ? null : domain
  const rid: Attachment | null = target && { state, pasid: NO_PASID, domain: target }
  changeWithPageRequests(domain.ops, state, { rid, pasids: state.pasids }, () => {
    if (state.pasidTable === null)
      changeContextEntry(hardware, state, target?.contextEntry(state.usesAts) ?? null)
    else changePasidEntry(hardware, state, RID_PASID, target?.pasidEntry() ?? null)
  })
  state.rid = rid
  if (current) unlink(current)
  if (rid) link(rid)
}

function putPasid(state: DeviceState, pasid: number, domain: TranslatingDomain): void {
  const current = state.pasids.get(pasid)
  if (current?.domain === domain) return
  const attachment: Attachment = { state, pasid, domain }
  const pasids = new Map(state.pasids).set(pasid, attachment)
  if (current === undefined) state.pasidTable?.claim(pasid, state.device.account)
  try {
    changeWithPageRequests(domain.ops, state, { rid: state.rid, pasids }, () =>
      changePasidEntry(domain.ops.hardware, state, pasid, domain.pasidEntry()),
    )
  } catch (error) {
    if (current === undefined) state.pasidTable?.release(pasid)
    throw error
  }
  state.pasids.set(pasid, attachment)
  if (current) unlink(current)
  link(attachment)
}

/** Blocks the requests of a device that carry no PASID. */
export function blockRid(state: DeviceState): void {
  if (state.rid) putRid(state, state.rid.domain.ops.blockedDomain)
}

/** Blocks one PASID that is on a domain. */
export function blockPasid(state: DeviceState, pasid: number): void {
  const current = state.pasids.get(pasid) as Attachment
  const { hardware } = current.domain.ops
  changePasidEntry(hardware, state, pasid, null)
  try {
    state.pasidTable?.release(pasid)
  } catch (error) {
    state.pasidTable?.claim(pasid, state.device.account)
    storeEntry(hardware.memory, entryAddress(state, pasid), current.domain.pasidEntry())
    throw error
  }
  state.pasids.delete(pasid)
  tryFollow(hardware, state, current.domain.ops.pageRequests.handlers.areTaken(domainsOf(state)))
  unlink(current)
}

/** Scalable mode. */
function changePasidEntry(hardware: Hardware, state: DeviceState, pasid: number, entry: Entry | null): void {
  changeEntry(hardware.memory, entryAddress(state, pasid), entry, PASID_ENTRY_WORDS, {
    removed: old => invalidatePasidEntry(hardware, state, pasid, old),
    added: fresh => invalidateNewPasidEntry(hardware, pasid, fresh),
  })
}

/** Legacy mode. */
function changeContextEntry(hardware: Hardware, state: DeviceState, entry: Entry | null): void {
  changeEntry(hardware.memory, state.context, entry, CONTEXT_ENTRY_WORDS, {
    removed: old => invalidateContextEntry(hardware, state, contextDid(old)),
    added: fresh => invalidateNewContextEntry(hardware, state, contextDid(fresh)),
  })
}

function entryAddress(state: DeviceState, pasid: number): bigint {
  const table = state.pasidTable
  if (table === null) throw new Error("bug: no PASID table in legacy mode")
  return table.entry(pasid === NO_PASID ? RID_PASID : pasid)
}

/** Attachment lists are replaced, not changed: an invalidation that runs over one is not disturbed. */
function link(attachment: Attachment): void {
  const { domain } = attachment
  if (domain.type !== "identity") domain.attachments = [...domain.attachments, attachment]
}

function unlink(attachment: Attachment): void {
  const { domain, state, pasid } = attachment
  if (domain.type === "identity") return
  domain.attachments = domain.attachments.filter(other => other !== attachment)
  domain.ops.pageRequests.withdraw(state, pasid === NO_PASID ? null : pasid)
}
