/** Prices of the builder: each operation on each format, next to a yardstick of the same size. */
import type { BenchCase } from "../../../tooling/bench/src/bench-case.ts"
import { addressesOf, fillYardstick, walkYardstick } from "../../../tooling/bench/src/yardsticks.ts"
import { benchTable, blockOf, type FormatSubject, RW, unitOf } from "./subject.ts"

/** Leaves of a range: 2 MiB of entries, twice a core's L2. */
const RANGE_LEAVES = 262_144
/** Leaves of one unmap that keeps its table: half a table of 512. */
const PIECE = 256
const CALLS = 1024

export function pagetableBenchCases(subjects: readonly FormatSubject[]): BenchCase[] {
  return subjects.flatMap(subject => [
    mapRange(subject, "map 4K range", unitOf(subject)),
    mapRange(subject, "map 2M range", blockOf(subject)),
    unmapPieces(subject),
    unmapWhole(subject),
    mapPages(subject),
    unmapPages(subject),
    lookUp(subject, "iovaToPhys hot 256", hotPages(256)),
    lookUp(subject, "iovaToPhys random", randomPages(RANGE_LEAVES)),
  ])
}

/** One call for a whole range whose tables are there already. */
function mapRange(subject: FormatSubject, operation: string, leaf: bigint): BenchCase {
  const { table } = benchTable(subject, leaf)
  const pagesPerLeaf = Number(leaf / 4096n)
  const pages = RANGE_LEAVES * pagesPerLeaf
  const clear = (): void => {
    const piece = PIECE * pagesPerLeaf
    for (let at = 0; at < pages; at += piece) table.unmapPages(Math.floor(at / 2 ** 20), at << 12, piece)
    table.gatherDone()
  }
  return {
    operation,
    subject: subject.subject,
    operations: RANGE_LEAVES,
    yardstick: fillYardstick(RANGE_LEAVES),
    limit: 5.5,
    prepare: clear,
    run: () => table.mapPages(0, 0, 1, 0, pages, RW),
  }
}

/** Calls of half a table: tables stay. */
function unmapPieces(subject: FormatSubject): BenchCase {
  const { table } = benchTable(subject, unitOf(subject))
  const unit = Number(unitOf(subject) / 4096n)
  const pages = RANGE_LEAVES * unit
  const piece = PIECE * unit
  return {
    operation: "unmap, tables stay",
    subject: subject.subject,
    operations: RANGE_LEAVES,
    yardstick: fillYardstick(RANGE_LEAVES),
    limit: 6,
    prepare: () => {
      table.gatherDone()
      table.mapPages(0, 0, 1, 0, pages, RW)
    },
    run: () => {
      let unmapped = 0
      for (let at = 0; at < pages; at += piece) {
        unmapped += table.unmapPages(Math.floor(at / 2 ** 20), at << 12, piece)
      }
      return unmapped
    },
  }
}

/** One call for the range: its tables go, too. */
function unmapWhole(subject: FormatSubject): BenchCase {
  const { table } = benchTable(subject, unitOf(subject))
  const pages = RANGE_LEAVES * Number(unitOf(subject) / 4096n)
  return {
    operation: "unmap, tables go",
    subject: subject.subject,
    operations: RANGE_LEAVES,
    yardstick: fillYardstick(RANGE_LEAVES),
    limit: 6,
    prepare: () => {
      table.gatherDone()
      table.mapPages(0, 0, 1, 0, pages, RW)
    },
    run: () => table.unmapPages(0, 0, pages),
  }
}

/** One page a call. */
function mapPages(subject: FormatSubject): BenchCase {
  const { table } = benchTable(subject, unitOf(subject))
  const unit = Number(unitOf(subject) / 4096n)
  const clear = (): void => {
    table.unmapPages(0, 0, PIECE * unit)
    for (let at = PIECE; at < CALLS; at += PIECE) {
      table.unmapPages(Math.floor((at * unit) / 2 ** 20), (at * unit) << 12, PIECE * unit)
    }
    table.gatherDone()
  }
  return {
    operation: "map, a page a call",
    subject: subject.subject,
    operations: CALLS * 8,
    yardstick: walkYardstick(CALLS, hotPages(CALLS)),
    limit: null,
    run: () => {
      let failed = 0
      for (let round = 0; round < 8; round++) {
        for (let at = 0; at < CALLS; at++)
          failed += table.mapPages(0, (at * unit) << 12, 1, at << 16, unit, RW)
        clear()
      }
      return failed
    },
  }
}

function unmapPages(subject: FormatSubject): BenchCase {
  const { table } = benchTable(subject, unitOf(subject))
  const unit = Number(unitOf(subject) / 4096n)
  return {
    operation: "unmap, a page a call",
    subject: subject.subject,
    operations: CALLS * 8,
    yardstick: walkYardstick(CALLS, hotPages(CALLS)),
    limit: null,
    run: () => {
      let unmapped = 0
      for (let round = 0; round < 8; round++) {
        table.mapPages(0, 0, 1, 0, CALLS * unit, RW)
        for (let at = 0; at < CALLS; at++) unmapped += table.unmapPages(0, (at * unit) << 12, unit)
        table.gatherDone()
      }
      return unmapped
    },
  }
}

function lookUp(subject: FormatSubject, operation: string, list: Int32Array): BenchCase {
  const { table } = benchTable(subject, unitOf(subject))
  const unit = Number(unitOf(subject) / 4096n)
  const addresses = addressesOf(list, subject.format.granuleLg2)
  table.mapPages(0, 0, 1, 0, RANGE_LEAVES * unit, RW)
  return {
    operation,
    subject: subject.subject,
    operations: list.length,
    yardstick: walkYardstick(RANGE_LEAVES, list),
    // The yardstick has 4 levels of 512 entries; tables of other granules are measured, not judged.
    limit: subject.format.granuleLg2 === 12 ? 1.2 : null,
    run: () => {
      let sum = 0
      for (let n = 0; n < addresses.length; n += 2) {
        const status = table.iovaToPhysHalves(addresses[n] as number, addresses[n + 1] as number)
        sum = (sum + status + table.physLo) | 0
      }
      return sum
    },
  }
}

/** Some pages again and again. */
function hotPages(pages: number): Int32Array {
  return Int32Array.from({ length: CALLS }, (_, n) => n % pages)
}

/** Pages of a large range in no order; the same ones in each run of the program. */
function randomPages(pages: number): Int32Array {
  let state = 12_345
  return Int32Array.from({ length: 16 * CALLS }, () => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
    return (state >>> 8) % pages
  })
}
