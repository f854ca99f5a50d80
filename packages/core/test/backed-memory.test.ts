import { type BackedMemory, backedMemory, hi32, lo32, type MemoryBacking } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"

const RANGES = [
  { base: 0, size: 0x3000 },
  { base: 1n << 32n, size: 0x2000 },
] as const
const BYTES = 0x5000

/** Bytes outside, as another process would hold them, and what was asked of them. */
function shared(): { bytes: Uint8Array; stores: [number, number][]; backing: MemoryBacking } {
  const bytes = new Uint8Array(BYTES)
  const stores: [number, number][] = []
  const backing: MemoryBacking = {
    load: (offset, into) => into.set(bytes.subarray(offset, offset + into.length)),
    store: (offset, data) => {
      stores.push([offset, data.length])
      bytes.set(data, offset)
    },
  }
  return { bytes, stores, backing }
}

const word = (memory: BackedMemory, address: bigint): number => memory.find(hi32(address), lo32(address))

describe("backed memory", () => {
  it("shows in an operation what stood outside when the page was first looked into", () => {
    const { bytes, backing } = shared()
    const memory = backedMemory(RANGES, backing)
    bytes[0x3004] = 7
    memory.begin()
    const at = word(memory, (1n << 32n) + 4n)
    expect(memory.words[at]).toBe(7)
    bytes[0x3004] = 8
    expect(memory.words[word(memory, (1n << 32n) + 4n)], "the operation sees one state").toBe(7)
    memory.end()
    memory.begin()
    expect(memory.words[word(memory, (1n << 32n) + 4n)], "the next one sees the new state").toBe(8)
    memory.end()
  })

  it("stores the words that an operation changed, and no others", () => {
    const { bytes, stores, backing } = shared()
    const memory = backedMemory(RANGES, backing)
    memory.begin()
    const at = word(memory, 0x1000n)
    memory.words[at + 1] = 0x11223344
    memory.words[at + 2] = 0x55667788
    memory.words[at + 1023] = 1
    bytes[0x1000] = 0xaa
    bytes[0x100c] = 0xbb
    memory.end()
    expect(stores).toEqual([
      [0x1004, 8],
      [0x1ffc, 4],
    ])
    expect([...bytes.subarray(0x1000, 0x1010)]).toEqual([
      0xaa, 0, 0, 0, 0x44, 0x33, 0x22, 0x11, 0x88, 0x77, 0x66, 0x55, 0xbb, 0, 0, 0,
    ])
    memory.begin()
    memory.end()
    expect(stores, "nothing is stored twice").toHaveLength(2)
  })

  it("fetches a page once in an operation, and tells of it", () => {
    const { backing } = shared()
    const pages: number[] = []
    const memory = backedMemory(RANGES, backing)
    memory.onPage = offset => pages.push(offset)
    memory.begin()
    for (const address of [0x2000n, 0x0n, 0x2ff8n, 0x10n]) word(memory, address)
    expect(pages).toEqual([0x2000, 0])
    expect(memory.pagesFetched).toBe(2)
    memory.end()
  })

  it("moves bytes of a DMA straight, across ranges that are neighbours outside alone", () => {
    const { bytes, backing } = shared()
    const memory = backedMemory(RANGES, backing)
    memory.write(0x2ffcn, Uint8Array.of(1, 2, 3, 4))
    expect(bytes[0x2fff]).toBe(4)
    expect(() => memory.write(0x2ffen, Uint8Array.of(9, 9, 9, 9))).toThrow(
      expect.objectContaining({ code: "EFAULT" }),
    )
    expect(bytes[0x2ffe], "nothing of a write that fails").toBe(3)
    memory.write64(1n << 32n, 0x1122334455667788n)
    expect(memory.read64(1n << 32n)).toBe(0x1122334455667788n)
    expect(bytes[0x3007]).toBe(0x11)
    expect(memory.contains((1n << 32n) + 0x1fffn)).toBe(true)
    expect(memory.contains((1n << 32n) + 0x1fffn, 2)).toBe(false)
    expect(word(memory, 0xffff_ffff_ffff_ffffn)).toBe(-1)
    expect(word(memory, 0x3000n)).toBe(-1)
  })

  it("has no views, which would outlive an operation", () => {
    expect(() => backedMemory(RANGES, shared().backing).view()).toThrow(
      expect.objectContaining({ code: "EOPNOTSUPP" }),
    )
  })

  it("holds what the memory outside holds, whoever writes in what order", () => {
    const step = fc.record({
      who: fc.constantFrom("guest", "model", "device"),
      at: fc.nat({ max: BYTES / 8 - 1 }),
      value: fc.nat({ max: 0x7fff_ffff }),
    })
    fc.assert(
      fc.property(fc.array(fc.array(step, { maxLength: 12 }), { maxLength: 12 }), operations => {
        const { bytes, backing } = shared()
        const outside = new Uint32Array(bytes.buffer)
        const expected = new Uint32Array(BYTES / 4)
        const memory = backedMemory(RANGES, backing)
        for (const steps of operations) {
          memory.begin()
          for (const { who, at, value } of steps) {
            const offset = at * 8
            const address = offset < 0x3000 ? BigInt(offset) : (1n << 32n) + BigInt(offset - 0x3000)
            // Each writes words of its own, as a guest and its hardware do.
            const place = who === "model" ? at * 2 + 1 : at * 2
            expected[place] = value
            if (who === "guest") outside[place] = value
            else if (who === "device") memory.write(address, new Uint8Array(Uint32Array.of(value).buffer))
            else memory.words[word(memory, address + 4n)] = value
          }
          memory.end()
          expect(outside).toEqual(expected)
        }
      }),
      { seed: 20_26, numRuns: 200 },
    )
  })
})
