import { createMemory, IOMMU_READ, IOMMU_WRITE, type PagingDomain, type PhysicalMemory } from "@iommu/core"

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

/** The host's memory: its driver's tables, and the guest's RAM in three places. */
export function hostMemory(): PhysicalMemory {
  return createMemory([
    HOST_TABLES,
    { base: SMALL_HPA, size: SMALL_PAGES.size },
    { base: LARGE_HPA, size: LARGE_PAGES.size },
    { base: HUGE_HPA, size: HUGE_PAGE.size },
  ])
}

/** The guest's view of its RAM: the same bytes at guest-physical addresses. */
export function guestMemory(host: PhysicalMemory): PhysicalMemory {
  return host.view(CHUNKS.map(({ gpa, hpa, size }) => ({ base: gpa, size, at: hpa })))
}

/** Maps all guest RAM in the nest parent, as a VMM does before the guest starts. */
export function mapGuestRam(parent: PagingDomain): void {
  for (const { gpa, hpa, size } of CHUNKS) parent.map(gpa, hpa, size, IOMMU_READ | IOMMU_WRITE)
}
