/** Formats to measure come from the vendors' `bench/`; this package names none. */
import { createMemory, MemoryAccount, PageAllocator, type PhysicalMemory } from "@iommu/core"
import { createPageTable, type PageTable, type PageTableFormat } from "../src/index.ts"

export interface FormatSubject {
  readonly subject: string
  readonly format: PageTableFormat
  readonly levels: number
  readonly inputBits: number
  readonly outputBits: number
}

export const RW = 3
const TABLE_MEMORY = { base: 0x1_0000_0000n, size: 16n << 20n }

export interface BenchTable {
  readonly table: PageTable
  readonly memory: PhysicalMemory
}

/** A table in memory of its own, with leaves of the smallest size alone unless others are asked for. */
export function benchTable(subject: FormatSubject, pageSizes: bigint): BenchTable {
  const memory = createMemory([TABLE_MEMORY])
  const pages = new PageAllocator(memory, TABLE_MEMORY)
  const account = new MemoryAccount("bench")
  const { format, levels, inputBits, outputBits } = subject
  const table = createPageTable({ format, memory, pages, account, levels, inputBits, outputBits, pageSizes })
  return { table, memory }
}

/** The smallest leaf of a format, in bytes. */
export function unitOf({ format }: FormatSubject): bigint {
  return 1n << BigInt(format.granuleLg2)
}

/** The largest leaf of the level above the smallest. */
export function blockOf({ format }: FormatSubject): bigint {
  return 1n << BigInt(format.granuleLg2 + format.indexBits)
}
