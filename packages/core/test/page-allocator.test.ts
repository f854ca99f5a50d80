import { createMemory, MemoryAccount, PageAllocator } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"

const PAGES = 64

function allocator(base = 0x4000): { pages: PageAllocator; account: MemoryAccount } {
  const memory = createMemory([{ base, size: PAGES * 4096 }])
  return {
    pages: new PageAllocator(memory, { base, size: PAGES * 4096 }),
    account: new MemoryAccount("test"),
  }
}

describe("page allocator", () => {
  it("hands out zeroed runs, aligned to their size, none twice, and accounts for them", () => {
    const steps = fc.array(fc.oneof(fc.integer({ min: 0, max: 4 }), fc.constant("free" as const)), {
      maxLength: 120,
    })
    fc.assert(
      fc.property(steps, play => {
        const { pages, account } = allocator()
        const held: { address: number; lg2: number }[] = []
        for (const step of play) {
          if (step === "free") {
            const run = held.shift()
            if (run) pages.free(run.address, run.lg2, account)
            continue
          }
          try {
            const run = { address: pages.alloc(step, account), lg2: step }
            held.push(run)
            expectZeroThenSoil(pages, run)
          } catch (error) {
            expect(error).toMatchObject({ code: "ENOMEM" })
          }
        }
        expectDisjoint(held)
        const total = held.reduce((sum, run) => sum + 2 ** run.lg2, 0)
        expect([account.usagePages, pages.pagesInUse]).toEqual([total, total])
      }),
      { seed: 3 },
    )
  })

  it("charges nothing and takes nothing beyond the limit or the range", () => {
    const { pages, account } = allocator()
    account.limitPages = 3
    pages.alloc(1, account)
    expect(() => pages.alloc(1, account)).toThrow(/ENOMEM.*limit of 3/)
    expect([account.usagePages, account.peakPages, pages.pagesInUse]).toEqual([2, 2, 2])
    account.limitPages = 1000
    expect(() => pages.alloc(7, account)).toThrow(/ENOMEM.*no run/)
    expect([account.usagePages, pages.pagesInUse]).toEqual([2, 2])
  })

  it("uses every page of its range", () => {
    const { pages, account } = allocator(0x5000)
    pages.alloc(2, account)
    for (let page = 4; page < PAGES; page++) pages.alloc(0, account)
    expect(() => pages.alloc(0, account)).toThrow(/ENOMEM/)
  })

  it("wants memory behind its range: EFAULT, and whole pages: EINVAL", () => {
    const memory = createMemory([{ base: 0, size: 4096 }])
    expect(() => new PageAllocator(memory, { base: 0, size: 8192 })).toThrow(/EFAULT/)
    expect(() => new PageAllocator(memory, { base: 0, size: 100 })).toThrow(/EINVAL/)
    expect(() => new PageAllocator(memory, { base: 0, size: 0 })).toThrow(/EINVAL/)
  })
})

function expectZeroThenSoil(pages: PageAllocator, { address, lg2 }: { address: number; lg2: number }): void {
  expect(address % (4096 * 2 ** lg2)).toBe(0)
  const index = pages.memory.find(0, address)
  const words = pages.memory.words.subarray(index, index + 1024 * 2 ** lg2)
  expect(words.every(word => word === 0)).toBe(true)
  words.fill(0xdead)
}

function expectDisjoint(held: readonly { address: number; lg2: number }[]): void {
  const taken = held.flatMap(({ address, lg2 }) =>
    Array.from({ length: 2 ** lg2 }, (_, i) => address + i * 4096),
  )
  expect(new Set(taken).size).toBe(taken.length)
}
