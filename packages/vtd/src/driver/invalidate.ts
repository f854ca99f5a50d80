/**
 * Which caches a change concerns, and nothing more. Intel VT-d 5.10 §6.5.3.3 (guidance to software), §6.5.2.
 *
 * - second stage: IOTLB by (domain-id, pages); first stage: PASID-based IOTLB by (domain-id, PASID, pages)
 * - a stage-2 change under nested domains: everything of each nested domain-id, because the hardware tags what it
 *   cached with the guest's address and not with the one that changed
 * - a device's own TLB always after the IOTLB, from which it might be refilled (§6.5.2.5)
 */
import { NO_PASID } from "@iommu/core"
import type { Gather } from "@iommu/pagetable"
import * as pe from "../spec/pasid-table.ts"
import type { Attachment, DeviceState } from "./attach.ts"
import type { Entry } from "./device-table.ts"
import type { Features } from "./features.ts"
import type { Hardware } from "./hardware.ts"
import type { VtdNestedDomain } from "./nested-domain.ts"
import type { VtdPagingDomain } from "./paging-domain.ts"
import { entryTags, RID_PASID } from "./pasid-table.ts"
import { ALL_PAGES_LG2, type InvalidationQueue } from "./queue.ts"

/** log2 of the 4 KiB pages in the largest leaf. */
const LARGEST_LEAF_LG2 = 18
/** Number of the last 4 KiB page of the 64-bit address space. */
const LAST_PAGE = 2 ** ALL_PAGES_LG2 - 1
/** More descriptors than this for one range cost more than losing the whole domain's translations. */
const MAX_PIECES = 32
/** The same for ranges. */
const MAX_RANGES = 64

/** What unmapping or reading dirty flags left behind; emptied tables are freed when no cache holds them. */
export function invalidateGather(domain: VtdPagingDomain): void {
  const { count } = domain.table.gather
  if (count > MAX_RANGES) invalidateAll(domain)
  else if (count > 0) invalidateRanges(domain, domain.table.gather)
  domain.table.gatherDone()
}

function invalidateRanges(domain: VtdPagingDomain, gather: Gather): void {
  const hardware = domain.ops.hardware
  for (let n = 0; n < gather.count; n++) {
    const isLeafOnly = !gather.lostTables(n)
    invalidateTags(hardware, domain, gather.firstPage(n), gather.lastPage(n), isLeafOnly)
  }
  invalidateNested(hardware, domain)
  for (let n = 0; n < gather.count; n++) {
    invalidateDevices(hardware.queue, domain.attachments, gather.firstPage(n), gather.lastPage(n))
  }
  invalidateNestedDevices(hardware.queue, domain)
  hardware.queue.sync()
}

/**
 * New mappings: hardware in caching mode may have cached that nothing was there (§6.1). First-stage entries are
 * never cached while not present, and devices never cache a refusal.
 */
export function invalidateMapped(domain: VtdPagingDomain, firstPage: number, lastPage: number): void {
  const hardware = domain.ops.hardware
  if (hardware.features.cachingMode && domain.isSecondStage) {
    invalidateTags(hardware, domain, firstPage, lastPage, false)
    invalidateNested(hardware, domain)
    hardware.queue.sync()
  } else {
    hardware.flushWriteBuffer()
  }
}

/** All cached translations of a domain. */
export function invalidateAll(domain: VtdPagingDomain): void {
  const hardware = domain.ops.hardware
  invalidateTags(hardware, domain, 0, LAST_PAGE, false)
  invalidateNested(hardware, domain)
  invalidateDevices(hardware.queue, domain.attachments, 0, LAST_PAGE)
  invalidateNestedDevices(hardware.queue, domain)
  hardware.queue.sync()
}

/** A guest changed its first stage. The range is in the guest's input addresses, as the hardware's tags are. */
export function invalidateGuestPages(
  domain: VtdNestedDomain,
  firstPage: number,
  lastPage: number,
  isLeafOnly: boolean,
): void {
  const hardware = domain.ops.hardware
  invalidateFirstStage(hardware, domain.did, domain.attachments, firstPage, lastPage, isLeafOnly)
  invalidateDevices(hardware.queue, domain.attachments, firstPage, lastPage)
}

/** A PASID entry went from present to not present; completes before it returns. */
export function invalidatePasidEntry(
  hardware: Hardware,
  state: DeviceState,
  pasid: number,
  old: Entry,
): void {
  const { queue } = hardware
  const { did, pgtt } = entryTags(old)
  queue.pasidCache(did, pasid)
  queue.sync()
  if (pgtt === pe.PGTT_FIRST || pgtt === pe.PGTT_PASS_THROUGH) queue.pasidIotlb(did, pasid)
  else queue.iotlbDomain(did)
  invalidateWholeDevice(queue, state, pasid)
  queue.sync()
}

/**
 * A PASID entry became present. Only caching mode may remember that it was not: under domain-id 0, as for context
 * entries (§6.1), or, as hypervisors have it, under the new one.
 */
export function invalidateNewPasidEntry(hardware: Hardware, pasid: number, entry: Entry): void {
  if (!hardware.features.cachingMode) {
    hardware.flushWriteBuffer()
    return
  }
  const { did } = entryTags(entry)
  hardware.queue.pasidCache(0, pasid)
  hardware.queue.pasidCache(did, pasid)
  hardware.queue.sync()
  hardware.queue.pasidIotlb(did, pasid)
  hardware.queue.sync()
}

/** A legacy context entry went from present to not present. */
export function invalidateContextEntry(hardware: Hardware, state: DeviceState, did: number): void {
  const { queue } = hardware
  queue.contextCacheDevice(did, state.device.id)
  queue.sync()
  queue.iotlbDomain(did)
  invalidateWholeDevice(queue, state, RID_PASID)
  queue.sync()
}

/** A context entry became present; `did` is null in scalable mode, where it holds none. */
export function invalidateNewContextEntry(hardware: Hardware, state: DeviceState, did: number | null): void {
  if (!hardware.features.cachingMode) {
    hardware.flushWriteBuffer()
    return
  }
  hardware.queue.contextCacheDevice(0, state.device.id)
  hardware.queue.sync()
  if (did === null) return
  hardware.queue.iotlbDomain(did)
  hardware.queue.sync()
}

/** A scalable context entry went away, with all PASID entries under it gone and invalidated already; or PRE changed. */
export function invalidateScalableContext(hardware: Hardware, state: DeviceState): void {
  hardware.queue.contextCacheDevice(0, state.device.id)
  hardware.queue.sync()
  invalidateWholeDevice(hardware.queue, state, RID_PASID)
  hardware.queue.sync()
}

/** A bit changed in live entries: cached copies of the entry, and translations that were made with it, must go. */
export function invalidateRewritten(hardware: Hardware, attachments: readonly Attachment[]): void {
  const { queue } = hardware
  for (const { pasid, domain } of attachments) queue.pasidCache(domain.did, tagOf(pasid))
  queue.sync()
  for (const { domain } of attachments) queue.iotlbDomain(domain.did)
  for (const { state, pasid } of attachments) invalidateWholeDevice(queue, state, tagOf(pasid))
  queue.sync()
}

function invalidateTags(
  hardware: Hardware,
  domain: VtdPagingDomain,
  firstPage: number,
  lastPage: number,
  isLeafOnly: boolean,
): void {
  if (domain.attachments.length === 0) return
  if (domain.isSecondStage) invalidateSecondStage(hardware, domain.did, firstPage, lastPage, isLeafOnly)
  else invalidateFirstStage(hardware, domain.did, domain.attachments, firstPage, lastPage, isLeafOnly)
}

function invalidateSecondStage(
  { queue, features }: Hardware,
  did: number,
  firstPage: number,
  lastPage: number,
  isLeafOnly: boolean,
): void {
  if (!isPageSelective(features, firstPage, lastPage)) {
    queue.iotlbDomain(did)
    return
  }
  for (let page = firstPage; page <= lastPage; ) {
    const lg2 = pieceLg2(page, lastPage, features.maxAddressMask)
    queue.iotlbPages(did, page, lg2, isLeafOnly)
    page += 2 ** lg2
  }
}

function invalidateFirstStage(
  { queue, features }: Hardware,
  did: number,
  attachments: readonly Attachment[],
  firstPage: number,
  lastPage: number,
  isLeafOnly: boolean,
): void {
  const isSelective = isPageSelective(features, firstPage, lastPage)
  for (let n = 0; n < attachments.length; n++) {
    if (isTagRepeated(attachments, n)) continue
    const pasid = tagOf((attachments[n] as Attachment).pasid)
    if (!isSelective) {
      queue.pasidIotlb(did, pasid)
      continue
    }
    for (let page = firstPage; page <= lastPage; ) {
      const lg2 = pieceLg2(page, lastPage, features.maxAddressMask)
      queue.pasidIotlbPages(did, pasid, page, lg2, isLeafOnly)
      page += 2 ** lg2
    }
  }
}

/** Nested translations keep intermediate entries that the stage-2 change may have moved, so IH is never set. */
function invalidateNested({ queue }: Hardware, parent: VtdPagingDomain): void {
  for (const child of parent.children) {
    if (child.attachments.length > 0) queue.iotlbDomain(child.did)
  }
}

function invalidateNestedDevices(queue: InvalidationQueue, parent: VtdPagingDomain): void {
  for (const child of parent.children) {
    for (const { state, pasid } of child.attachments) invalidateWholeDevice(queue, state, tagOf(pasid))
  }
}

function invalidateDevices(
  queue: InvalidationQueue,
  attachments: readonly Attachment[],
  firstPage: number,
  lastPage: number,
): void {
  for (const { state, pasid } of attachments) {
    if (!state.usesAts) continue
    for (let page = firstPage; page <= lastPage; ) {
      const lg2 = pieceLg2(page, lastPage, ALL_PAGES_LG2)
      if (pasid === NO_PASID) queue.deviceTlb(state.device.id, page, lg2)
      else queue.pasidDeviceTlb(state.device.id, pasid, page, lg2)
      page += 2 ** lg2
    }
  }
}

function invalidateWholeDevice(queue: InvalidationQueue, state: DeviceState, pasid: number): void {
  if (!state.usesAts) return
  if (pasid === RID_PASID) queue.deviceTlb(state.device.id, 0, ALL_PAGES_LG2)
  else queue.pasidDeviceTlb(state.device.id, pasid, 0, ALL_PAGES_LG2)
}

/** Several devices on the same PASID of a domain share their tag. */
function isTagRepeated(attachments: readonly Attachment[], n: number): boolean {
  const { pasid } = attachments[n] as Attachment
  for (let before = 0; before < n; before++) {
    if ((attachments[before] as Attachment).pasid === pasid) return true
  }
  return false
}

/** Requests without PASID are cached under RID_PASID. */
function tagOf(pasid: number): number {
  return pasid === NO_PASID ? RID_PASID : pasid
}

/**
 * Whether descriptors that name pages can do it. Each must cover a large page whole (§6.5.2.3, AM), so blocks are
 * split only where every leaf still fits.
 */
function isPageSelective({ maxAddressMask }: Features, firstPage: number, lastPage: number): boolean {
  if (maxAddressMask < 0 || lastPage - firstPage === LAST_PAGE) return false
  let pieces = 0
  for (let page = firstPage; page <= lastPage; pieces++) {
    const lg2 = pieceLg2(page, lastPage, ALL_PAGES_LG2)
    if (pieces === MAX_PIECES || (lg2 > maxAddressMask && maxAddressMask < LARGEST_LEAF_LG2)) return false
    page += 2 ** Math.min(lg2, maxAddressMask)
  }
  return true
}

/** log2 of the largest naturally aligned block of pages that starts at `page` and ends at or before `lastPage`. */
function pieceLg2(page: number, lastPage: number, maxLg2: number): number {
  let lg2 = 0
  for (let size = 2; lg2 < maxLg2 && page % size === 0 && page + size - 1 <= lastPage; size *= 2) lg2++
  return lg2
}
