/** What holds for every format: formats of the vendors run it, too. */
import { DirtyBitmap, ERRNO, type ErrnoCode, fromHalves, hi32, isIommuError, lo32 } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import type { PageTable } from "../src/index.ts"
import { caseName, dump, type FormatCase, newTable, type TableUnderTest } from "./bench-table.ts"
import { joinSpans, Model, RW, type Span } from "./model.ts"

/** Leaves that one map of the random plays makes at most. */
const MOST_LEAVES = 700
const RUNS = 40

interface Step {
  readonly kind: "map" | "unmap" | "sync" | "look"
  readonly anchor: number
  readonly shift: number
  readonly at: number
  readonly count: number
  readonly countShift: number
  readonly skew: number
  readonly prot: number
  /** Use the number API. */
  readonly inHalves: boolean
}

const step: fc.Arbitrary<Step> = fc.record({
  kind: fc.constantFrom("map", "map", "map", "unmap", "unmap", "look", "sync"),
  anchor: fc.nat(5),
  shift: fc.nat(20),
  at: fc.nat(9),
  count: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 9 })),
  countShift: fc.oneof(fc.constant(0), fc.nat(20)),
  skew: fc.nat(24),
  prot: fc.constantFrom(1, 3, 3),
  inHalves: fc.boolean(),
})

export function formatSuite(cases: readonly FormatCase[]): void {
  for (const given of cases) {
    describe(caseName(given), () => {
      it("agrees with the naive model over random maps, unmaps and look-ups", () => {
        const play = (steps: Step[]) => playRandomly(given, steps)
        fc.assert(fc.property(fc.array(step, { maxLength: 24 }), play), { seed: 20_611, numRuns: RUNS })
      })
      it("maps, looks up and unmaps a leaf of each size", () => eachSize(given))
      it("leaves nothing changed when memory ends at any allocation", () => failEachAllocation(given))
      it("leaves nothing changed when something is mapped already", () => failAtEachPage(given))
      it("reports dirty leaves once, and only those", () => dirtyLeaves(given))
    })
  }
}

function playRandomly(given: FormatCase, steps: readonly Step[]): void {
  const bench = newTable(given)
  const { table } = bench
  const model = new Model(given.format, table.pageSizes, given.levels, given.inputBits)
  for (const at of steps) {
    const { iova, size } = place(bench, at)
    if (at.kind === "map") {
      const unit = table.pageSizes & -table.pageSizes
      const pa =
        (iova + unit * (1n << BigInt(at.skew)) * BigInt(at.at)) % (1n << BigInt(given.outputBits - 1))
      playMap(bench, model, at, iova, pa, size)
    } else if (at.kind === "unmap") {
      expect(unmap(table, at, iova, size)).toBe(model.unmap(iova, size))
    } else if (at.kind === "sync") {
      sync(bench, model)
    }
    expect(table.iovaToPhys(iova)).toBe(model.lookUp(iova))
    expect(table.iovaToPhys(iova + size - 1n)).toBe(model.lookUp(iova + size - 1n))
    expect(table.levels).toBe(model.levels)
  }
  sync(bench, model)
  for (const leaf of model.leaves) {
    expect(table.iovaToPhys(leaf.iova + leaf.size / 2n)).toBe(leaf.pa + leaf.size / 2n)
  }
  lookAround(bench, model)
  table.free()
  expect(bench.account.usagePages).toBe(0)
  expect(bench.pages.pagesInUse).toBe(0)
}

/** IOVAs that differ from mapped ones in one bit: a walk that drops an index bit finds the wrong leaf. */
function lookAround({ table }: TableUnderTest, model: Model): void {
  for (const { iova } of model.leaves.slice(0, 12)) {
    for (let bit = 12n; bit < 64n; bit++) {
      const other = iova ^ (1n << bit)
      expect(table.iovaToPhys(other)).toBe(model.lookUp(other))
    }
  }
}

function playMap(
  { table }: TableUnderTest,
  model: Model,
  at: Step,
  iova: bigint,
  pa: bigint,
  size: bigint,
): void {
  const leaves = model.split(iova, pa, size, at.prot, MOST_LEAVES)
  if (leaves === null) return
  const taken = model.overlaps(iova, size)
  expect(map(table, at, iova, pa, size)).toBe(taken ? ERRNO.EEXIST : 0)
  if (!taken) model.map(leaves)
}

/** Through the number API, or the comfortable one. @returns 0 or an errno */
function map(table: PageTable, { inHalves, prot }: Step, iova: bigint, pa: bigint, size: bigint): number {
  if (inHalves) return table.mapPages(hi32(iova), lo32(iova), hi32(pa), lo32(pa), Number(size >> 12n), prot)
  const code = codeOf(() => table.map(iova, pa, size, prot))
  return code === null ? 0 : ERRNO[code]
}

/** @returns bytes unmapped */
function unmap(table: PageTable, { inHalves }: Step, iova: bigint, size: bigint): bigint {
  if (!inHalves) return table.unmap(iova, size)
  return BigInt(table.unmapPages(hi32(iova), lo32(iova), Number(size >> 12n))) << 12n
}

/** Somewhere in the aperture: near its ends, and near the corners of tables of each level. */
function place({ table }: TableUnderTest, at: Step): { iova: bigint; size: bigint } {
  const { granuleLg2, indexBits } = table.format
  const unit = table.pageSizes & -table.pageSizes
  const end = table.aperture.last + 1n
  const corner = 1n << BigInt(granuleLg2 + (at.anchor % 4) * indexBits)
  const anchors = [0n, corner, corner * 3n, end - unit * 1024n, end / 2n - unit * 4n, end - corner]
  const iova = ((anchors[at.anchor] as bigint) + unit * (1n << BigInt(at.shift)) * BigInt(at.at)) % end
  const inside = iova < 0n ? 0n : iova - (iova % unit)
  const wanted = unit * (1n << BigInt(at.countShift)) * BigInt(at.count)
  const size = inside + wanted > end ? end - inside : wanted
  return { iova: inside, size }
}

function sync({ table }: TableUnderTest, model: Model): void {
  const spans: Span[] = []
  for (let n = 0; n < table.gather.count; n++) {
    const first = BigInt(table.gather.firstPage(n)) << 12n
    const last = (BigInt(table.gather.lastPage(n)) << 12n) | 0xfffn
    const before = spans.at(-1)
    expect(before === undefined || before.last < first).toBe(true)
    spans.push({ first, last })
  }
  expect(joinSpans(spans)).toEqual(model.takeGathered())
  table.gatherDone()
  expect(table.gather.count).toBe(0)
  const perTable = 2 ** (table.format.granuleLg2 - 12)
  expect(table.tablePages).toBe(2 ** table.geometry.rootPagesLg2 + model.tables.size * perTable)
}

function eachSize(given: FormatCase): void {
  const { table } = newTable(given)
  for (const size of sizesOf(table.pageSizes)) {
    if (size * 2n > table.aperture.last || size * 2n > 1n << BigInt(given.outputBits)) continue
    table.map(size, size, size, RW)
    expect(table.iovaToPhys(size)).toBe(size)
    expect(table.iovaToPhys(size * 2n - 1n)).toBe(size * 2n - 1n)
    expect(table.iovaToPhys(size * 2n)).toBe(null)
    expect(table.iovaToPhysHalves(hi32(size + 5n), lo32(size + 5n))).toBe(0)
    expect(fromHalves(table.physHi, table.physLo)).toBe(size + 5n)
    expect(table.unmap(size, size)).toBe(size)
    expect(table.gather.count).toBe(1)
    expect(table.gather.leafSizeLg2(0) <= size.toString(2).length - 1).toBe(true)
    table.gatherDone()
  }
}

/** A range over the corner of two tables of each level, whose addresses are never aligned alike. */
function cornerRange(given: FormatCase): { iova: bigint; pa: bigint; size: bigint } {
  const unit = 1n << BigInt(given.format.granuleLg2)
  const top = given.format.granuleLg2 + Math.max(1, given.levels - 1) * given.format.indexBits
  const corner = given.inputBits > top ? 1n << BigInt(top) : 1n << BigInt(given.inputBits - 1)
  return { iova: corner - unit * 3n, pa: unit * 2n, size: unit * 6n }
}

function failEachAllocation(given: FormatCase): void {
  const bench = newTable(given)
  const { table, account, pages } = bench
  const { iova, pa, size } = cornerRange(given)
  table.map(iova, pa, size / 6n, RW)
  const before = dump(bench)
  const used = account.usagePages
  for (let limit = used; ; limit++) {
    account.limitPages = limit
    const code = codeOf(() => table.map(iova + size / 6n, pa, size, RW))
    if (code === null) break
    expect(code).toBe("ENOMEM")
    expect(account.usagePages).toBe(used)
    expect(pages.pagesInUse).toBe(used)
    expect(table.tablePages).toBe(used)
    expect(table.gather.count).toBe(0)
    expect(dump(bench)).toEqual(before)
  }
  table.free()
  expect(account.usagePages).toBe(0)
}

function failAtEachPage(given: FormatCase): void {
  const bench = newTable(given)
  const { table, account } = bench
  const { iova, pa, size } = cornerRange(given)
  const unit = size / 6n
  for (let n = 0n; n < 6n; n++) {
    table.map(iova + n * unit, 0n, unit, RW)
    const before = dump(bench)
    const used = account.usagePages
    expect(codeOf(() => table.map(iova, pa, size, RW))).toBe("EEXIST")
    expect(dump(bench)).toEqual(before)
    expect(account.usagePages).toBe(used)
    table.unmap(iova, size)
    table.gatherDone()
  }
}

function dirtyLeaves(given: FormatCase): void {
  const { format } = given
  if ((format.dirtyMaskHi | format.dirtyMaskLo) === 0) return
  const { table } = newTable(given)
  const { iova, pa, size } = cornerRange(given)
  const unit = size / 6n
  table.map(iova, pa, size, RW)
  table.clearDirty()
  table.gatherDone()
  const before = new DirtyBitmap(iova, size, unit)
  table.readDirty(before)
  expect(before.count).toBe(0)
  for (const n of [1n, 4n]) makeDirty(table.words, format, slotOf(table, iova + n * unit))
  for (const read of [() => table.readDirty.bind(table), () => table.readAndClearDirty.bind(table)]) {
    const dirty = new DirtyBitmap(iova, size, unit)
    read()(dirty)
    expect([0n, 1n, 2n, 3n, 4n, 5n].filter(n => dirty.has(iova + n * unit))).toEqual([1n, 4n])
  }
  expect(table.gather.count).toBe(2)
  expect(table.gather.firstPage(1)).toBe(Number((iova + 4n * unit) >> 12n))
  table.gatherDone()
  const after = new DirtyBitmap(iova, size, unit)
  table.readAndClearDirty(after)
  expect(after.count).toBe(0)
  expect(table.iovaToPhys(iova + unit)).toBe(pa + unit)
}

/** Word index of the leaf entry of an IOVA whose leaf is of the smallest size. */
function slotOf(table: PageTable, iova: bigint): number {
  const { format } = table
  let word = table.rootWord
  for (let level = table.levels - 1; ; level--) {
    const shift = BigInt(format.granuleLg2 + level * format.indexBits)
    const above =
      level === table.levels - 1 ? iova >> shift : (iova >> shift) & ((1n << BigInt(format.indexBits)) - 1n)
    const slot = word + Number(above) * 2
    if (level === 0) return slot
    word = table.wordOfTable(table.words[slot + 1] as number, table.words[slot] as number)
  }
}

function makeDirty(words: Int32Array, format: FormatCase["format"], slot: number): void {
  words[slot] = ((words[slot] as number) & ~format.dirtyMaskLo) | format.dirtyValueLo
  words[slot + 1] = ((words[slot + 1] as number) & ~format.dirtyMaskHi) | format.dirtyValueHi
}

function sizesOf(pageSizes: bigint): bigint[] {
  return Array.from({ length: 64 }, (_, bit) => 1n << BigInt(bit)).filter(size => (pageSizes & size) !== 0n)
}

function codeOf(call: () => void): ErrnoCode | null {
  try {
    call()
    return null
  } catch (error) {
    if (isIommuError(error)) return error.code
    throw error
  }
}
