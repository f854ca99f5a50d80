/** What has no price in nanoseconds: heap bytes, allocation, growth. */
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { createMemory, type IommuOps, iommuDevice, MemoryAccount, PageAllocator } from "@iommu/core"
import { createPageTable } from "@iommu/pagetable"
import { benchTable, type FormatSubject, RW, unitOf } from "../../../packages/pagetable/bench/subject.ts"
import type { Work } from "./bench-case.ts"
import { formatSubjects } from "./cases.ts"
import { sample } from "./measure.ts"
import { driverMachines } from "./model-cases.ts"
import { addressesOf, walkYardstick } from "./yardsticks.ts"

export interface MemoryMeasurement {
  readonly what: string
  readonly subject: string
  readonly value: number
  readonly unit: string
  readonly limit: number
  readonly ok: boolean
}

const TABLES = 2000
const DOMAINS = 4000
const DOMAIN_MEMORY = { base: 0x1_0000_0000n, size: 256n << 20n }
const CALLS = 200_000

export function measureMemory(only: string): MemoryMeasurement[] {
  setFlagsFromString("--expose-gc")
  const collect = runInNewContext("gc") as () => void
  const subjects = formatSubjects.filter(({ subject }) => `memory ${subject}`.includes(only))
  const domains = driverMachines().filter(({ subject }) => `memory ${subject}`.includes(only))
  const perDomain = domains.map(({ subject, make }) =>
    judge(
      "heap beyond table pages",
      subject,
      heapPerDomain(make(DOMAIN_MEMORY), collect),
      "bytes a domain",
      256,
    ),
  )
  const perFormat = subjects.flatMap(subject => [
    judge("heap beyond table pages", subject.subject, heapPerTable(subject, collect), "bytes a table", 256),
    judge("allocated, number API", subject.subject, allocatedPerCall(subject, collect), "bytes a call", 0.5),
    judge("growth 10^3 to 10^6 pages", subject.subject, growth(subject), "of the bare walk's", 1.15),
  ])
  return [...perDomain, ...perFormat]
}

/** Heap of whole domains, the driver's object included, at rest with one page mapped and unmapped in each. */
function heapPerDomain(ops: IommuOps, collect: () => void): number {
  const device = iommuDevice({ id: 0x0010, account: new MemoryAccount("bench") })
  ops.probeDevice(device)
  const make = (): unknown => {
    const domain = ops.domainAllocUser?.(device, null, null)
    domain?.map(0n, 0x1_0000_0000n, 4096n, RW)
    domain?.unmap(0n, 4096n)
    return domain
  }
  const kept = Array.from({ length: DOMAINS }, () => null as unknown)
  for (let n = 0; n < DOMAINS / 2; n++) kept[n] = make()
  collect()
  const before = process.memoryUsage().heapUsed
  for (let n = DOMAINS / 2; n < DOMAINS; n++) kept[n] = make()
  collect()
  const after = process.memoryUsage().heapUsed
  return kept.length === DOMAINS ? (after - before) / (DOMAINS / 2) : 0
}

function judge(what: string, subject: string, value: number, unit: string, limit: number): MemoryMeasurement {
  return { what, subject, value, unit, limit, ok: value <= limit }
}

/** Heap of many tables at rest, with one page mapped and unmapped in each. */
function heapPerTable({ format, levels, inputBits, outputBits }: FormatSubject, collect: () => void): number {
  const range = { base: 0x1_0000_0000n, size: BigInt(TABLES * levels) << BigInt(format.granuleLg2) }
  const memory = createMemory([range])
  const pages = new PageAllocator(memory, range)
  const account = new MemoryAccount("bench")
  const kept = new Array<unknown>(TABLES)
  const unit = 1 << (format.granuleLg2 - 12)
  const make = (): unknown => {
    const table = createPageTable({ format, memory, pages, account, levels, inputBits, outputBits })
    table.mapPages(0, 0, 1, 0, unit, RW)
    table.unmapPages(0, 0, unit)
    table.gatherDone()
    return table
  }
  make()
  collect()
  const before = process.memoryUsage().heapUsed
  for (let n = 1; n < TABLES; n++) kept[n] = make()
  collect()
  const after = process.memoryUsage().heapUsed
  return kept.length === TABLES ? (after - before) / (TABLES - 1) : 0
}

/** Heap growth over page maps, look-ups and unmaps, without a collection between. */
function allocatedPerCall(subject: FormatSubject, collect: () => void): number {
  const { table } = benchTable(subject, unitOf(subject))
  const unit = Number(unitOf(subject) / 4096n)
  const shift = subject.format.granuleLg2
  const round = (calls: number): void => {
    for (let n = 0; n < calls; n++) {
      const lo = (n & 0xff) << shift
      table.mapPages(0, lo, 1, lo, unit, RW)
      table.iovaToPhysHalves(0, lo)
      table.unmapPages(0, lo, unit)
      if ((n & 0xff) === 0xff) table.gatherDone()
    }
  }
  round(CALLS)
  collect()
  const before = process.memoryUsage().heapUsed
  round(CALLS)
  return Math.max(0, process.memoryUsage().heapUsed - before) / (CALLS * 3)
}

/** How much a random look-up grows from 10^3 to 10^6 pages, against the growth of the bare walk. */
function growth(subject: FormatSubject): number {
  const works = [1_000, 1_000_000].flatMap(pages => [
    lookUps(subject, pages),
    walkYardstick(pages, randomPages(pages)),
  ])
  for (const work of works) sample(work, 20)
  // In turn, and the least of each: the larger tables live in a cache that the machine shares with others.
  const rounds = Array.from({ length: 15 }, () => works.map(work => sample(work, 4)))
  const [small, bareSmall, large, bareLarge] = works.map((_, n) =>
    Math.min(...rounds.map(round => round[n] ?? 0)),
  )
  return (large ?? 0) / (small ?? 1) / ((bareLarge ?? 1) / (bareSmall ?? 1))
}

function lookUps(subject: FormatSubject, pages: number): Work {
  const { table } = benchTable(subject, unitOf(subject))
  table.mapPages(0, 0, 1, 0, pages * Number(unitOf(subject) / 4096n), RW)
  const addresses = addressesOf(randomPages(pages), subject.format.granuleLg2)
  const run = (): number => {
    let sum = 0
    for (let n = 0; n < addresses.length; n += 2) {
      const status = table.iovaToPhysHalves(addresses[n] as number, addresses[n + 1] as number)
      sum = (sum + status + table.physLo) | 0
    }
    return sum
  }
  return { operations: addresses.length / 2, run }
}

function randomPages(pages: number): Int32Array {
  let state = 99
  return Int32Array.from({ length: 65_536 }, () => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
    return (state >>> 8) % pages
  })
}
