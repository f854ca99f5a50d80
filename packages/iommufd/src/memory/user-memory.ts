/**
 * The memory of a process: a sorted table of mappings, each a run of pages that physical memory answers, may not be
 * writeable, or may be a device's. What lies between them is missing.
 */
import { hi32, IommuError, lo32, PAGE_SIZE, type PhysicalMemory, toU64, type U64Like } from "@iommu/core"
import { FramePins, type FrameRun } from "./frame-pins.ts"

/** What the process may do with a mapping. Device memory takes loads and stores of the CPU, but cannot be pinned. */
export type UserAccess = "read-write" | "read-only" | "device"

interface Mapping {
  readonly firstPage: number
  readonly endPage: number
  readonly frame: number
  readonly access: UserAccess
}

/** Memory of one machine and the pins on it, shared by its processes. */
export class MachineMemory {
  readonly physical: PhysicalMemory
  readonly pins: FramePins = new FramePins()

  constructor(physical: PhysicalMemory) {
    this.physical = physical
  }
}

export class UserMemory {
  readonly machine: MachineMemory
  /** Ascending, disjoint. */
  readonly #mappings: Mapping[] = []

  constructor(machine: MachineMemory) {
    this.machine = machine
  }

  /**
   * Shows physical memory at user addresses, in place of what was there.
   * @param va first user address, @param address first physical address, @param length bytes; whole pages all
   * @throws EINVAL
   */
  map(va: U64Like, address: U64Like, length: U64Like, access: UserAccess = "read-write"): void {
    const firstPage = pageNumber(va, "user address")
    const frame = pageNumber(address, "physical address")
    const endPage = firstPage + pageNumber(length, "length")
    if (endPage === firstPage) return
    this.#replace(firstPage, endPage, [{ firstPage, endPage, frame, access }])
  }

  /** Takes pages out. Those that are pinned stay pinned. */
  unmap(va: U64Like, length: U64Like): void {
    const firstPage = pageNumber(va, "user address")
    this.#replace(firstPage, firstPage + pageNumber(length, "length"), [])
  }

  /**
   * Contiguous pages from a page on, at most `pages`, that can be pinned.
   * @throws EFAULT when the first of them is missing, a device's, or read-only and to be written
   */
  pinnable(page: number, pages: number, forWriting: boolean): FrameRun {
    const mapping = this.#at(page)
    if (mapping === undefined || mapping.access === "device") {
      throw new IommuError("EFAULT", `no page that can be pinned is at user address ${hexOfPage(page)}`)
    }
    if (forWriting && mapping.access === "read-only") {
      throw new IommuError("EFAULT", `the page at user address ${hexOfPage(page)} is read-only`)
    }
    return { frame: mapping.frame + page - mapping.firstPage, pages: Math.min(pages, mapping.endPage - page) }
  }

  /** The bytes of a page that the process may write, in place; null when there is none. */
  writeablePage(page: number): Uint8Array | null {
    const mapping = this.#at(page)
    if (mapping === undefined || mapping.access === "read-only") return null
    const address = BigInt(mapping.frame + page - mapping.firstPage) << 12n
    const { physical } = this.machine
    const word = physical.find(hi32(address), lo32(address))
    return word < 0 ? null : new Uint8Array(physical.words.buffer, word * 4, PAGE_SIZE)
  }

  /**
   * Linux's `copy_from_user`.
   * @throws EFAULT when any byte is missing
   */
  read(va: U64Like, length: number): Uint8Array {
    const bytes = new Uint8Array(length)
    for (const piece of this.#pieces(toU64(va, "user address"), length, false)) {
      bytes.set(this.machine.physical.read(piece.address, piece.length), piece.offset)
    }
    return bytes
  }

  /**
   * Linux's `copy_to_user`.
   * @throws EFAULT when any byte is missing or read-only; nothing is written then
   */
  write(va: U64Like, bytes: Uint8Array): void {
    for (const piece of this.#pieces(toU64(va, "user address"), bytes.length, true)) {
      this.machine.physical.write(piece.address, bytes.subarray(piece.offset, piece.offset + piece.length))
    }
  }

  /** Where the bytes lie in physical memory, in runs. */
  #pieces(va: bigint, length: number, forWriting: boolean): Piece[] {
    const pieces: Piece[] = []
    for (let offset = 0; offset < length; ) {
      const at = va + BigInt(offset)
      const page = Number(at >> 12n)
      const inPage = Number(at & 0xfffn)
      const mapping = this.#at(page)
      if (mapping === undefined)
        throw new IommuError("EFAULT", `no page is at user address ${hexOfPage(page)}`)
      if (forWriting && mapping.access === "read-only") {
        throw new IommuError("EFAULT", `the page at user address ${hexOfPage(page)} is read-only`)
      }
      const room = (mapping.endPage - page) * PAGE_SIZE - inPage
      const bytes = Math.min(room, length - offset)
      const address = BigInt((mapping.frame + page - mapping.firstPage) * PAGE_SIZE + inPage)
      if (!this.machine.physical.contains(address, bytes)) {
        throw new IommuError("EFAULT", `no memory answers behind user address ${hexOfPage(page)}`)
      }
      pieces.push({ address, offset, length: bytes })
      offset += bytes
    }
    return pieces
  }

  #at(page: number): Mapping | undefined {
    const mapping = this.#mappings[this.#indexFrom(page)]
    return mapping !== undefined && mapping.firstPage <= page ? mapping : undefined
  }

  /** Index of the first mapping that ends after a page. */
  #indexFrom(page: number): number {
    let low = 0
    let high = this.#mappings.length
    while (low < high) {
      const middle = (low + high) >> 1
      if ((this.#mappings[middle] as Mapping).endPage <= page) low = middle + 1
      else high = middle
    }
    return low
  }

  /** Puts mappings in place of what lies in a range; what reaches out of it on either side stays. */
  #replace(firstPage: number, endPage: number, added: readonly Mapping[]): void {
    const first = this.#indexFrom(firstPage)
    const pieces: Mapping[] = []
    let index = first
    for (; index < this.#mappings.length; index++) {
      const mapping = this.#mappings[index] as Mapping
      if (mapping.firstPage >= endPage) break
      if (mapping.firstPage < firstPage) pieces.push({ ...mapping, endPage: firstPage })
      if (mapping.endPage > endPage) {
        const frame = mapping.frame + endPage - mapping.firstPage
        pieces.push({ ...mapping, firstPage: endPage, frame })
      }
    }
    const left = pieces.filter(piece => piece.firstPage < firstPage)
    const right = pieces.filter(piece => piece.firstPage >= firstPage)
    this.#mappings.splice(first, index - first, ...left, ...added, ...right)
  }
}

interface Piece {
  readonly address: bigint
  readonly offset: number
  readonly length: number
}

function pageNumber(bytes: U64Like, what: string): number {
  const value = toU64(bytes, what)
  if (value % BigInt(PAGE_SIZE) !== 0n) throw new IommuError("EINVAL", `the ${what} is a multiple of 4096`)
  return Number(value >> 12n)
}

function hexOfPage(page: number): string {
  return `0x${(BigInt(page) << 12n).toString(16)}`
}
