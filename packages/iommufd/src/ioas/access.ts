/** Use of an IOAS by software instead of a device, as mediated devices do. */
import { IommuError, PAGE_SIZE, U64_MAX } from "@iommu/core"
import type { Area } from "./area.ts"
import { type AreaPart, contiguousAreas } from "./contiguous-areas.ts"
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

/**
 * Pins a range. Pages that domains hold are not counted again.
 * @throws EINVAL for an empty or misaligned range, a dma-buf, or areas that are about to go; EOVERFLOW; ENOENT for
 *   holes; EPERM to write to what is read-only; EFAULT, ENOMEM
 */
export function pinRange(ioas: Ioas, iova: bigint, length: bigint, use: "read" | "write"): IovaPin {
  const parts = partsOf(ioas, iova, length)
  parts.forEach((part, index) => {
    checkPinnable(part, use)
    checkPageAligned(part, index === parts.length - 1)
  })
  return pinParts(ioas, parts)
}

/** Reads bytes by CPU. @throws as {@link pinRange} for the range; EBUSY for areas that are about to go */
export function readIova(ioas: Ioas, iova: bigint, length: number): Uint8Array {
  const parts = partsOf(ioas, iova, BigInt(length))
  const bytes = new Uint8Array(length)
  for (const { area, start, last } of parts) {
    const pages = pagesForCopy(area, "read")
    bytes.set(pages.read(area.byteAt(start), Number(last - start) + 1), Number(start - iova))
  }
  return bytes
}

/** Writes bytes by CPU. @throws as {@link readIova}; areas below the refused one are written */
export function writeIova(ioas: Ioas, iova: bigint, bytes: Uint8Array): void {
  for (const { area, start, last } of partsOf(ioas, iova, BigInt(bytes.length))) {
    const pages = pagesForCopy(area, "write")
    pages.write(area.byteAt(start), bytes.subarray(Number(start - iova), Number(last - iova) + 1))
  }
}

export function partsOf(ioas: Ioas, iova: bigint, length: bigint): AreaPart[] {
  if (length === 0n) throw new IommuError("EINVAL", "an access is not empty")
  if (iova + length - 1n > U64_MAX) throw new IommuError("EOVERFLOW", "the range ends beyond the last IOVA")
  return contiguousAreas(ioas, iova, iova + length - 1n)
}

export function checkPinnable({ area }: AreaPart, use: "read" | "write"): void {
  if (area.pages.kind === "dma-buf") throw new IommuError("EINVAL", "software cannot access a dma-buf")
  if (area.preventsAccess) throw new IommuError("EINVAL", "the area is about to be unmapped")
  checkWriteable(area, use)
}

function checkWriteable(area: Area, use: "read" | "write"): void {
  if (use === "write" && !area.pages.writeable)
    throw new IommuError("EPERM", "the pages are mapped read-only")
}

/** Where two areas meet, pages must meet too. */
function checkPageAligned({ area, start, last }: AreaPart, isLast: boolean): void {
  const begins = area.byteAt(start) % BigInt(PAGE_SIZE) === 0n
  const ends = (area.byteAt(last) + 1n) % BigInt(PAGE_SIZE) === 0n
  if (!begins || !(ends || isLast))
    throw new IommuError("EINVAL", "pages are pinned whole, from their first byte on")
}

function pagesForCopy(area: Area, use: "read" | "write"): Extract<Area["pages"], { kind: "pinned" }> {
  if (area.pages.kind === "dma-buf") throw new IommuError("EINVAL", "software cannot access a dma-buf")
  if (area.preventsAccess) throw new IommuError("EBUSY", "the area is about to be unmapped")
  checkWriteable(area, use)
  return area.pages
}

export function pinParts(ioas: Ioas, parts: readonly AreaPart[]): IovaPin {
  const undo: (() => void)[] = []
  const release = (): void => {
    for (const step of undo.splice(0).reverse()) step()
  }
  const pages: bigint[] = []
  try {
    for (const part of parts) pages.push(...pinPart(ioas, part, undo))
  } catch (error) {
    release()
    throw error
  }
  return { pages, release }
}

function pinPart(ioas: Ioas, { area, start, last }: AreaPart, undo: (() => void)[]): bigint[] {
  const pages = pagesForCopy(area, "read")
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
