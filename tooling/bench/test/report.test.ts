import { describe, expect, it } from "vitest"
import { compare, readReport } from "../src/compare.ts"
import { type Measurement, measure, median } from "../src/measure.ts"
import { comparisonTable, markdownTables, quantityTable, resultTable } from "../src/print.ts"
import type { Quantity } from "../src/quantity.ts"
import { machineOf, type Report } from "../src/report.ts"
import { barePa, bareTable, bareWalk, fillYardstick } from "../src/yardsticks.ts"

const result = (operation: string, ratio: number): Measurement => ({
  operation,
  subject: "toy",
  ns: { min: 1, median: 2 },
  yardstick: "fill",
  yardstickNs: { min: 1, median: 1 },
  ratio,
  ratioMedian: ratio,
  limit: 2,
  ok: ratio <= 2,
})
const quantity = (value: number, limit: number | null = null): Quantity => ({
  what: "heap",
  subject: "toy",
  value,
  unit: "bytes",
  limit,
  ok: limit === null || value <= limit,
})
const report = (results: Measurement[], quantities: Quantity[] = []): Report => ({
  schema: 2,
  machine: machineOf(),
  results,
  quantities,
})

describe("reports", () => {
  it("are read back as they were printed, and compared case by case", () => {
    const before = readReport(JSON.stringify(report([result("map", 2), result("gone", 1)])))
    const after = report([result("map", 3), result("new", 1)])
    expect(compare(before, after)).toEqual([{ operation: "map", subject: "toy", before: 2, after: 3 }])
    expect(comparisonTable(compare(before, after))).toContain("+50 %")
    expect(resultTable(after.results)).toContain("OVER")
  })

  it("are compared by their quantities, too", () => {
    const before = readReport(JSON.stringify(report([], [quantity(8)])))
    const after = report([], [quantity(12)])
    expect(compare(before, after)).toEqual([
      { operation: "heap, bytes", subject: "toy", before: 8, after: 12 },
    ])
    expect(comparisonTable(compare(report([], [quantity(0)]), after))).not.toContain("%")
    expect(quantityTable([quantity(12, 10)])).toContain("OVER")
    expect(quantityTable([quantity(12)])).not.toContain("null")
    expect(markdownTables(after)).toContain("| heap, bytes | 12 |")
  })

  it("are printed as tables for people", () => {
    const lines = markdownTables(report([result("map", 3), result("unmap", 1)])).split("\n")
    expect(lines.slice(0, 4)).toEqual([
      "| | toy |",
      "|---|--:|",
      "| map | 1.00 (3.0) |",
      "| unmap | 1.00 (1.0) |",
    ])
  })

  it.each([
    "{}",
    "[]",
    "null",
    '{"schema":1,"results":[]}',
    '{"schema":2,"results":[]}',
    '{"schema":2,"results":[{}],"quantities":[]}',
    '{"schema":2,"results":[],"quantities":[{"what":"heap"}]}',
  ])("are not %s", text => {
    expect(() => readReport(text)).toThrow("schema 2")
  })
})

describe("measuring", () => {
  it("counts prepared work without its preparation", () => {
    let prepared = 0
    const work = { operations: 1000, prepare: () => void prepared++, run: () => fillYardstick(1000).run() }
    const bench = { ...work, operation: "toy", subject: "toy", yardstick: fillYardstick(1000), limit: null }
    const { ok, ratio, ns } = measure(bench, { rounds: 2, sampleMs: 0.1 })
    expect(ok).toBe(true)
    expect(prepared).toBeGreaterThan(0)
    expect(ratio).toBeGreaterThan(0)
    expect(ns.min).toBeLessThanOrEqual(ns.median)
  })

  it("takes the middle", () => {
    expect(median([3, 1, 2])).toBe(2)
    expect(median([4, 1, 2, 3])).toBe(2.5)
  })
})

describe("the bare walk", () => {
  it("finds every page of its table, and none behind it", () => {
    const table = bareTable(1500)
    for (const page of [0, 511, 512, 1499]) {
      expect(bareWalk(table, 0, page * 4096 + 5)).toBe(0)
      expect((barePa[0] as number) >>> 0).toBe(((((page * 7919) & 0xfffff) << 12) >>> 0) + 5)
    }
    expect(bareWalk(table, 0, 1500 * 4096)).toBe(-1)
    expect(bareWalk(table, 0x80, 0)).toBe(-1)
  })
})
