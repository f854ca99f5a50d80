/** Telling the SMMU and the ATCs behind it what changed. Arm IHI 0070 G.b §4.4, §4.5, §3.9.1 (ATS). */
import { NO_PASID } from "@iommu/core"
import * as cmd from "../spec/commands.ts"
import type { Attachment } from "./attach.ts"
import type { SmmuPagingDomain } from "./paging-domain.ts"
import type { CommandQueue } from "./queue.ts"

/** More commands than this take longer than refilling what one wide command drops. */
const MAX_COMMANDS = 512
/** Numbers of a range: (NUM + 1) * 2^SCALE granules, §4.4.1.1. */
const NUM_LIMIT = 32
const SCALE_LIMIT = 31
const PAGES_PER_4GIB = 2 ** 20

/** The leaves and tables that the domain's gather holds, and waits. */
export function invalidateGather(domain: SmmuPagingDomain): void {
  if (!inUse(domain)) return
  const { queue, features } = domain.ops.hardware
  const { gather } = domain.table
  if (features.RIL ? gather.count > MAX_COMMANDS : pagesInGather(domain) > MAX_COMMANDS) {
    pushWhole(queue, domain)
  } else {
    for (let n = 0; n < gather.count; n++) {
      if (features.RIL) pushRanges(queue, domain, n)
      else pushEachPage(queue, domain, n)
    }
  }
  pushCombined(queue, domain)
  queue.sync()
  invalidateAtcs(domain, false)
}

/** Everything that is cached of the domain, and waits. */
export function invalidateAll(domain: SmmuPagingDomain): void {
  if (!inUse(domain)) return
  const { queue } = domain.ops.hardware
  pushWhole(queue, domain)
  queue.sync()
  invalidateAtcs(domain, true)
}

/** For the last attachment of a domain, once it is out of the tables: nothing may stay behind under its tag. */
export function invalidateLeft({ domain }: Attachment): void {
  const { queue } = domain.ops.hardware
  const stage2 = domain.type === "nested" ? domain.parent : domain
  const attached = [stage2, ...stage2.children].filter(user => user.attachments.length > 0)
  if (attached.every(user => user === domain)) pushWhole(queue, stage2)
  else if (domain.type === "nested") pushNhAll(queue, stage2)
  else return
  queue.sync()
}

/** All that a device's ATC holds of one PASID, or of requests without. */
export function invalidateAtc(queue: CommandQueue, streamId: number, pasid: number): void {
  pushAtc(queue, streamId, pasid, 0, 0, cmd.ATC_INV_SIZE_ALL)
  queue.sync()
}

/** True when hardware may hold anything of the domain: a domain that nothing is on was flushed when that left. */
function inUse(domain: SmmuPagingDomain): boolean {
  return domain.attachments.length > 0 || domain.children.some(child => child.attachments.length > 0)
}

function pushWhole(queue: CommandQueue, { plan, tag }: SmmuPagingDomain): void {
  if (plan.stage === 1) queue.push(cmd.CMD_TLBI_NH_ASID, (tag << cmd.TLBI_ASID_SHIFT) >>> 0, 0, 0)
  else queue.push(cmd.CMD_TLBI_S12_VMALL, tag, 0, 0)
}

/**
 * TLBI_S2_IPA reaches entries of stage 2 alone; what was cached of both stages together is tagged like stage 1,
 * and its addresses are the guest's affair, §4.4.3.1.
 */
function pushCombined(queue: CommandQueue, domain: SmmuPagingDomain): void {
  if (domain.children.some(child => child.attachments.length > 0)) pushNhAll(queue, domain)
}

function pushNhAll(queue: CommandQueue, stage2: SmmuPagingDomain): void {
  queue.push(cmd.CMD_TLBI_NH_ALL, stage2.tag, 0, 0)
}

function pagesInGather({ table: { gather } }: SmmuPagingDomain): number {
  let pages = 0
  for (let n = 0; n < gather.count; n++) {
    pages += (gather.lastPage(n) - gather.firstPage(n) + 1) / 2 ** (gather.leafSizeLg2(n) - 12)
  }
  return pages
}

/** One command for each leaf of range n: no RIL. */
function pushEachPage(queue: CommandQueue, domain: SmmuPagingDomain, n: number): void {
  const { gather } = domain.table
  const leaf = gather.lostTables(n) ? 0 : cmd.LEAF
  const step = 2 ** (gather.leafSizeLg2(n) - 12)
  const last = gather.lastPage(n)
  for (let page = gather.firstPage(n); page <= last; page += step) {
    pushAddress(queue, domain, page, 0, leaf)
  }
}

/** Range n in as few commands as NUM and SCALE allow, exactly. */
function pushRanges(queue: CommandQueue, domain: SmmuPagingDomain, n: number): void {
  const { gather } = domain.table
  const { granuleLg2 } = domain.plan
  const leaf = gather.lostTables(n) ? 0 : cmd.LEAF
  const ttl = leaf === 0 ? 0 : levelOf(gather.leafSizeLg2(n), granuleLg2)
  const pagesPerGranule = 2 ** (granuleLg2 - 12)
  const hints = (ttl << cmd.TLBI_TTL_SHIFT) | (((granuleLg2 - 10) / 2) << cmd.TLBI_TG_SHIFT) | leaf
  let page = gather.firstPage(n)
  let granules = (gather.lastPage(n) - page + 1) / pagesPerGranule
  while (granules > 0) {
    let scale = 0
    while (scale < SCALE_LIMIT && granules % 2 ** (scale + 1) === 0) scale++
    const num = (granules / 2 ** scale) % NUM_LIMIT
    // NUM = 0, SCALE = 0 and TTL = 0 together are reserved with a granule given, §4.4.1.1.
    if (num === 1 && scale === 0 && ttl === 0) pushAddress(queue, domain, page, 0, leaf)
    else
      pushAddress(
        queue,
        domain,
        page,
        ((num - 1) << cmd.TLBI_NUM_SHIFT) | (scale << cmd.TLBI_SCALE_SHIFT),
        hints,
      )
    page += num * 2 ** scale * pagesPerGranule
    granules -= num * 2 ** scale
  }
}

/** Level of a leaf, the TTL hint; 0 for none. Contiguous leaves are at the level of their entries. */
function levelOf(leafLg2: number, granuleLg2: number): number {
  return Math.max(0, 4 - Math.floor((leafLg2 - 3) / (granuleLg2 - 3)))
}

function pushAddress(
  queue: CommandQueue,
  domain: SmmuPagingDomain,
  page: number,
  range: number,
  hints: number,
): void {
  const stage1 = domain.plan.stage === 1
  queue.push(
    range | (stage1 ? cmd.CMD_TLBI_NH_VA : cmd.CMD_TLBI_S2_IPA),
    stage1 ? (domain.tag << cmd.TLBI_ASID_SHIFT) >>> 0 : domain.tag,
    ((page % PAGES_PER_4GIB) * 4096 + hints) >>> 0,
    Math.floor(page / PAGES_PER_4GIB),
  )
}

/**
 * ATCs of all devices on the domain, after the TLBs: a device could fetch the old translation again before. What
 * devices of nested domains hold is under addresses of the guest, so all of it goes.
 */
function invalidateAtcs(domain: SmmuPagingDomain, everything: boolean): void {
  const { queue } = domain.ops.hardware
  const start = queue.position
  for (const attachment of domain.attachments) {
    if (!attachment.state.ats) continue
    if (everything) pushAtc(queue, attachment.state.device.id, attachment.pasid, 0, 0, cmd.ATC_INV_SIZE_ALL)
    else pushAtcGather(queue, domain, attachment)
  }
  for (const child of domain.children) {
    for (const { state } of child.attachments) {
      if (state.ats) pushAtc(queue, state.device.id, NO_PASID, 0, 0, cmd.ATC_INV_SIZE_ALL)
    }
  }
  if (queue.position !== start) queue.sync()
}

/** Per range one command: the smallest power of two of pages that covers it, since each waits for the device. */
function pushAtcGather(
  queue: CommandQueue,
  { table: { gather } }: SmmuPagingDomain,
  attachment: Attachment,
): void {
  for (let n = 0; n < gather.count; n++) {
    const first = gather.firstPage(n)
    const last = gather.lastPage(n)
    let size = 0
    while (Math.floor(first / 2 ** size) !== Math.floor(last / 2 ** size)) size++
    const page = Math.floor(first / 2 ** size) * 2 ** size
    const low = (page % PAGES_PER_4GIB) * 4096
    pushAtc(queue, attachment.state.device.id, attachment.pasid, low, Math.floor(page / PAGES_PER_4GIB), size)
  }
}

function pushAtc(
  queue: CommandQueue,
  streamId: number,
  pasid: number,
  low: number,
  high: number,
  size: number,
): void {
  const substream = pasid === NO_PASID ? 0 : ((pasid << cmd.SUBSTREAMID_SHIFT) | cmd.SSV) >>> 0
  queue.push((substream | cmd.CMD_ATC_INV) >>> 0, streamId, (low + size) >>> 0, high)
}
