/** Memory that MAP and MAP_FILE name, as pages that areas can show. */
import { IommuError, U64_MAX } from "@iommu/core"
import { DmaBuf, DmaBufPages } from "../memory/dma-buf.ts"
import { MemFile, UNPINNABLE_FILE } from "../memory/mem-file.ts"
import { PinCharge, type PinPolicy } from "../memory/pin-accounting.ts"
import { type PageSource, PinnedPages } from "../memory/pinned-pages.ts"
import type { UserFile } from "../process/file-table.ts"
import type { Process } from "../process/process.ts"
import type { AreaSlice } from "./area.ts"

const PAGE = 4096n

/** What is mapped: bytes of the process's memory, or of a file. */
export interface SourceRange {
  readonly start: bigint
  readonly length: bigint
  readonly writeable: boolean
}

/** @throws EOVERFLOW, EINVAL for the range, ENOMEM */
export function userSlice(process: Process, policy: PinPolicy, range: SourceRange): AreaSlice {
  if (range.start + range.length > U64_MAX) {
    throw new IommuError("EOVERFLOW", "the memory ends beyond the last address")
  }
  return pinnedSlice(process, policy, range, process.memory, false)
}

/** @throws EINVAL, EOVERFLOW, ENOMEM; for dma-bufs also EOPNOTSUPP, ENODEV */
export function fileSlice(
  process: Process,
  policy: PinPolicy,
  file: UserFile,
  range: SourceRange,
): AreaSlice {
  const { start, length, writeable } = range
  if (length === 0n) throw new IommuError("EINVAL", "a range of a file is not empty")
  if (start + length - 1n > U64_MAX)
    throw new IommuError("EOVERFLOW", "the range ends beyond the last position")
  if (file instanceof DmaBuf) {
    const pages = new DmaBufPages(file, start, length, writeable, process.account)
    return { pages, startByte: start % PAGE, length }
  }
  return pinnedSlice(process, policy, range, file instanceof MemFile ? file : UNPINNABLE_FILE, true)
}

function pinnedSlice(
  process: Process,
  policy: PinPolicy,
  { start, length, writeable }: SourceRange,
  source: PageSource,
  fromFile: boolean,
): AreaSlice {
  if (length === 0n || length > U64_MAX - PAGE) {
    throw new IommuError("EINVAL", "the length is neither 0 nor within a page of the whole address space")
  }
  const startByte = start % PAGE
  const pages = new PinnedPages({
    source,
    sourcePage: Number(start / PAGE),
    pages: Number((startByte + length + PAGE - 1n) / PAGE),
    writeable,
    fromFile,
    memory: process.memory.machine,
    charge: new PinCharge(process, policy),
    account: process.account,
  })
  return { pages, startByte, length }
}
