/** The same steps on the naive model. */
import {
  type NaiveArea,
  type NaiveIoas,
  type NaivePages,
  type NaivePin,
  type NaiveSource,
  NaiveWorld,
  PAGE,
  Refused,
  type Slice,
} from "./naive-ioas.ts"
import { DEVICE_PAGES, DOMAINS, FILE_FRAMES, FIRST_FRAME, USER, USER_FRAMES } from "./real-world.ts"
import { type Step, UNIT } from "./steps.ts"

interface UserPage {
  readonly frame: number
  readonly access: "missing" | "read-only" | "read-write"
}

export class NaivePlay {
  readonly world: NaiveWorld
  readonly #userPages: UserPage[] = USER_FRAMES.map((frame, page) => ({
    frame,
    access: page < 16 ? "read-write" : "read-only",
  }))
  #isRevoked = false

  constructor(limit: number) {
    this.world = new NaiveWorld(2, limit)
  }

  take(step: Step): number | string | undefined {
    const result = this.#call(step)
    this.world.forget()
    if (result instanceof Refused) return result.code
    return typeof result === "number" ? result : undefined
  }

  #call(step: Step): number | Refused | null | undefined {
    const ioas = this.world.ioases["ioas" in step ? step.ioas : 0] as NaiveIoas
    switch (step.step) {
      case "map":
        return this.#map(ioas, step, this.#userSource, USER + step.at * UNIT)
      case "mapFile":
        return step.file === 2
          ? this.#mapDevice(ioas, step)
          : this.#map(ioas, step, fileSource(FILE_FRAMES[step.file] as readonly number[]), step.at * UNIT)
      case "copy":
        return this.#copy(ioas, step)
      case "unmap": {
        if (step.length === 0) return new Refused("EINVAL")
        const removed = ioas.unmap(step.at * UNIT, (step.at + step.length) * UNIT - 1)
        return removed === 0 ? new Refused("ENOENT") : removed
      }
      case "unmapAll":
        return ioas.unmap(0, Number.MAX_SAFE_INTEGER)
      case "addDomain":
        return ioas.addDomain({ ...(DOMAINS[step.kind] as (typeof DOMAINS)[number]), budget: step.budget })
      case "starve": {
        const domain = ioas.domains[step.index]
        if (domain) domain.budget = step.budget
        return null
      }
      case "removeDomain":
        return removeDomain(ioas, step.index)
      case "reserve":
        return reserve(ioas, step)
      case "unreserve":
        ioas.reserved = ioas.reserved.filter(({ owner }) => owner !== step.owner)
        return null
      case "allow":
        return allow(ioas, step.ranges)
      case "hugePages":
        return setHugePages(ioas, step.uses)
      case "addAccess":
        if (ioas.pinners > 0) return null
        if (!ioas.isAligned(Math.max(PAGE, ioas.alignment))) return new Refused("EADDRINUSE")
        ioas.pinners = 1
        return null
      case "removeAccess":
        ioas.pinners = 0
        return null
      case "pin":
        return this.#pin(ioas, step, step.use)
      case "queue":
        return this.#pin(ioas, step, "queue")
      case "release":
        this.#release(step.index)
        return null
      case "cut":
        return this.#cut(ioas, step.at * UNIT - 1)
      case "remap":
        this.#userPages[step.page] = { frame: FIRST_FRAME + step.frame, access: step.to }
        return null
      case "revoke":
        this.#isRevoked = true
        for (const pages of this.world.allPages()) if (pages.source === "device") pages.isRevoked = true
        return null
    }
  }

  readonly #userSource: NaiveSource = (page, write) => {
    const user = this.#userPages[page - USER / PAGE]
    if (user === undefined || user.access === "missing") return new Refused("EFAULT")
    return write && user.access === "read-only" ? new Refused("EFAULT") : user.frame
  }

  #map(ioas: NaiveIoas, step: MapStep, source: NaiveSource | "device", at: number): number | Refused {
    if (step.length === 0) return new Refused("EINVAL")
    const writeable = step.access !== "r"
    const pages: NaivePages = {
      source,
      base: at - (at % PAGE),
      writeable,
      frames: new Map(),
      isRevoked: false,
    }
    const slice = { pages, byte: at % PAGE, length: step.length * UNIT }
    return ioas.insert([slice], iovaOf(step), step.access !== "w", writeable)
  }

  #mapDevice(ioas: NaiveIoas, step: MapStep & { readonly at: number }): number | Refused {
    if (step.length === 0) return new Refused("EINVAL")
    if ((step.at + step.length) * UNIT > DEVICE_PAGES * PAGE) return new Refused("EINVAL")
    if (this.#isRevoked) return new Refused("ENODEV")
    return this.#map(ioas, step, "device", step.at * UNIT)
  }

  #copy(ioas: NaiveIoas, step: Extract<Step, { step: "copy" }>): number | Refused {
    if (step.length === 0) return new Refused("EINVAL")
    const parts = (this.world.ioases[step.source] as NaiveIoas).cover(step.at * UNIT, step.length * UNIT)
    if (parts instanceof Refused) return parts
    const slices: Slice[] = parts.map(({ area, start, last }) => ({
      pages: area.pages,
      byte: area.byte + start - area.start,
      length: last - start + 1,
    }))
    return ioas.insert(slices, iovaOf(step), step.access !== "w", step.access !== "r")
  }

  #pin(
    ioas: NaiveIoas,
    step: { readonly at: number; readonly length: number },
    use: "read" | "write" | "queue",
  ): null | Refused {
    if (step.length === 0) return new Refused("EINVAL")
    const end = (step.at + step.length) * UNIT - 1
    const parts = ioas.toHole(step.at * UNIT, step.length * UNIT)
    const before = this.world.pins
    const holds: { pages: NaivePages; first: number; last: number }[] = []
    const pin: NaivePin = { ioas, holds, areas: parts.map(({ area }) => area), locks: use === "queue" }
    const refused = (code: string): Refused => {
      this.world.pins = before
      return new Refused(code)
    }
    this.world.pins = [...before, pin]
    for (const { area, start, last } of parts) {
      const [low, high] = [area.byte + start - area.start, area.byte + last - area.start]
      if (low % PAGE !== 0 || ((high + 1) % PAGE !== 0 && last !== end)) return refused("EINVAL")
      if (area.pages.source === "device" || area.preventsAccess) return refused("EINVAL")
      if (!(use === "write" ? area.writeable : area.readable)) return refused("EPERM")
      const hold = { pages: area.pages, first: Math.floor(low / PAGE), last: Math.floor(high / PAGE) }
      const cannot = this.world.pinPages(hold.pages, hold.first, hold.last)
      if (cannot) return refused(cannot.code)
      holds.push(hold)
    }
    if (parts.at(-1)?.last !== end) return refused("ENOENT")
    const frames = holds.flatMap(({ pages, first, last }) =>
      Array.from({ length: last - first + 1 }, (_, n) => pages.frames.get(first + n) as number),
    )
    if (pin.locks && frames.some((frame, n) => frame !== (frames[0] as number) + n)) return refused("EFAULT")
    if (pin.locks) for (const area of pin.areas) area.locks++
    return null
  }

  #release(index: number): void {
    const pin = this.world.pins[index]
    this.world.pins = this.world.pins.filter(other => other !== pin)
    if (pin?.locks) for (const area of pin.areas) area.locks--
  }

  #cut(ioas: NaiveIoas, iova: number): null | Refused {
    const area = ioas.areas.find(one => one.start < iova && iova < one.last)
    if (!area) return null
    const byte = area.byte + iova + 1 - area.start
    if (area.preventsAccess) return new Refused("EBUSY")
    if (area.pages.source === "device") return new Refused("EOPNOTSUPP")
    if ((iova + 1) % ioas.alignment !== 0 || byte % ioas.alignment !== 0) return new Refused("EINVAL")
    if (this.world.pins.some(pin => pin.areas.includes(area))) return new Refused("EINVAL")
    if (ioas.domains.length > 0 && ioas.hugePages) return new Refused("EINVAL")
    const halves: NaiveArea[] = [
      { ...area, last: iova },
      { ...area, start: iova + 1, byte },
    ]
    ioas.areas = [...ioas.areas.filter(other => other !== area), ...halves]
    return null
  }
}

type MapStep = Extract<Step, { step: "map" | "mapFile" }>

function iovaOf({ iova }: { readonly iova: number | null }): number | null {
  return iova === null ? null : iova * UNIT
}

function fileSource(frames: readonly number[]): NaiveSource {
  return page => frames[page] ?? new Refused("EINVAL")
}

function removeDomain(ioas: NaiveIoas, index: number): null {
  const domain = ioas.domains[index]
  if (!domain) return null
  ioas.domains = ioas.domains.filter(other => other !== domain)
  ioas.reserved = ioas.reserved.filter(({ owner }) => owner !== domain)
  return null
}

function reserve(ioas: NaiveIoas, step: Extract<Step, { step: "reserve" }>): null | Refused {
  const range = { owner: step.owner, start: step.at * UNIT, last: (step.at + step.length) * UNIT - 1 }
  if (ioas.isInUse(range)) {
    // The call undoes what it did, and an owner reserves once.
    ioas.reserved = ioas.reserved.filter(({ owner }) => owner !== step.owner)
    return new Refused("EADDRINUSE")
  }
  ioas.reserved.push(range)
  return null
}

function allow(
  ioas: NaiveIoas,
  ranges: readonly { readonly at: number; readonly length: number }[],
): null | Refused {
  const list = ranges.map(({ at, length }) => ({ start: at * UNIT, last: (at + length) * UNIT - 1 }))
  if (list.some(({ start, last }) => start >= last)) return new Refused("EINVAL")
  if (list.some((one, n) => list.some((two, m) => n < m && one.start <= two.last && two.start <= one.last))) {
    return new Refused("EINVAL")
  }
  if (list.some(one => ioas.reserved.some(two => one.start <= two.last && two.start <= one.last))) {
    return new Refused("EADDRINUSE")
  }
  ioas.allowed = list
  return null
}

function setHugePages(ioas: NaiveIoas, uses: boolean): null | Refused {
  if (uses === ioas.hugePages) return null
  if (!uses && ioas.domains.length > 0 && ioas.areas.length > 0) return new Refused("EINVAL")
  if (!uses && !ioas.isAligned(PAGE)) return new Refused("EADDRINUSE")
  ioas.hugePages = uses
  return null
}
