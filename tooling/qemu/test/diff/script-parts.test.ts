import { describe, expect, test } from "vitest"
import { Image } from "../../src/diff/image.ts"
import { PLACES } from "../../src/diff/places.ts"
import { buildTables, TableAllocator, type TableShape } from "../../src/diff/radix.ts"
import { ABSENT, LAST } from "../../src/diff/vendors/case-parts.ts"
import { accessOf, damaged, damageEntry, mappingOf } from "../../src/diff/vendors/script-parts.ts"

const places = PLACES.x86_64
const SHAPE: TableShape = {
  granuleLg2: 12,
  levels: 2,
  table: (_, address) => address | 1n,
  leaf: (_, address) => address | 1n,
}
const LEAF = { indices: [2, -1, 0, 0, 0, 0], level: 0, frame: 1, page: 3 }

function stageOf(image: Image) {
  const mapping = mappingOf(SHAPE, 30, LEAF, places)
  const tables = buildTables(image, SHAPE, [mapping], new TableAllocator(places.tables))
  return { shape: SHAPE, mappings: [mapping], tables }
}

test("a leaf's indices are those of its address, -1 the last one", () => {
  const { iova, target } = mappingOf(SHAPE, 30, LEAF, places)
  expect(iova).toBe((2n << 21n) | (511n << 12n))
  expect(target).toBe(BigInt(places.frames[1] + 3 * 4096))
  // What the address does not have is cut off.
  expect(mappingOf(SHAPE, 20, LEAF, places).iova).toBe(0xf_f000n)
})

describe("an access", () => {
  const stage = stageOf(new Image())
  const access = { leaf: 0, offset: 0x1008, write: true, flip: null }

  test("stays in the leaf's page", () => {
    expect(accessOf(access, 2, stage)).toEqual({
      device: 2,
      iova: (2n << 21n) | (511n << 12n) | 8n,
      write: true,
      asks: "place",
    })
  })

  test("is of another address when a bit of it is turned over", () => {
    const { iova } = accessOf(access, 2, stage)
    expect(accessOf({ ...access, flip: 40 }, 2, stage).iova).toBe(iova | (1n << 40n))
  })
})

describe("damage", () => {
  test("turns over one bit of a structure's words, or takes it away", () => {
    expect(damaged([1n, 2n], "DTE", null)).toEqual([1n, 2n])
    expect(damaged([1n, 2n], "DTE", { at: "DTE", bit: 66 })).toEqual([1n, 6n])
    expect(damaged([1n, 2n], "DTE", { at: "DTE", bit: ABSENT })).toEqual([0n, 0n])
    expect(damaged<"DTE" | "STE">([1n, 2n], "DTE", { at: "STE", bit: 0 })).toEqual([1n, 2n])
  })

  test("turns over one bit of an entry on the way", () => {
    for (const [depth, which] of [
      [0, 0],
      [1, 1],
      [2, 0],
      [LAST, 1],
    ]) {
      const image = new Image()
      const stage = stageOf(image)
      const at = stage.tables.paths[0][which]
      const before = image.read(at)
      damageEntry(image, stage, "stage 2", { at: "stage 1", leaf: 0, depth, bit: 5 })
      expect(image.read(at)).toBe(before)
      damageEntry(image, stage, "stage 2", { at: "stage 2", leaf: 3, depth, bit: 5 })
      expect(image.read(at)).toBe(before ^ 32n)
    }
  })

  test("leaves out what says nothing about the IOMMU", () => {
    const image = new Image()
    const stage = stageOf(image)
    const before = new Map(image.words)
    const damage = { at: "stage 2", leaf: 0, depth: 0, bit: 39 } as const
    damageEntry(image, stage, "stage 2", damage, (bit, level) => bit === 39 && level === 1)
    expect(image.words).toEqual(before)
  })
})
