/** Heap bytes, allocation and growth of page tables and domains. */
import { createMemory, iommuDevice, MemoryAccount, PageAllocator } from "@iommu/core"
import { createPageTable } from "@iommu/pagetable"
import { benchTable, type FormatSubject, RW, unitOf } from "../../../packages/pagetable/bench/subject.ts"
import type { Work } from "./bench-case.ts"
import { BENCH_VENDORS, type BenchVendor, driverOf } from "./machines.ts"
import { sample } from "./measure.ts"
import { allocatedBy, bytesAlive, type QuantityCase } from "./quantity.ts"
import { addressesOf, walkYardstick } from "./yardsticks.ts"

const TABLES = 2000
const DOMAINS = 4000
const DOMAIN_MEMORY = { base: 0x1_0000_0000n, size: 256n << 20n }
const CALLS = 200_000

export function domainQuantities(): QuantityCase[] {
  return BENCH_VENDORS.map(vendor => ({
    what: "heap beyond table pages",
    subject: vendor.nested.name,
    unit: "bytes a domain",
    limit: 256,
    measure: () => heapPerDomain(vendor),
  }))
}

export function tableQuantities(format: FormatSubject): QuantityCase[] {
  const { subject } = format
  return [
    {
      what: "heap beyond table pages",
      subject,
      unit: "bytes a table",
      limit: 256,
      measure: () => heapPerTable(format),
    },
    {
      what: "allocated, number API",
      subject,
      unit: "bytes a call",
      limit: 0.5,
      measure: () => allocatedPerCall(format),
    },
    {
      what: "growth 10^3 to 10^6 pages",
      subject,
      unit: "of the bare walk's",
      limit: 1.15,
      measure: () => growth(format),
    },
  ]
}

/** Heap of whole domains, the driver's object included, at rest with one page mapped and unmapped in each. */
function heapPerDomain(vendor: BenchVendor): number {
  const ops = driverOf(vendor, DOMAIN_MEMORY)
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
  const before = bytesAlive().heap
  for (let n = DOMAINS / 2; n < DOMAINS; n++) kept[n] = make()
  const after = bytesAlive().heap
  return kept.length === DOMAINS ? (after - before) / (DOMAINS / 2) : 0
}

/** Heap of many tables at rest, with one page mapped and unmapped in each. */
function heapPerTable({ format, levels, inputBits, outputBits }: FormatSubject): number {
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
  for (let n = 0; n < TABLES / 2; n++) kept[n] = make()
  const before = bytesAlive().heap
  for (let n = TABLES / 2; n < TABLES; n++) kept[n] = make()
  const after = bytesAlive().heap
  return kept.length === TABLES ? (after - before) / (TABLES / 2) : 0
}

/** Heap growth over page maps, look-ups and unmaps, without a collection between. */
function allocatedPerCall(subject: FormatSubject): number {
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
  return allocatedBy(() => round(CALLS)) / (CALLS * 3)
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
