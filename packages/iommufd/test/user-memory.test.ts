import { createMemory } from "@iommu/core"
import { FramePins, MachineMemory, MemFile, UserMemory } from "@iommu/iommufd"
import fc from "fast-check"
import { describe, expect, it } from "vitest"

const BASE = 0x1_0000_0000
const PAGES = 32

describe("user memory", () => {
  it("shows what was mapped last at each page, as a table of pages would", () => {
    const step = fc.record({
      page: fc.nat(PAGES - 1),
      pages: fc.integer({ min: 0, max: 8 }),
      frame: fc.nat(PAGES - 8),
      access: fc.constantFrom(
        "read-write" as const,
        "read-only" as const,
        "device" as const,
        "unmap" as const,
      ),
    })
    fc.assert(
      fc.property(fc.array(step, { maxLength: 20 }), steps => {
        const memory = new UserMemory(new MachineMemory(createMemory([{ base: BASE, size: PAGES * 4096 }])))
        const table = new Map<number, { frame: number; access: string }>()
        for (const { page, pages, frame, access } of steps) {
          if (access === "unmap") memory.unmap(page * 4096, pages * 4096)
          else memory.map(page * 4096, BASE + frame * 4096, pages * 4096, access)
          for (let n = 0; n < pages; n++) {
            if (access === "unmap") table.delete(page + n)
            else table.set(page + n, { frame: BASE / 4096 + frame + n, access })
          }
        }
        for (let page = 0; page < PAGES + 8; page++) {
          const entry = table.get(page)
          const run = (write: boolean): unknown => {
            try {
              return memory.pinnable(page, 1, write).frame
            } catch {
              return null
            }
          }
          const canPin = entry !== undefined && entry.access !== "device"
          expect(run(false)).toBe(canPin ? entry.frame : null)
          expect(run(true)).toBe(canPin && entry.access === "read-write" ? entry.frame : null)
        }
      }),
      { seed: 8, numRuns: 500 },
    )
  })

  it("copies across pages, and nothing when a byte cannot be reached: EFAULT", () => {
    const memory = new UserMemory(new MachineMemory(createMemory([{ base: BASE, size: PAGES * 4096 }])))
    memory.map(0x1000, BASE + 0x2000, 4096)
    memory.map(0x2000, BASE, 4096)
    memory.map(0x3000, BASE + 0x5000, 4096, "read-only")
    const bytes = Uint8Array.from({ length: 300 }, (_, n) => n)
    memory.write(0x1f80, bytes)
    expect(memory.read(0x1f80, 300)).toEqual(bytes)
    expect(memory.machine.physical.read(BASE, 1)).toEqual(Uint8Array.of(128))
    expect(() => memory.write(0x2fff, Uint8Array.of(7, 7))).toThrow(/EFAULT.*read-only/)
    expect(memory.read(0x2fff, 2)).toEqual(Uint8Array.of(0, 0))
    expect(() => memory.read(0x3fff, 2)).toThrow(/EFAULT/)
    expect(() => memory.read((1n << 64n) - 1n, 2)).toThrow(/EFAULT/)
    memory.map(0x4000, 0xfee0_0000, 4096)
    expect(() => memory.read(0x4000, 1)).toThrow(/EFAULT.*no memory answers/)
    expect(() => memory.map(0x800, BASE, 4096)).toThrow(/EINVAL/)
  })
})

describe("frame pins", () => {
  it("count as a table of frames would, over blocks and their borders", () => {
    const step = fc.record({ frame: fc.nat(20_000), pages: fc.integer({ min: 1, max: 9000 }) })
    fc.assert(
      fc.property(fc.array(step, { minLength: 1, maxLength: 6 }), fc.nat(29_000), (steps, frame) => {
        const pins = new FramePins()
        const isPinned = (each: { frame: number; pages: number }): boolean =>
          each.frame <= frame && frame < each.frame + each.pages
        for (const each of steps) pins.pin(each.frame, each.pages)
        expect(pins.count(frame)).toBe(steps.filter(isPinned).length)
        expect(pins.total).toBe(steps.reduce((sum, { pages }) => sum + pages, 0))
        const first = steps[0] as { frame: number; pages: number }
        for (const each of steps.slice(1)) pins.unpin(each.frame, each.pages)
        expect(pins.count(frame)).toBe(isPinned(first) ? 1 : 0)
        pins.unpin(first.frame, first.pages)
        expect([pins.count(frame), pins.total]).toEqual([0, 0])
        expect(() => pins.unpin(frame, 1)).toThrow(/bug/)
      }),
      { seed: 9, numRuns: 300 },
    )
  })

  it("of a terabyte cost little", () => {
    const pins = new FramePins()
    pins.pin(1 << 20, 2 ** 28)
    pins.pin((1 << 20) + 5, 1)
    expect([pins.count((1 << 20) + 5), pins.count(2 ** 28)]).toEqual([2, 1])
    pins.unpin(1 << 20, 2 ** 28)
    expect([pins.count((1 << 20) + 5), pins.total]).toEqual([1, 1])
  })
})

describe("a memfd", () => {
  it("has its pages where its extents lie; whole pages alone: EINVAL", () => {
    const file = new MemFile(
      [1, 3, 2].map(pages => ({ address: BigInt(pages) << 20n, length: BigInt(pages) << 12n })),
    )
    const frames = Array.from({ length: 6 }, (_, page) => file.pinnable(page, 9, true))
    expect(frames).toEqual([
      { frame: 0x100, pages: 1 },
      { frame: 0x300, pages: 3 },
      { frame: 0x301, pages: 2 },
      { frame: 0x302, pages: 1 },
      { frame: 0x200, pages: 2 },
      { frame: 0x201, pages: 1 },
    ])
    expect(file.bytes).toBe(6n << 12n)
    expect(() => file.pinnable(6, 1, false)).toThrow(/EINVAL/)
    expect(() => new MemFile([{ address: 1n, length: 4096n }])).toThrow(/EINVAL/)
  })
})
