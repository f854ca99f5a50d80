/** HWPT_SET_DIRTY_TRACKING and HWPT_GET_DIRTY_BITMAP. */

import { type Ioas, UserBitmap } from "@iommu/iommufd"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { RecordingDomain } from "./recording-domain.ts"
import { expectRefused, PAGE, request, USER_VA, type Workbench, workbench } from "./workbench.ts"

const MAX = (1n << 64n) - 1n
const MAPPED = 256n * PAGE

function tracked(): { bench: Workbench; ioas: Ioas; domain: RecordingDomain } {
  const bench = workbench()
  const ioas = bench.ioas()
  const domain = new RecordingDomain({ dirty: "tracked" })
  ioas.addDomain(domain)
  ioas.map(bench.process, request(0x10_0000n, MAPPED))
  return { bench, ioas, domain }
}

/** Where bitmaps go: the second half of the process's memory. */
const BITMAP = USER_VA + 0x80_0000n

function bitsOf(words: Uint32Array, firstBit: bigint): bigint[] {
  const bits: bigint[] = []
  words.forEach((word, index) => {
    for (let bit = 0; word !== 0 && bit < 32; bit++) {
      if (((word >>> bit) & 1) !== 0) bits.push(firstBit + BigInt(index * 32 + bit))
    }
  })
  return bits
}

describe("2.15 GET_DIRTY", () => {
  it("ORs one bit a page into user memory at any address, for any page size, and forgets or keeps", () => {
    const range = fc.record({
      first: fc.integer({ min: 0, max: 255 }),
      pages: fc.integer({ min: 1, max: 256 }),
      /** log2 of the bytes that a bit stands for: from 64 bytes to 64 KiB. */
      pageLg2: fc.integer({ min: 6, max: 16 }),
      /** Bitmaps begin at odd addresses and cross pages. */
      offset: fc.oneof(fc.integer({ min: 0, max: 9 }), fc.integer({ min: 4080, max: 4096 })),
      written: fc.array(fc.integer({ min: 0, max: 255 }), { maxLength: 12 }),
      after: fc.constantFrom("keep" as const, "clear" as const),
      before: fc.integer({ min: 0, max: 255 }),
    })
    const { bench, ioas, domain } = tracked()
    fc.assert(
      fc.property(range, ({ first, pages, pageLg2, offset, written, after, before }) => {
        const pageSize = 1n << BigInt(pageLg2)
        const unit = pageSize > PAGE ? pageSize : PAGE
        const iova = 0x10_0000n + ((BigInt(first) * PAGE) / unit) * unit
        const length = ((BigInt(Math.min(pages, 256 - first)) * PAGE + unit - 1n) / unit) * unit
        const bits = Number(length / pageSize)
        const bytes = Math.ceil(bits / 8)
        const old = new Uint8Array(bytes + 2).fill(before)
        const va = BITMAP + BigInt(offset)
        bench.process.memory.write(va - 1n, old)
        domain.written = written.map(page => 0x10_0000n + BigInt(page) * PAGE)

        const expected = old.slice()
        for (let bit = 0; bit < bits; bit++) {
          const start = iova + BigInt(bit) * pageSize
          const isDirty = domain.written.some(page => page < start + pageSize && start < page + PAGE)
          if (isDirty) expected[1 + (bit >> 3)] = (expected[1 + (bit >> 3)] as number) | (1 << (bit & 7))
        }
        const left = domain.written.filter(page => after === "keep" || page < iova || page >= iova + length)

        ioas.readDirty(domain, { iova, length, pageSize }, after, new UserBitmap(bench.process.memory, va))
        expect(bench.process.memory.read(va - 1n, bytes + 2)).toEqual(expected)
        expect(domain.written).toEqual(left)
      }),
      { seed: 15, numRuns: 1500 },
    )
  })

  it("passes over holes, and over bitmap pages that are missing or read-only, without an error", () => {
    const { bench, ioas, domain } = tracked()
    ioas.map(bench.process, request(0x40_0000n, 4n * PAGE))
    domain.written = [0x10_0000n, 0x40_3000n]
    const { memory } = bench.process
    const seen: bigint[] = []
    ioas.readDirty(domain, { iova: 0x10_0000n, length: 0x30_4000n, pageSize: PAGE }, "keep", {
      mark: (words, firstBit) => seen.push(...bitsOf(words, firstBit)),
    })
    expect(seen).toEqual([0n, 0x303n])
    memory.unmap(BITMAP, PAGE)
    ioas.readDirty(
      domain,
      { iova: 0x10_0000n, length: MAPPED, pageSize: PAGE },
      "keep",
      new UserBitmap(memory, BITMAP),
    )
    memory.map(BITMAP, 0x1_0000_0000n, PAGE, "read-only")
    ioas.readDirty(
      domain,
      { iova: 0x10_0000n, length: MAPPED, pageSize: PAGE },
      "clear",
      new UserBitmap(memory, BITMAP),
    )
    expect(memory.read(BITMAP, 1)).toEqual(Uint8Array.of(0))
    expect(domain.written).toEqual([0x40_3000n])
  })

  it("reads more than a bitmap of its own can hold, piece by piece, and nothing beyond the range", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    const domain = new RecordingDomain({ dirty: "tracked" })
    ioas.addDomain(domain)
    const [va, length] = [1n << 45n, 1n << 40n]
    bench.process.memory.map(va, 1n << 41n, length)
    // Neither end is where a piece ends.
    const iova = (1n << 42n) + 0x7000n
    ioas.map(bench.process, request(iova, length, va))
    const pages = [1n, 2n, (300n << 30n) / PAGE, length / PAGE - 2n, length / PAGE - 1n]
    domain.written = pages.map(page => iova + page * PAGE)
    const range = { iova: iova + 2n * PAGE, length: length - 3n * PAGE, pageSize: PAGE }
    const seen: bigint[] = []
    ioas.readDirty(domain, range, "clear", {
      mark: (words, firstBit) => seen.push(...bitsOf(words, firstBit)),
    })
    expect(seen).toEqual(
      [0n, pages[2] as bigint, pages[3] as bigint].map((page, n) => (n === 0 ? page : page - 2n)),
    )
    expect(domain.written).toEqual([iova + PAGE, iova + length - PAGE])
  })

  it("refuses ranges: EOVERFLOW, EINVAL; and domains that do not track: EOPNOTSUPP", () => {
    const { bench, ioas, domain } = tracked()
    const read = (iova: bigint, length: bigint, pageSize = PAGE, from = domain): void =>
      ioas.readDirty(from, { iova, length, pageSize }, "clear", new UserBitmap(bench.process.memory, BITMAP))
    expectRefused(bench, "EOVERFLOW", () => read(PAGE, 0n))
    expectRefused(bench, "EOVERFLOW", () => read(MAX - PAGE + 1n, 2n * PAGE))
    expectRefused(bench, "EINVAL", () => read(0x10_0000n, PAGE, 0n))
    expectRefused(bench, "EINVAL", () => read(0x10_0800n, PAGE))
    expectRefused(bench, "EINVAL", () => read(0x10_0000n, 0x800n))
    expectRefused(bench, "EINVAL", () => read(0x10_0000n, PAGE, 2n * PAGE))
    const plain = new RecordingDomain()
    ioas.addDomain(plain)
    expectRefused(bench, "EOPNOTSUPP", () => read(0x10_0000n, PAGE, PAGE, plain))
    read(0n, 0n)
    expect(domain.written).toEqual([])
  })
})

describe("2.15 SET_DIRTY", () => {
  it("forgets what was dirty before, also when tracking is on already", () => {
    const { bench, ioas, domain } = tracked()
    domain.written = [0x10_0000n]
    ioas.setDirtyTracking(domain, "on")
    expect(domain.written).toEqual([])
    domain.written = [0x10_1000n]
    ioas.setDirtyTracking(domain, "on")
    expect(domain.written).toEqual([])
    domain.written = [0x10_1000n]
    ioas.setDirtyTracking(domain, "off")
    expect(domain.written).toEqual([0x10_1000n])
    expectRefused(bench, "EOPNOTSUPP", () => ioas.setDirtyTracking(new RecordingDomain(), "on"))
  })
})
