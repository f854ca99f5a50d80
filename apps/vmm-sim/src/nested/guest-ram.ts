import { createMemory, type PhysicalMemory } from "@iommu/core"
import type { UserMemory } from "@iommu/iommufd"

const KIB_4 = 4096n
const MIB_2 = 2n << 20n
const GIB_1 = 1n << 30n

/** A stretch of guest-physical addresses and the host memory behind it. */
interface Chunk {
  readonly gpa: bigint
  readonly hpa: bigint
  readonly size: bigint
}

/** Where the host's driver may put its tables. */
export const HOST_TABLES: { readonly base: bigint; readonly size: bigint } = {
  base: 0x1000_0000n,
  size: 32n << 20n,
}

/**
 * The guest's RAM: 2 MiB in scattered 4 KiB pages, 30 MiB in scattered 2 MiB pages, 1 GiB in one piece. Neighbours
 * in the guest are never neighbours in the host, so that a walk that goes astray lands in the wrong bytes.
 */
const SMALL_PAGES: { readonly gpa: bigint; readonly size: bigint } = { gpa: 0n, size: MIB_2 }
export const LARGE_PAGES: { readonly gpa: bigint; readonly size: bigint } = { gpa: MIB_2, size: 15n * MIB_2 }
export const HUGE_PAGE: { readonly gpa: bigint; readonly size: bigint } = { gpa: GIB_1, size: GIB_1 }
const SMALL_HPA = 0x2000_0000n
const LARGE_HPA = 0x3000_0000n
const HUGE_HPA = 4n * GIB_1

/** Stepping by a number coprime to the count visits every page once, and neighbours never in order. */
function scattered(area: { gpa: bigint; size: bigint }, hpa: bigint, page: bigint, step: bigint): Chunk[] {
  const count = area.size / page
  return Array.from({ length: Number(count) }, (_, i) => ({
    gpa: area.gpa + BigInt(i) * page,
    hpa: hpa + ((BigInt(i) * step + 7n) % count) * page,
    size: page,
  }))
}

const CHUNKS: readonly Chunk[] = [
  ...scattered(SMALL_PAGES, SMALL_HPA, KIB_4, 211n),
  ...scattered(LARGE_PAGES, LARGE_HPA, MIB_2, 4n),
  { gpa: HUGE_PAGE.gpa, hpa: HUGE_HPA, size: HUGE_PAGE.size },
]

/** Where a VMM keeps arguments of its system calls. */
const VMM_PAGES = { va: 0x7f00_0000_0000n, hpa: 0x1800_0000n, size: 2n * KIB_4 } as const
export const ARGUMENT_PAGES: { readonly struct: bigint; readonly data: bigint } = {
  struct: VMM_PAGES.va,
  data: VMM_PAGES.va + KIB_4,
}
/** Where a VMM has the guest's RAM: guest-physical address 0 is here. */
const RAM_VA = 0x7f80_0000_0000n

/** A stretch of guest RAM that a VMM gives and takes as a whole. */
export interface RamBlock {
  readonly gpa: bigint
  readonly userVa: bigint
  readonly size: bigint
}

const blockAt = (gpa: bigint, size: bigint): RamBlock => ({ gpa, userVa: RAM_VA + gpa, size })

/** The first 2 MiB come and go page by page, the rest in two pieces. */
export const RAM_BLOCKS: readonly RamBlock[] = [
  ...Array.from({ length: Number(SMALL_PAGES.size / KIB_4) }, (_, i) => blockAt(BigInt(i) * KIB_4, KIB_4)),
  blockAt(LARGE_PAGES.gpa, LARGE_PAGES.size),
  blockAt(HUGE_PAGE.gpa, HUGE_PAGE.size),
]

/** The host's memory: its driver's tables, the VMM's own pages, and the guest's RAM in three places. */
export function hostMemory(): PhysicalMemory {
  return createMemory([
    HOST_TABLES,
    { base: VMM_PAGES.hpa, size: VMM_PAGES.size },
    { base: SMALL_HPA, size: SMALL_PAGES.size },
    { base: LARGE_HPA, size: LARGE_PAGES.size },
    { base: HUGE_HPA, size: HUGE_PAGE.size },
  ])
}

/** The guest's view of its RAM: the same bytes at guest-physical addresses. */
export function guestMemory(host: PhysicalMemory): PhysicalMemory {
  return host.view(CHUNKS.map(({ gpa, hpa, size }) => ({ base: gpa, size, at: hpa })))
}

/** What a VMM has mapped in its own address space: its pages, and the guest's RAM as it lies scattered in the host. */
export function mapVmmMemory(memory: UserMemory): void {
  memory.map(VMM_PAGES.va, VMM_PAGES.hpa, VMM_PAGES.size)
  for (const { gpa, hpa, size } of CHUNKS) memory.map(RAM_VA + gpa, hpa, size)
}

/** Where a guest-physical address lies in the host, by the list of chunks and nothing else. */
export function hostAddressOf(gpa: bigint): bigint | null {
  const chunk = CHUNKS.find(({ gpa: start, size }) => gpa >= start && gpa < start + size)
  return chunk === undefined ? null : chunk.hpa + gpa - chunk.gpa
}
