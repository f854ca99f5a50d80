/** Address spaces with many areas of one page each, every second page of IOVA free, and work among them. */
import { createMemory, MemoryAccount } from "@iommu/core"
import type { Work } from "../../../tooling/bench/src/bench-case.ts"
import { Ioas, MachineMemory, Process, UserMemory } from "../src/index.ts"

const PAGE = 4096n
const USER_VA = 1n << 40n
const USER_BYTES = 1n << 33n
/** Calls of one run. */
const CALLS = 1024
/** Neighbours in time are far apart in the tree. */
const STRIDE = 7919

const RIGHTS = { readable: true, writeable: true }

export interface AreaField {
  readonly areas: number
  readonly map: Work
  /** Userspace names no place: the first hole of two pages is behind all areas. */
  readonly mapAnywhere: Work
  readonly unmap: Work
  readonly copy: Work
}

export function areaField(areas: number): AreaField {
  const process = benchProcess()
  const ioas = new Ioas({ account: process.account, pinPolicy: { mode: "user" } })
  for (let n = 0; n < areas; n++) mapPage(ioas, process, n, 2 * n)
  const free = Array.from({ length: CALLS }, (_, n) => 2 * ((n * STRIDE) % areas) + 1)
  // With fewer areas than calls the places repeat: as many as are free.
  const places = [...new Set(free)]
  const mapAll = (): number => {
    for (const [n, page] of places.entries()) mapPage(ioas, process, n, page)
    return ioas.areas.size
  }
  const unmapAll = (): number => {
    for (const page of places) ioas.unmapIfMapped(BigInt(page) * PAGE, PAGE)
    return ioas.areas.size
  }
  const mapAgain = (): void => {
    unmapAll()
    mapAll()
  }
  const copyAll = (): number => {
    for (const page of places) {
      const request = {
        sourceIova: BigInt(page - 1) * PAGE,
        length: PAGE,
        iova: BigInt(page) * PAGE,
        ...RIGHTS,
      }
      ioas.copyFrom(ioas, process, request)
    }
    return ioas.areas.size
  }
  const end = BigInt(2 * areas) * PAGE
  const mapAnywhere = (): number => {
    for (const n of places.keys()) {
      const userVa = USER_VA + BigInt(n) * PAGE
      ioas.map(process, { userVa, length: 2n * PAGE, iova: null, ...RIGHTS })
    }
    return ioas.areas.size
  }
  const operations = places.length
  return {
    areas,
    map: { operations, prepare: unmapAll, run: mapAll },
    mapAnywhere: { operations, prepare: () => unmapFrom(ioas, end), run: mapAnywhere },
    unmap: { operations, prepare: mapAgain, run: unmapAll },
    copy: { operations, prepare: unmapAll, run: copyAll },
  }
}

/** Bytes of memory behind a process do not matter here: nothing is pinned. */
function benchProcess(): Process {
  const memory = new UserMemory(new MachineMemory(createMemory([{ base: 0, size: 4096 }])))
  memory.map(USER_VA, 1n << 40n, USER_BYTES)
  const user = { name: "bench", lockedPages: 0 }
  return new Process({ name: "bench", user, account: new MemoryAccount("bench"), memory })
}

function mapPage(ioas: Ioas, process: Process, source: number, page: number): void {
  const userVa = USER_VA + BigInt(source) * PAGE
  ioas.map(process, { userVa, length: PAGE, iova: BigInt(page) * PAGE, ...RIGHTS })
}

function unmapFrom(ioas: Ioas, start: bigint): void {
  ioas.unmapIfMapped(start, (1n << 63n) - start)
}
