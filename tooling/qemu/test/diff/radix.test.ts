import { describe, expect, test } from "vitest"
import { Image, pagesOf } from "../../src/diff/image.ts"
import { buildTables, TableAllocator, type TableShape } from "../../src/diff/radix.ts"

/** x86 as everybody knows it: 4 KiB pages, 9 bits a level, P in bit 0, PS in bit 7. */
const X86: TableShape = {
  granuleLg2: 12,
  levels: 3,
  table: (_, address) => address | 1n,
  leaf: (level, address) => address | (level === 0 ? 1n : 0x81n),
}
const PLACES = [0x10_0000, 0x80_0000]

describe("tables of a case", () => {
  test("lead from the root to the leaf by nine bits of the address a level", () => {
    const image = new Image()
    // 1 GiB, 2 MiB and 4 KiB times 1, 2 and 3.
    const mapping = { iova: 0x4040_3000n, level: 0, target: 0xabc_d000n }
    const { root, paths } = buildTables(image, X86, [mapping], new TableAllocator(PLACES))
    expect(root).toBe(0x10_0000)
    expect(paths).toEqual([[0x10_0000 + 8, 0x80_0000 + 16, 0x10_1000 + 24]])
    expect([...image.words]).toEqual([
      [0x10_0008, 0x80_0001n],
      [0x80_0010, 0x10_1001n],
      [0x10_1018, 0xabc_d001n],
      [0x10_0000, 0n],
    ])
  })

  test("have blocks that start at a multiple of their size", () => {
    const image = new Image()
    const mapping = { iova: 0x20_0000n, level: 1, target: 0x123_4000n }
    const { paths } = buildTables(image, X86, [mapping], new TableAllocator(PLACES))
    expect(paths[0].length).toBe(2)
    expect(image.read(paths[0][1])).toBe(0x120_0081n)
  })

  test("end where another leaf is in the way, and leave it alone", () => {
    const image = new Image()
    const block = { iova: 0n, level: 1, target: 0x120_0000n }
    const page = { iova: 0x1000n, level: 0, target: 0x500_0000n }
    const { paths } = buildTables(image, X86, [block, page], new TableAllocator(PLACES))
    expect(paths[1]).toEqual(paths[0])
    expect(image.read(paths[0][1])).toBe(0x120_0081n)
  })

  test("are aligned to their size", () => {
    const allocator = new TableAllocator([0x10_0000])
    expect(allocator.take(64)).toBe(0x10_0000)
    expect(allocator.take(0x1_0000)).toBe(0x11_0000)
    expect(allocator.take(4096)).toBe(0x12_0000)
  })
})

test("words become pages, little-endian, zero elsewhere", () => {
  const pages = pagesOf(
    new Map([
      [0x1008, 0x1122_3344_5566_7788n],
      [0x2ff8, 1n],
    ]),
  )
  expect([...pages.keys()]).toEqual([0x1000, 0x2000])
  expect([...(pages.get(0x1000)?.subarray(6, 18) ?? [])]).toEqual([
    0, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0, 0,
  ])
  expect(pages.get(0x2000)?.[0xff8]).toBe(1)
})
