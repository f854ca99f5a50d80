/** Use of an IOAS by software instead of a device, as mediated devices do. */
import { IommuError, PAGE_SIZE, U64_MAX } from "@iommu/core"
import type { PinnedPages } from "../memory/pinned-pages.ts"
import type { Area } from "./area.ts"
import { type AreaPart, areasToHole, checkNoHole } from "./contiguous-areas.ts"
import type { Ioas } from "./ioas.ts"

/** A user of an IOAS, as the IOAS sees it: Linux's `struct iommufd_access`. */
export interface IoasAccess {
  /** 4096 for one that pins pages, else 1. */
  readonly alignment: bigint
  /** Must give back all pins that touch the range. */
  onUnmap(iova: bigint, length: bigint): void
}

/** Pinned pages of a range of IOVAs. */
export interface IovaPin {
  /** Physical address of each page, ascending by IOVA; the first is that of the page, not of the byte. */
  readonly pages: readonly bigint[]
  /** Once. */
  release(): void
}

/** Bytes of Linux's `struct iopt_pages_access`, and of an entry in its xarray of page frames. */
const ACCESS_BYTES = 96
const FRAME_BYTES = 8

/** What the user of a range does there. */
export type AccessUse = "read" | "write"

/**
 * Pins a range. Pages that domains hold are not counted again. Areas are taken one after the other, so that what is
 * wrong with one comes before a hole behind it.
 * @throws EINVAL for an empty range, pages that are not whole, a dma-buf, or areas that are about to go; EOVERFLOW;
 *   ENOENT for holes; EPERM for areas that do not allow the use; EFAULT, ENOMEM
 */
export function pinRange(ioas: Ioas, iova: bigint, length: bigint, use: AccessUse): IovaPin {
  const last = lastOf(iova, length)
  const undo: (() => void)[] = []
  const release = (): void => {
    for (const step of undo.splice(0).reverse()) step()
  }
  const pages: bigint[] = []
  try {
    const parts = areasToHole(ioas, iova, last)
    for (const part of parts) {
      checkWholePages(part, last)
      pages.push(...pinPart(ioas, part, accessiblePages(part.area, use), undo))
    }
    checkNoHole(parts, iova, last)
  } catch (error) {
    release()
    throw error
  }
  return { pages, release }
}

/**
 * Reads bytes by CPU.
 * @throws EINVAL for an empty range, a dma-buf, or areas that are about to go; EOVERFLOW; ENOENT for holes; EPERM;
 *   EFAULT
 */
export function readIova(ioas: Ioas, iova: bigint, length: number): Uint8Array {
  const rangeLast = lastOf(iova, BigInt(length))
  const parts = areasToHole(ioas, iova, rangeLast)
  const bytes = new Uint8Array(length)
  for (const { area, start, last } of parts) {
    const pages = accessiblePages(area, "read")
    bytes.set(pages.read(area.byteAt(start), Number(last - start) + 1), Number(start - iova))
  }
  checkNoHole(parts, iova, rangeLast)
  return bytes
}

/** Writes bytes by CPU. @throws as {@link readIova}; areas below the refused one are written */
export function writeIova(ioas: Ioas, iova: bigint, bytes: Uint8Array): void {
  const rangeLast = lastOf(iova, BigInt(bytes.length))
  const parts = areasToHole(ioas, iova, rangeLast)
  for (const { area, start, last } of parts) {
    const pages = accessiblePages(area, "write")
    pages.write(area.byteAt(start), bytes.subarray(Number(start - iova), Number(last - iova) + 1))
  }
  checkNoHole(parts, iova, rangeLast)
}

function lastOf(iova: bigint, length: bigint): bigint {
  if (length === 0n) throw new IommuError("EINVAL", "an access is not empty")
  if (iova + length - 1n > U64_MAX) throw new IommuError("EOVERFLOW", "the range ends beyond the last IOVA")
  return iova + length - 1n
}

/** Pages are pinned from their first byte on, and where two areas meet, pages must meet too. */
function checkWholePages({ area, start, last }: AreaPart, rangeLast: bigint): void {
  const begins = area.byteAt(start) % BigInt(PAGE_SIZE) === 0n
  const ends = (area.byteAt(last) + 1n) % BigInt(PAGE_SIZE) === 0n
  if (!begins || !(ends || last === rangeLast)) {
    throw new IommuError("EINVAL", "pages are pinned whole, from their first byte on")
  }
}

function accessiblePages(area: Area, use: AccessUse): PinnedPages {
  if (area.pages.kind === "dma-buf") throw new IommuError("EINVAL", "software cannot access a dma-buf")
  if (area.preventsAccess) throw new IommuError("EINVAL", "the area is about to be unmapped")
  if (!(use === "write" ? area.access.writeable : area.access.readable)) {
    throw new IommuError("EPERM", `the area is not mapped to ${use}`)
  }
  return area.pages
}

function pinPart(
  ioas: Ioas,
  { area, start, last }: AreaPart,
  pages: PinnedPages,
  undo: (() => void)[],
): bigint[] {
  const first = Number(area.byteAt(start) >> 12n)
  const count = Number(area.byteAt(last) >> 12n) - first + 1
  const cost = ACCESS_BYTES + count * FRAME_BYTES
  ioas.account.chargeBytes(cost)
  undo.push(() => ioas.account.unchargeBytes(cost))
  pages.hold(first, count)
  area.accesses++
  undo.push(() => {
    area.accesses--
    pages.release(first, count)
  })
  return Array.from({ length: count }, (_, page) => BigInt(pages.runAt(first + page, 1).frame) << 12n)
}
