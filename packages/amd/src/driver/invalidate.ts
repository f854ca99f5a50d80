/**
 * Invalidation of exactly what changed. AMD 48882 rev 3.10, §2.4.2 to §2.4.4.
 *
 * Cached translations are tagged with the DomainID and, for guest (v2) tables, the PASID. A domain with host (v1)
 * tables has a DomainID of its own, and a nest parent also those of its guest's domains; guest tables are cached
 * under the DomainID of each device's GCR3 table.
 */
import { type IommuDevice, NO_PASID } from "@iommu/core"
import {
  encodeInvalidateRange,
  INVALIDATE_DEVTAB_ENTRY,
  INVALIDATE_IOMMU_PAGES,
  INVALIDATE_IOTLB_PAGES,
  OPCODE,
} from "../spec/commands.ts"
import type { AmdPagingDomain } from "./paging-domain.ts"
import type { CommandQueue } from "./queue.ts"

/** In the place of a PASID: translations of host tables, GN = 0. */
export const HOST_TABLES: number = NO_PASID

/** Pages of 4 KiB, by number. */
export interface PageRange {
  readonly firstPage: number
  readonly lastPage: number
  /** Directory entries have gone, not only leaves. */
  readonly lostTables: boolean
}

/** The whole 64-bit address space. */
export const ALL: PageRange = { firstPage: 0, lastPage: 2 ** 52 - 1, lostTables: true }

/** A range that takes more commands than this to name exactly is widened to the one block around it. */
const MAX_EXACT_BLOCKS = 8

/** Invalidations sent to a device at once: every device with ATS takes one. */
const MAX_PEND = 1n

export function pushDevtabEntry(queue: CommandQueue, deviceId: number): void {
  queue.push(
    INVALIDATE_DEVTAB_ENTRY.encode({
      DeviceID: BigInt(deviceId),
      Opcode: BigInt(OPCODE.INVALIDATE_DEVTAB_ENTRY),
    }),
  )
}

/** @param pasid whose guest tables, or {@link HOST_TABLES} */
export function pushPages(queue: CommandQueue, domainId: number, pasid: number, range: PageRange): void {
  for (const { Address, S } of encodedBlocks(range)) {
    queue.push(
      INVALIDATE_IOMMU_PAGES.encode({
        PASID: pasid === HOST_TABLES ? 0n : BigInt(pasid),
        DomainID: BigInt(domainId),
        Opcode: BigInt(OPCODE.INVALIDATE_IOMMU_PAGES),
        S,
        PDE: range.lostTables ? 1n : 0n,
        GN: pasid === HOST_TABLES ? 0n : 1n,
        Address,
      }),
    )
  }
}

/** @param pasid of the device's requests, or {@link HOST_TABLES} for requests without one */
export function pushIotlb(queue: CommandQueue, deviceId: number, pasid: number, range: PageRange): void {
  for (const { Address, S } of encodedBlocks(range)) pushIotlbBlock(queue, deviceId, pasid, Address, S)
}

/** One INVALIDATE_IOTLB_PAGES with its address as encoded. */
export function pushIotlbBlock(
  queue: CommandQueue,
  deviceId: number,
  pasid: number,
  Address: bigint,
  S: bigint,
): void {
  const bits = pasid === HOST_TABLES ? 0n : BigInt(pasid)
  queue.push(
    INVALIDATE_IOTLB_PAGES.encode({
      DeviceID: BigInt(deviceId),
      PASID_15_8: (bits >> 8n) & 0xffn,
      MaxPend: MAX_PEND,
      QueueID: BigInt(deviceId),
      PASID_7_0: bits & 0xffn,
      PASID_19_16: bits >> 16n,
      Opcode: BigInt(OPCODE.INVALIDATE_IOTLB_PAGES),
      S,
      GN: pasid === HOST_TABLES ? 0n : 1n,
      Address,
    }),
  )
}

/** Carries out what unmapping and dirty clearing left to do, and waits. */
export function invalidateGather(domain: AmdPagingDomain): void {
  const { table } = domain
  const { gather } = table
  if (gather.count === 0) return
  if (isCached(domain)) {
    const push = domain.isGuestFormat ? pushGuestRange : pushHostRange
    for (let n = 0; n < gather.count; n++) {
      push(domain, {
        firstPage: gather.firstPage(n),
        lastPage: gather.lastPage(n),
        lostTables: gather.lostTables(n),
      })
    }
    domain.ops.hardware.queue.sync()
  }
  table.gatherDone()
}

/** Drops all that is cached of a domain, and waits. */
export function invalidateAll(domain: AmdPagingDomain): void {
  if (isCached(domain)) {
    if (domain.isGuestFormat) pushGuestRange(domain, ALL)
    else pushHostRange(domain, ALL)
    domain.ops.hardware.queue.sync()
  }
  domain.table.gatherDone()
}

/** Nothing is cached under tags that no device table entry has: each detach drops what there was. */
function isCached(domain: AmdPagingDomain): boolean {
  return domain.attachments.length > 0 || domain.guests?.some(guest => guest.isAttached) === true
}

function pushHostRange(domain: AmdPagingDomain, range: PageRange): void {
  const { queue } = domain.ops.hardware
  if (domain.attachments.length > 0) pushPages(queue, domain.id, HOST_TABLES, range)
  for (const { state } of domain.attachments) {
    if (state.device.ats) pushIotlb(queue, state.device.id, HOST_TABLES, range)
  }
  const guests = domain.guests ?? []
  for (const domainId of guests.flatMap(guest => guest.attachedIds())) {
    pushPages(queue, domainId, HOST_TABLES, range)
  }
  // A device's IOTLB holds what the guest's tables map to the range: only the guest knows these addresses.
  for (const device of guests.flatMap(guest => guest.devices())) {
    if (nestedIotlb(device)) pushIotlb(queue, device.id, HOST_TABLES, ALL)
  }
}

function pushGuestRange(domain: AmdPagingDomain, range: PageRange): void {
  const { queue } = domain.ops.hardware
  for (const { state, pasid } of domain.attachments) {
    if (state.gcr3 === null) throw new Error("bug: a device is on guest tables without a GCR3 table")
    pushPages(queue, state.gcr3.domainId, pasid === NO_PASID ? 0 : pasid, range)
    if (state.device.ats) pushIotlb(queue, state.device.id, pasid, range)
  }
}

/**
 * Whether a device on a nested domain may keep an IOTLB. Not one that sends PASIDs: a change of the host tables
 * would have to drop entries of PASIDs that only the guest knows.
 */
export function nestedIotlb(device: IommuDevice): boolean {
  return device.ats && device.pasidBits === 0
}

function encodedBlocks(range: PageRange): { Address: bigint; S: bigint }[] {
  return coveringBlocks(range.firstPage, range.lastPage).map(([first, last]) =>
    encodeInvalidateRange(BigInt(first) << 12n, (BigInt(last) << 12n) | 0xfffn),
  )
}

/**
 * Naturally aligned blocks of 2^n pages: exactly the range when that takes few, else the smallest one around it
 * (§2.4.3 can name nothing else).
 */
export function coveringBlocks(firstPage: number, lastPage: number): [first: number, last: number][] {
  const blocks: [number, number][] = []
  let first = firstPage
  while (first <= lastPage) {
    if (blocks.length === MAX_EXACT_BLOCKS) return [[firstPage, lastPage]]
    let pages = 1
    while (first % (pages * 2) === 0 && first + pages * 2 - 1 <= lastPage) pages *= 2
    blocks.push([first, first + pages - 1])
    first += pages
  }
  return blocks
}
