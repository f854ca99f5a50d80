import { createMemory, IOMMU_READ, IOMMU_WRITE, MemoryAccount, PageAllocator } from "@iommu/core"
import { createPageTable } from "@iommu/pagetable"
import { describe, expect, it } from "vitest"
import { firstStageFormat } from "../src/formats/stage1.ts"

describe("tables in scattered memory", () => {
  it("keep the leaf bits of a map during which the first table out of line is made", () => {
    const host = createMemory([{ base: 0, size: 64 * 4096 }])
    // Neighbouring pages of the guest lie apart in the host, as pages of a virtual machine do.
    const windows = Array.from({ length: 64 }, (_, i) => ({
      base: i * 4096,
      size: 4096,
      at: ((i * 29 + 7) % 64) * 4096,
    }))
    const memory = host.view(windows)
    const table = createPageTable({
      format: firstStageFormat,
      memory,
      pages: new PageAllocator(memory, { base: 0, size: 64 * 4096 }),
      account: new MemoryAccount("test"),
      levels: 4,
      inputBits: 47,
      outputBits: 46,
    })
    table.map(0x1000_0000n, 0x4_0000n, 0x1_0000n, IOMMU_READ | IOMMU_WRITE)
    for (let page = 0n; page < 16n; page++) {
      expect(table.iovaToPhys(0x1000_0000n + page * 4096n)).toBe(0x4_0000n + page * 4096n)
    }
    expect(leaves(memory, table.root, 4)).toEqual(new Set([0x67n]))
  })
})

/** Flags of all leaves under a table, read from memory. */
function leaves(memory: ReturnType<typeof createMemory>, at: bigint, level: number): Set<bigint> {
  const found = new Set<bigint>()
  for (let index = 0n; index < 512n; index++) {
    const entry = memory.read64(at + index * 8n)
    if (entry === 0n) continue
    if (level === 1) found.add(entry & 0xfffn)
    else for (const flags of leaves(memory, entry & ~0xfffn, level - 1)) found.add(flags)
  }
  return found
}
