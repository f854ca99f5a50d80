import { createMemory, hi32, lo32, memoryFromPages, type PhysicalMemory } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"

const page = (fill: number): number[] => Array.from({ length: 4096 }, () => fill)

describe("physical memory", () => {
  it("answers where it has memory and nowhere else", () => {
    const memory = createMemory([
      { base: 0x1000, size: 0x2000 },
      { base: 1n << 51n, size: 0x1000 },
    ])
    for (const [address, there] of [
      [0n, false],
      [0xfffn, false],
      [0x1000n, true],
      [0x2fffn, true],
      [0x3000n, false],
      [(1n << 32n) + 0x1000n, false],
      [(1n << 51n) - 1n, false],
      [1n << 51n, true],
      [(1n << 51n) + 0x1000n, false],
      [0xffff_ffff_ffff_ffffn, false],
      [0xffff_ffff_0000_0000n, false],
    ] as const) {
      expect(memory.find(hi32(address), lo32(address)) >= 0, address.toString(16)).toBe(there)
      expect(memory.contains(address)).toBe(there)
    }
  })

  it("joins a range that crosses 4 GiB", () => {
    const memory = createMemory([{ base: 0xffff_f000n, size: 0x2000n }])
    memory.write(0xffff_fffen, Uint8Array.of(1, 2, 3, 4))
    expect([...memory.read(0xffff_fffen, 4)]).toEqual([1, 2, 3, 4])
    expect(memory.read64(0x1_0000_0000n)).toBe(0x0403n)
    expect(memory.ranges).toEqual([{ base: 0xffff_f000n, size: 0x2000n }])
  })

  it("holds the pages of a dump in any order", () => {
    const bytes = Uint8Array.from([...page(1), ...page(2), ...page(3)])
    const memory = memoryFromPages([0x9000n, 0x4000n, 0x5000n], bytes)
    expect([memory.read(0x9000, 1)[0], memory.read(0x4fff, 1)[0], memory.read(0x5000, 1)[0]]).toEqual([
      1, 2, 3,
    ])
    expect([...memory.read(0x4fff, 2)]).toEqual([2, 3])
    bytes.fill(9)
    expect(memory.read(0x9000, 1)[0]).toBe(1)
  })

  it("shows its bytes in a second address space", () => {
    const host = createMemory([{ base: 0x10_0000, size: 0x4000 }])
    const guest = host.view([
      { base: 0, size: 0x1000, at: 0x10_3000 },
      { base: 0x8000, size: 0x2000, at: 0x10_0000 },
    ])
    guest.write64(0n, 0x1122n)
    guest.write(0x8fff, Uint8Array.of(7, 8))
    expect(host.read64(0x10_3000)).toBe(0x1122n)
    expect([...host.read(0x10_0fff, 2)]).toEqual([7, 8])
    expect(guest.contains(0x1000)).toBe(false)
    expect(guest.words.buffer).toBe(host.words.buffer)
  })

  it("refuses what lies outside, with nothing written: EFAULT", () => {
    const memory = createMemory([{ base: 0, size: 0x1000 }])
    expect(() => memory.write(0xffe, Uint8Array.of(1, 2, 3))).toThrow(/EFAULT/)
    expect(memory.read64(0xff8)).toBe(0n)
    expect(() => memory.read(0x1000, 1)).toThrow(/EFAULT/)
    expect(() => memory.read64(0x1000)).toThrow(/EFAULT/)
    expect(() => memory.view([{ base: 0, size: 0x1000, at: 0x1000 }])).toThrow(/EFAULT/)
  })

  it("refuses ranges that are not whole pages, overlap, or are too much: EINVAL", () => {
    const refuse = (ranges: { base: bigint | number; size: bigint | number }[]): void => {
      expect(() => createMemory(ranges)).toThrow(/EINVAL/)
    }
    refuse([])
    refuse([{ base: 1, size: 0x1000 }])
    refuse([{ base: 0, size: 0 }])
    refuse([{ base: 0, size: 0x800 }])
    refuse([{ base: 0xffff_ffff_ffff_f000n, size: 0x2000 }])
    refuse([{ base: 0, size: 0x2_0000_1000n }])
    refuse([
      { base: 0, size: 0x2000 },
      { base: 0x1000, size: 0x1000 },
    ])
    expect(() => memoryFromPages([0n, 0n], new Uint8Array(8192))).toThrow(/EINVAL/)
    expect(() => memoryFromPages([0n], new Uint8Array(4095))).toThrow(/EINVAL/)
    expect(() => createMemory([{ base: 0, size: 4096 }]).read64(4)).toThrow(/EINVAL/)
  })

  it("finds what a list of ranges finds, in any order of look-ups", () => {
    const ranges = fc.uniqueArray(fc.integer({ min: 0, max: 60 }), { minLength: 1, maxLength: 12 })
    fc.assert(
      fc.property(
        ranges,
        fc.array(fc.integer({ min: 0, max: 64 * 4096 - 1 }), { maxLength: 40 }),
        (frames, probes) => {
          const memory = createMemory(frames.map(frame => ({ base: frame * 4096, size: 4096 })))
          for (const frame of frames) memory.write64(frame * 4096 + 8, BigInt(frame))
          for (const at of probes) expectProbe(memory, frames, at)
        },
      ),
      { seed: 7 },
    )
  })
})

function expectProbe(memory: PhysicalMemory, frames: number[], at: number): void {
  const frame = Math.floor(at / 4096)
  const index = memory.find(0, at)
  if (!frames.includes(frame)) expect(index).toBe(-1)
  else expect(memory.words[index - ((at % 4096) >> 2) + 2]).toBe(frame)
}
