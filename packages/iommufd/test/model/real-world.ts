/** The package's address spaces, driven by steps. */
import { createMemory, isIommuError, MemoryAccount, type ReservedRegion } from "@iommu/core"
import {
  DmaBuf,
  Ioas,
  type IoasAccess,
  type IovaPin,
  MachineMemory,
  MemFile,
  type PinnedRange,
  Process,
  type User,
  type UserFile,
  UserMemory,
} from "@iommu/iommufd"
import { RecordingDomain } from "../recording-domain.ts"
import { type Step, UNIT } from "./steps.ts"

const FRAMES = 64
const BASE = 0x4000_0000
const DEVICE = 0xe000_0000n
const physical = createMemory([{ base: BASE, size: FRAMES * 4096 }])

export const FIRST_FRAME: number = BASE / 4096
/** User address of page 0. */
export const USER = 0x10_0000
/** Frames of user pages when a play begins: 0 to 7, then a gap; the last eight are read-only. */
export const USER_FRAMES: readonly number[] = Array.from(
  { length: 24 },
  (_, page) => FIRST_FRAME + page + (page < 8 ? 0 : 8),
)
/** Frames of the two memfds. */
export const FILE_FRAMES: readonly (readonly number[])[] = [
  [40, 41, 42, 50, 51, 52],
  [44, 43, 45],
].map(file => file.map(frame => FIRST_FRAME + frame))
export const DEVICE_PAGES = 8

/** Kinds of domains: smallest page and aperture. */
export const DOMAINS: readonly { readonly page: number; readonly start: number; readonly last: number }[] = [
  { page: 4096, start: 0, last: Number.MAX_SAFE_INTEGER },
  { page: 2048, start: 0x1000, last: 0x1_3fff },
  { page: 4096, start: 0, last: 0xffff },
  { page: 8192, start: 0, last: Number.MAX_SAFE_INTEGER },
]

export class RealWorld {
  readonly account = new MemoryAccount("owner")
  readonly machine = new MachineMemory(physical)
  readonly user: User = { name: "user", lockedPages: 0 }
  readonly process: Process
  readonly ioases: readonly Ioas[]
  readonly #dmaBuf = new DmaBuf([{ address: DEVICE, length: BigInt(DEVICE_PAGES * 4096) }])
  readonly #files: readonly UserFile[] = [
    ...FILE_FRAMES.map(
      frames => new MemFile(frames.map(frame => ({ address: BigInt(frame * 4096), length: 4096n }))),
    ),
    this.#dmaBuf,
  ]
  readonly #owners = [{}, {}] as const
  readonly #accesses: (IoasAccess | null)[] = [null, null]
  readonly #pins: { readonly ioas: Ioas; readonly pin: IovaPin | PinnedRange; readonly isQueue: boolean }[] =
    []

  constructor(limit: number) {
    const memory = new UserMemory(this.machine)
    const at = (page: number): number => (USER_FRAMES[page] as number) * 4096
    memory.map(USER, at(0), 8 * 4096)
    memory.map(USER + 8 * 4096, at(8), 8 * 4096)
    memory.map(USER + 16 * 4096, at(16), 8 * 4096, "read-only")
    const { user, account } = this
    this.process = new Process({ name: "process", user, account, memory, memlockBytes: limit * 4096 })
    this.ioases = [0, 1].map(() => new Ioas({ account, pinPolicy: { mode: "user" } }))
  }

  /** @returns what the call returned, its errno, or nothing */
  take(step: Step): number | string | undefined {
    try {
      const result = this.#call(step)
      return typeof result === "bigint" ? Number(result) : undefined
    } catch (error) {
      if (isIommuError(error)) return error.code
      throw error
    }
  }

  domainsOf(ioas: number): readonly RecordingDomain[] {
    return (this.ioases[ioas] as Ioas).domains as readonly RecordingDomain[]
  }

  #call(step: Step): unknown {
    const ioas = this.ioases["ioas" in step ? step.ioas : 0] as Ioas
    switch (step.step) {
      case "map":
        return ioas.map(this.process, { ...target(step), userVa: BigInt(USER + step.at * UNIT) })
      case "mapFile": {
        const file = this.#files[step.file] as UserFile
        return ioas.mapFile(this.process, { ...target(step), file, start: bytes(step.at) })
      }
      case "copy": {
        const request = { ...target(step), sourceIova: bytes(step.at) }
        return ioas.copyFrom(this.ioases[step.source] as Ioas, this.process, request)
      }
      case "unmap":
        return ioas.unmap(bytes(step.at), bytes(step.length))
      case "unmapAll":
        return ioas.unmapAll()
      case "addDomain":
        return ioas.addDomain(domainOf(step.kind, step.budget))
      case "starve": {
        const domain = this.domainsOf(step.ioas)[step.index]
        if (domain) domain.failsAfter = step.budget
        return undefined
      }
      case "removeDomain": {
        const domain = ioas.domains[step.index]
        return domain && ioas.removeDomain(domain)
      }
      case "reserve":
        return ioas.reserve(this.#owners[step.owner] as object, [region(step)])
      case "unreserve":
        return ioas.unreserve(this.#owners[step.owner] as object)
      case "allow":
        return ioas.allowIovas(step.ranges.map(region))
      case "hugePages":
        return ioas.setHugePages(step.uses)
      case "addAccess":
        return this.#addAccess(step.ioas)
      case "removeAccess":
        return this.#removeAccess(step.ioas)
      case "pin": {
        const pin = ioas.pin(bytes(step.at), bytes(step.length), step.use)
        this.#pins.push({ ioas, pin, isQueue: false })
        return undefined
      }
      case "queue": {
        const pin = ioas.pinContiguous(bytes(step.at), bytes(step.length))
        this.#pins.push({ ioas, pin, isQueue: true })
        return undefined
      }
      case "release":
        return this.#pins.splice(step.index, 1)[0]?.pin.release()
      case "cut":
        return ioas.cutAfter(bytes(step.at) - 1n)
      case "remap": {
        const at = USER + step.page * 4096
        if (step.to === "missing") return this.process.memory.unmap(at, 4096)
        return this.process.memory.map(at, BASE + step.frame * 4096, 4096, step.to)
      }
      case "revoke":
        return this.#dmaBuf.revoke()
    }
  }

  #addAccess(index: number): void {
    if (this.#accesses[index]) return
    const ioas = this.ioases[index] as Ioas
    const access: IoasAccess = { alignment: 4096n, onUnmap: () => this.#letGo(ioas) }
    ioas.addAccess(access)
    this.#accesses[index] = access
  }

  #removeAccess(index: number): void {
    const access = this.#accesses[index]
    if (access) (this.ioases[index] as Ioas).removeAccess(access)
    this.#accesses[index] = null
  }

  #letGo(ioas: Ioas): void {
    for (const held of this.#pins.filter(pin => pin.ioas === ioas && !pin.isQueue)) {
      held.pin.release()
      this.#pins.splice(this.#pins.indexOf(held), 1)
    }
  }
}

function bytes(units: number): bigint {
  return BigInt(units * UNIT)
}

function target(step: {
  readonly length: number
  readonly iova: number | null
  readonly access: "rw" | "r" | "w"
}) {
  return {
    length: bytes(step.length),
    iova: step.iova === null ? null : bytes(step.iova),
    readable: step.access !== "w",
    writeable: step.access !== "r",
  }
}

function region({ at, length }: { readonly at: number; readonly length: number }): ReservedRegion {
  return { type: "reserved", start: bytes(at), last: bytes(at + length) - 1n }
}

function domainOf(kind: number, budget: number): RecordingDomain {
  const { page, start, last } = DOMAINS[kind] as (typeof DOMAINS)[number]
  const domain = new RecordingDomain({
    smallestPage: BigInt(page),
    start: BigInt(start),
    ...(last === Number.MAX_SAFE_INTEGER ? {} : { last: BigInt(last) }),
  })
  domain.failsAfter = budget
  return domain
}
