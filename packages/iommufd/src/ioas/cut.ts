/** Cutting areas in two, for VFIO's first type of container, which may unmap any part. Linux's `iopt_cut_iova`. */
import { IommuError } from "@iommu/core"
import { AREA_BYTES, Area } from "./area.ts"
import type { Ioas } from "./ioas.ts"

/**
 * Makes an IOVA the last of an area, when one covers it and what follows. Domains keep what they map, and pages their
 * users: without huge pages, areas in domains are whole pages.
 * A cut after the first byte is left out, as in Linux.
 * @throws EBUSY while accesses are asked to let go; EOPNOTSUPP for a dma-buf; EINVAL for a misaligned place, pinned
 *   areas, or leaves that may be large; ENOMEM
 */
export function cutAfter(ioas: Ioas, iova: bigint): void {
  const area = ioas.areas.firstOverlap(iova, iova)
  if (area === undefined || iova === area.start || iova === area.last) return
  checkCuttable(ioas, area, iova + 1n)
  const { account, access, pages } = area
  account.chargeBytes(AREA_BYTES)
  const left = new Area(
    ioas,
    area.start,
    { pages, startByte: area.startByte, length: iova + 1n - area.start },
    access,
    account,
  )
  const right = new Area(
    ioas,
    iova + 1n,
    { pages, startByte: area.byteAt(iova + 1n), length: area.last - iova },
    access,
    account,
  )
  ioas.areas.remove(area)
  ioas.areas.insert(left)
  ioas.areas.insert(right)
  pages.get()
}

function checkCuttable(ioas: Ioas, area: Area, start: bigint): void {
  if (area.preventsAccess) throw new IommuError("EBUSY", "the area is about to be unmapped")
  if (area.pages.kind === "dma-buf") throw new IommuError("EOPNOTSUPP", "a dma-buf is unmapped in one piece")
  if (((start | area.byteAt(start)) & (ioas.alignment - 1n)) !== 0n) {
    throw new IommuError("EINVAL", `an area is cut at multiples of 0x${ioas.alignment.toString(16)}`)
  }
  if (area.accesses > 0)
    throw new IommuError("EINVAL", "an area that an access has pinned stays in one piece")
  if (ioas.domains.length > 0 && ioas.usesHugePages) {
    throw new IommuError("EINVAL", "domains may map the area with huge pages")
  }
}
