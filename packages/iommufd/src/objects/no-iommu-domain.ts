/** The address space of devices without an IOMMU: runs of pages in a balanced tree. */
import {
  ERRNO,
  fromHalves,
  hi32,
  IommuError,
  type IommuOps,
  isIommuError,
  lo32,
  type MemoryAccount,
  PAGE_SIZE,
  PageTableFormatId,
  type PagingDomain,
  toU64,
  U64_MAX,
  type U64Like,
} from "@iommu/core"
import { type Interval, IntervalTree } from "../ioas/interval-tree.ts"

/** Kernel memory of the domain, and of the entry that each page has in Linux's table. */
const DOMAIN_BYTES = 256
const ENTRY_BYTES = 8
/** Linux's software table has 52 bits of output. */
const LAST_ADDRESS = (1n << 52n) - 1n

interface Run extends Interval {
  readonly address: bigint
}

export class NoIommuDomain implements PagingDomain {
  readonly type = "paging"
  readonly ops: IommuOps
  readonly format: number = PageTableFormatId.DEFAULT
  readonly nestParent = false
  readonly pageSizes: bigint = BigInt(PAGE_SIZE)
  readonly aperture: PagingDomain["aperture"] = { start: 0n, last: U64_MAX }
  physHi = 0
  physLo = 0
  readonly #account: MemoryAccount
  readonly #runs = new IntervalTree<Run>()
  /** Bytes. */
  #mapped = 0n

  /** @throws ENOMEM */
  constructor(ops: IommuOps, account: MemoryAccount) {
    account.chargeBytes(DOMAIN_BYTES)
    this.ops = ops
    this.#account = account
  }

  attachDev(): void {}

  detachDev(): void {}

  map(iova: U64Like, pa: U64Like, size: U64Like): void {
    const [start, address, bytes] = [toU64(iova, "iova"), toU64(pa, "pa"), toU64(size, "size")]
    if (bytes === 0n || ((start | address | bytes) & 0xfffn) !== 0n) {
      throw new IommuError("EINVAL", "whole pages are mapped")
    }
    if (address + bytes - 1n > LAST_ADDRESS || start + bytes - 1n > U64_MAX) {
      throw new IommuError("ERANGE", "addresses have 64 bits, those behind them 52")
    }
    const last = start + bytes - 1n
    if (this.#runs.firstOverlap(start, last) !== undefined) {
      throw new IommuError("EEXIST", "a page is mapped already")
    }
    this.#account.chargeBytes(entryBytes(bytes))
    this.#runs.insert({ start, last, address })
    this.#mapped += bytes
  }

  unmap(iova: U64Like, size: U64Like): bigint {
    const start = toU64(iova, "iova")
    const last = start + toU64(size, "size") - 1n
    let bytes = 0n
    for (let run = this.#runs.firstOverlap(start, last); run; run = this.#runs.firstOverlap(start, last)) {
      this.#runs.remove(run)
      const from = run.start > start ? run.start : start
      const to = run.last < last ? run.last : last
      bytes += to - from + 1n
      this.#keep(run, run.start, from - 1n)
      this.#keep(run, to + 1n, run.last)
    }
    this.#account.unchargeBytes(entryBytes(bytes))
    this.#mapped -= bytes
    return bytes
  }

  unmapFast(iova: U64Like, size: U64Like): bigint {
    return this.unmap(iova, size)
  }

  /** There is no hardware that could remember anything. */
  iotlbSync(): void {}

  flushIotlbAll(): void {}

  iovaToPhys(iova: U64Like): bigint | null {
    const at = toU64(iova, "iova")
    const run = this.#runs.firstOverlap(at, at)
    return run === undefined ? null : run.address + at - run.start
  }

  mapPages(iovaHi: number, iovaLo: number, paHi: number, paLo: number, pages: number): number {
    try {
      this.map(fromHalves(iovaHi, iovaLo), fromHalves(paHi, paLo), pages * PAGE_SIZE)
      return 0
    } catch (error) {
      if (isIommuError(error)) return error.errno
      throw error
    }
  }

  unmapPages(iovaHi: number, iovaLo: number, pages: number): number {
    return Number(this.unmap(fromHalves(iovaHi, iovaLo), pages * PAGE_SIZE)) / PAGE_SIZE
  }

  iovaToPhysHalves(iovaHi: number, iovaLo: number): number {
    const address = this.iovaToPhys(fromHalves(iovaHi, iovaLo))
    if (address === null) return ERRNO.ENOENT
    this.physHi = hi32(address)
    this.physLo = lo32(address)
    return 0
  }

  free(): void {
    this.#account.unchargeBytes(DOMAIN_BYTES + entryBytes(this.#mapped))
  }

  /** What is left of a run that an unmap cut. */
  #keep(run: Run, start: bigint, last: bigint): void {
    if (start <= last) this.#runs.insert({ start, last, address: run.address + start - run.start })
  }
}

function entryBytes(mapped: bigint): number {
  return Number(mapped / BigInt(PAGE_SIZE)) * ENTRY_BYTES
}
