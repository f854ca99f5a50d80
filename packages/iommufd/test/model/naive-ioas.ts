/**
 * What an I/O address space must do, said as plainly as possible: lists that are searched from end to end, and pins
 * that are counted anew each time. It shares no code with the package and knows nothing of trees, ledgers or runs.
 * Addresses are small enough for numbers.
 */

export const PAGE = 4096
/** Stands for the last of 64-bit addresses. */
const TOP = Number.MAX_SAFE_INTEGER
const HUGE = 2 << 20

/** A refusal: an errno of Linux. */
export class Refused {
  readonly code: string

  constructor(code: string) {
    this.code = code
  }
}

/** Pages of user memory or of a file: a frame each, or why there is none. */
export type NaiveSource = (page: number, write: boolean) => number | Refused

export interface NaivePages {
  readonly source: NaiveSource | "device"
  /** Where byte 0 lies in its source; a multiple of {@link PAGE}. */
  readonly base: number
  readonly writeable: boolean
  /** Frames of pages that somebody needs, as they were when the first one did. */
  readonly frames: Map<number, number>
  isRevoked: boolean
}

export interface NaiveArea {
  readonly start: number
  readonly last: number
  readonly pages: NaivePages
  /** First byte in the pages. */
  readonly byte: number
  readonly readable: boolean
  readonly writeable: boolean
  locks: number
  preventsAccess: boolean
}

export interface NaiveDomain {
  readonly start: number
  readonly last: number
  readonly page: number
  /** Calls of map that it still carries out; all others are ENOMEM. */
  budget: number
}

export interface NaivePin {
  readonly ioas: NaiveIoas
  readonly holds: readonly { readonly pages: NaivePages; readonly first: number; readonly last: number }[]
  readonly areas: readonly NaiveArea[]
  readonly locks: boolean
}

export interface Slice {
  readonly pages: NaivePages
  readonly byte: number
  readonly length: number
}

export class NaiveIoas {
  readonly world: NaiveWorld
  areas: NaiveArea[] = []
  domains: NaiveDomain[] = []
  reserved: { owner: unknown; start: number; last: number }[] = []
  allowed: { start: number; last: number }[] = []
  hugePages = true
  pinners = 0

  constructor(world: NaiveWorld) {
    this.world = world
  }

  get alignment(): number {
    return Math.max(
      this.hugePages ? 1 : PAGE,
      this.pinners > 0 ? PAGE : 1,
      ...this.domains.map(domain => domain.page),
    )
  }

  /** Areas by IOVA. */
  sorted(): NaiveArea[] {
    return [...this.areas].sort((a, b) => a.start - b.start)
  }

  insert(
    slices: readonly Slice[],
    iova: number | null,
    readable: boolean,
    writeable: boolean,
  ): number | Refused {
    const length = slices.reduce((sum, slice) => sum + slice.length, 0)
    if (length % this.alignment !== 0) return new Refused("EINVAL")
    const start = iova === null ? this.place(slices[0] as Slice, length) : this.check(iova, length)
    if (start instanceof Refused) return start
    for (const { pages, byte, length: part } of slices) {
      if (writeable && !pages.writeable) return new Refused("EPERM")
      if ((byte % PAGE) % this.alignment !== 0 || part % this.alignment !== 0) return new Refused("EINVAL")
    }
    let at = start
    const added = slices.map(({ pages, byte, length: bytes }) => {
      const area = {
        start: at,
        last: at + bytes - 1,
        pages,
        byte,
        readable,
        writeable,
        locks: 0,
        preventsAccess: false,
      }
      at += bytes
      return area
    })
    const before = this.areas
    for (const area of added) {
      const refused = this.domains.length > 0 ? this.fill(area, this.domains) : null
      if (refused) {
        this.areas = before
        return refused
      }
      this.areas = [...this.areas, area]
    }
    return start
  }

  check(iova: number, length: number): number | Refused {
    const last = iova + length - 1
    if (iova % this.alignment !== 0) return new Refused("EINVAL")
    if (this.reserved.some(range => touches(range, iova, last))) return new Refused("EINVAL")
    if (this.areas.some(area => touches(area, iova, last))) return new Refused("EEXIST")
    return iova
  }

  place({ pages, byte }: Slice, length: number): number | Refused {
    const address = pages.base + byte
    let alignment = 1
    while (alignment < length && alignment < HUGE) alignment *= 2
    while (address % alignment !== 0) alignment /= 2
    if (alignment < this.alignment) return new Refused("EINVAL")
    const fit = (start: number, last: number): number | null => {
      const aligned = Math.ceil(start / alignment) * alignment
      const offset = address % PAGE
      // Bits of the offset are added, not summed.
      const found = aligned - (aligned % PAGE) + ((aligned % PAGE) | offset)
      return found < last && last - found >= length - 1 ? found : null
    }
    const windows = this.allowed.length === 0 ? [{ start: PAGE, last: TOP - PAGE }] : this.allowed
    const used = [...this.areas, ...this.reserved].sort((a, b) => a.start - b.start)
    for (const window of [...windows].sort((a, b) => a.start - b.start)) {
      const last = Math.min(window.last, TOP - PAGE)
      let start = fit(Math.max(window.start, PAGE), last)
      if (start === null) continue
      for (const range of [...used, { start: TOP, last: TOP }]) {
        if (range.last < start) continue
        const found = range.start > start ? fit(start, Math.min(last, range.start - 1)) : null
        if (found !== null) return found
        start = range.last + 1
      }
    }
    return new Refused("ENOSPC")
  }

  /** The parts of areas that cover a range without a hole. */
  cover(iova: number, length: number): { area: NaiveArea; start: number; last: number }[] | Refused {
    const parts = this.toHole(iova, length)
    return parts.at(-1)?.last === iova + length - 1 ? parts : new Refused("ENOENT")
  }

  /** The parts of areas up to the first hole. */
  toHole(iova: number, length: number): { area: NaiveArea; start: number; last: number }[] {
    const parts: { area: NaiveArea; start: number; last: number }[] = []
    for (let at = iova; at < iova + length; ) {
      const from = at
      const area = this.areas.find(one => touches(one, from, from))
      if (!area) break
      parts.push({ area, start: at, last: Math.min(area.last, iova + length - 1) })
      at = area.last + 1
    }
    return parts
  }

  unmap(start: number, last: number): number | Refused {
    let bytes = 0
    for (const area of this.sorted().filter(one => touches(one, start, last))) {
      if (area.locks > 0) return new Refused("EBUSY")
      if (area.start < start || area.last > last) return new Refused("ENOENT")
      if (this.world.pins.some(pin => pin.areas.includes(area))) {
        area.preventsAccess = true
        this.world.askToLetGo(this)
        if (this.world.pins.some(pin => pin.areas.includes(area))) return new Refused("EDEADLOCK")
      }
      this.areas = this.areas.filter(other => other !== area)
      bytes += area.last - area.start + 1
    }
    return bytes
  }

  addDomain(domain: NaiveDomain): null | Refused {
    const alignment = Math.max(domain.page, this.alignment)
    if (alignment > PAGE) return new Refused("EINVAL")
    if (!this.isAligned(alignment)) return new Refused("EADDRINUSE")
    const outside = [
      { owner: domain, start: 0, last: domain.start - 1 },
      { owner: domain, start: domain.last + 1, last: TOP },
    ].filter(range => range.start <= range.last)
    for (const range of outside) if (this.isInUse(range)) return new Refused("EADDRINUSE")
    const before = this.domains
    this.domains = [...before, domain]
    for (const area of this.sorted()) {
      const refused = this.fill(area, [domain])
      if (refused) {
        this.domains = before
        return refused
      }
    }
    this.reserved.push(...outside)
    return null
  }

  /** Pins an area and maps it in domains, one after the other, a call for each run of frames. */
  fill(area: NaiveArea, domains: readonly NaiveDomain[]): null | Refused {
    const refused = this.world.pin(area)
    if (refused) return refused
    for (const domain of domains) {
      for (let run = 0; run < this.runsOf(area); run++) if (domain.budget-- <= 0) return new Refused("ENOMEM")
    }
    return null
  }

  runsOf({ pages, byte, start, last }: NaiveArea): number {
    const first = Math.floor(byte / PAGE)
    const count = Math.floor((byte + last - start) / PAGE) - first + 1
    if (pages.isRevoked) return 0
    if (!this.hugePages) return count
    if (pages.source === "device") return 1
    const frames = Array.from({ length: count }, (_, n) => pages.frames.get(first + n) as number)
    return frames.filter((frame, n) => n === 0 || frame !== (frames[n - 1] as number) + 1).length
  }

  isAligned(alignment: number): boolean {
    return this.areas.every(
      area =>
        area.start % alignment === 0 &&
        (area.last + 1) % alignment === 0 &&
        (area.byte % PAGE) % alignment === 0,
    )
  }

  isInUse({ start, last }: { readonly start: number; readonly last: number }): boolean {
    return [...this.areas, ...this.allowed].some(range => touches(range, start, last))
  }
}

/** Address spaces that share memory, pins and a limit. */
export class NaiveWorld {
  readonly ioases: readonly NaiveIoas[]
  readonly limit: number
  pins: NaivePin[] = []

  constructor(ioases: number, limit: number) {
    this.ioases = Array.from({ length: ioases }, () => new NaiveIoas(this))
    this.limit = limit
  }

  /** Accesses let go of everything when they are asked; queues do not. */
  askToLetGo(ioas: NaiveIoas): void {
    if (ioas.pinners > 0) this.pins = this.pins.filter(pin => pin.ioas !== ioas || pin.locks)
  }

  /** Pins what an area shows. */
  pin({ pages, byte, start, last }: NaiveArea): null | Refused {
    return this.pinPages(pages, Math.floor(byte / PAGE), Math.floor((byte + last - start) / PAGE))
  }

  /** Finds frames for pages that nobody has pinned yet, or refuses and leaves all as it was. */
  pinPages(pages: NaivePages, first: number, last: number): null | Refused {
    if (pages.source === "device") return null
    this.forget()
    const found: number[] = []
    for (let page = first; page <= last; page++) {
      if (pages.frames.has(page)) continue
      const frame = pages.source(pages.base / PAGE + page, pages.writeable)
      if (frame instanceof Refused) {
        for (const done of found) pages.frames.delete(done)
        return frame
      }
      pages.frames.set(page, frame)
      found.push(page)
    }
    const total = this.allPages().reduce((sum, each) => sum + each.frames.size, 0)
    const counted = this.allPages().includes(pages) ? total : total + pages.frames.size
    if (found.length > 0 && counted > this.limit) {
      for (const done of found) pages.frames.delete(done)
      return new Refused("ENOMEM")
    }
    return null
  }

  allPages(): NaivePages[] {
    return [...new Set(this.ioases.flatMap(ioas => ioas.areas.map(area => area.pages)))]
  }

  /** Drops frames that no area in a domain and no pin needs. */
  forget(): void {
    for (const pages of this.allPages()) {
      for (const page of [...pages.frames.keys()]) if (!this.isNeeded(pages, page)) pages.frames.delete(page)
    }
  }

  isNeeded(pages: NaivePages, page: number): boolean {
    const byArea = this.ioases.some(
      ioas =>
        ioas.domains.length > 0 &&
        ioas.areas.some(
          area =>
            area.pages === pages &&
            Math.floor(area.byte / PAGE) <= page &&
            page <= Math.floor((area.byte + area.last - area.start) / PAGE),
        ),
    )
    return (
      byArea ||
      this.pins.some(pin =>
        pin.holds.some(hold => hold.pages === pages && hold.first <= page && page <= hold.last),
      )
    )
  }
}

function touches(
  range: { readonly start: number; readonly last: number },
  start: number,
  last: number,
): boolean {
  return range.start <= last && range.last >= start
}
