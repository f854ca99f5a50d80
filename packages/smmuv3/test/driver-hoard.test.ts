/**
 * The driver on hardware that keeps all that the book lets it keep: what it forgets to invalidate shows as a
 * translation that should be gone.
 */
import { ACCESS_READ, IOMMU_READ, IOMMU_WRITE, PageTableFormatId } from "@iommu/core"
import { SMMUV3_EVERYTHING, SMMUV3_QEMU_NESTED } from "@iommu/smmuv3"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { Host } from "./driver-machine.ts"

const RW = IOMMU_READ | IOMMU_WRITE
const RIL = 1 << 10
const PAGE = 0x1000n
/** Two tables of level 3, and one 2 MiB block. */
const PAGES = 1536

const step = fc.record({
  kind: fc.constantFrom("map", "map", "unmap", "unmapFast", "dma", "dma", "dma"),
  page: fc.oneof(fc.nat(40), fc.nat(PAGES - 1), fc.constantFrom(0, 512, 1024)),
  pages: fc.constantFrom(1, 1, 2, 16, 33, 512, 600),
  target: fc.nat(3),
})

describe.each([
  ["stage 1, ranges", PageTableFormatId.ARM_64_LPAE_S1, SMMUV3_EVERYTHING],
  ["stage 1, single addresses", PageTableFormatId.ARM_64_LPAE_S1, { IDR3: SMMUV3_EVERYTHING.IDR3 & ~RIL }],
  ["stage 2, ranges", PageTableFormatId.ARM_64_LPAE_S2, SMMUV3_EVERYTHING],
  ["stage 2, single addresses", PageTableFormatId.ARM_64_LPAE_S2, { IDR3: SMMUV3_EVERYTHING.IDR3 & ~RIL }],
  ["QEMU, stage 2", PageTableFormatId.ARM_64_LPAE_S2, SMMUV3_QEMU_NESTED],
] as const)("%s", (_, format, id) => {
  it("leaves no translation behind, whatever is mapped and unmapped", () => {
    fc.assert(
      fc.property(fc.array(step, { minLength: 10, maxLength: 60 }), steps => {
        const host = new Host(id, "hoard")
        const device = host.device(0x10)
        const domain = host.paging(device, { format })
        domain.attachDev(device)
        const mapped = new Map<number, bigint>()
        for (const { kind, page, pages, target } of steps) {
          const iova = BigInt(page) * PAGE
          const size = BigInt(pages) * PAGE
          const range = Array.from({ length: pages }, (_, n) => page + n)
          if (kind === "map" && !range.some(n => mapped.has(n))) {
            const pa = (BigInt(target) * 0x40_0000n + iova) & 0xff_ffffn
            domain.map(iova, pa, size, RW)
            for (const n of range) mapped.set(n, pa + BigInt(n - page) * PAGE)
          } else if (kind === "unmap" || kind === "unmapFast") {
            // Ends of a range that cut into a block are the table's affair; whole tables are unmapped.
            const first = Math.floor(page / 512) * 512
            domain[kind](BigInt(first) * PAGE, 0x40_0000n)
            domain.iotlbSync()
            for (let n = first; n < first + 1024; n++)
              if (domain.iovaToPhys(BigInt(n) * PAGE) === null) mapped.delete(n)
          }
          for (const at of [page, page + 1, page ^ 5, page + 512]) {
            expect(host.dma(device, BigInt(at) * PAGE, ACCESS_READ)).toBe(mapped.get(at) ?? null)
          }
        }
      }),
      { seed: 3, numRuns: 40 },
    )
  })

  it("drops walk caches with tables that go: their pages serve other tables next", () => {
    const host = new Host(id, "hoard")
    const device = host.device(0x10)
    const domain = host.paging(device, { format })
    domain.attachDev(device)
    // What keeps the upper tables.
    domain.map(0n, 0x3000n, 0x1000n, RW)
    domain.map(0x20_0000n, 0x1000n, 0x2000n, RW)
    expect(host.dma(device, 0x20_0000n)).toBe(0x1000n)
    domain.unmap(0x20_0000n, 0x20_0000n)
    // Another table takes the freed page, then the first range gets a new table.
    domain.map(0x60_0000n, 0x5000n, 0x2000n, RW)
    domain.map(0x20_0000n, 0x9000n, 0x2000n, RW)
    expect(host.dma(device, 0x20_1000n)).toBe(0xa000n)
    expect(host.dma(device, 0x20_0000n)).toBe(0x9000n)
  })
})
