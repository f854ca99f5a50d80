/** A page table with memory of its own, and an independent reading of it. */
import { createMemory, MemoryAccount, PageAllocator, type PhysicalMemory } from "@iommu/core"
import { createPageTable, type PageTable, type PageTableFormat, type PageTableOptions } from "../src/index.ts"

export interface FormatCase {
  readonly format: PageTableFormat
  readonly levels: number
  readonly inputBits: number
  readonly outputBits: number
  readonly pageSizes?: bigint
}

export interface TableUnderTest {
  readonly table: PageTable
  readonly memory: PhysicalMemory
  readonly pages: PageAllocator
  readonly account: MemoryAccount
}

export function newTable(given: FormatCase & Partial<PageTableOptions>, mebibytes = 8): TableUnderTest {
  const range = { base: 0x7_4000_0000n, size: BigInt(mebibytes) << 20n }
  const memory = createMemory([range])
  const pages = new PageAllocator(memory, range)
  const account = new MemoryAccount("test")
  return { table: createPageTable({ memory, pages, account, ...given }), memory, pages, account }
}

export function caseName({ format, levels, inputBits, outputBits, pageSizes }: FormatCase): string {
  const sizes = pageSizes === undefined ? "" : `, sizes 0x${pageSizes.toString(16)}`
  return `${format.name}, ${levels} levels, ${inputBits} to ${outputBits} bits${sizes}`
}

/** All entries that are not zero, as `level:IOVA = words`, read one by one with bigint. */
export function dump({ table, memory }: TableUnderTest): string[] {
  const { format } = table
  const lines: string[] = []
  const mask = BigInt(format.kindMask >>> 0)
  const visit = (address: bigint, level: number, base: bigint, entries: bigint): void => {
    const item = 1n << BigInt(format.granuleLg2 + level * format.indexBits)
    for (let n = 0n; n < entries; n++) {
      const entry = memory.read64(address + n * 8n)
      if (entry === 0n) continue
      lines.push(`${level}:${(base + n * item).toString(16)} = ${entry.toString(16)}`)
      if (level > 0 && (entry & mask) === (format.tableBits(level) & mask)) {
        visit(naiveAddress(format, entry), level - 1, base + n * item, 1n << BigInt(format.indexBits))
      }
    }
  }
  const top = table.levels - 1
  const rootBits =
    format.grows === 1
      ? 9
      : Math.max(0, table.geometry.inputBits - format.granuleLg2 - top * format.indexBits)
  visit(table.root, top, 0n, 1n << BigInt(rootBits))
  return lines
}

/** Address of a table in its entry. */
function naiveAddress(format: PageTableFormat, entry: bigint): bigint {
  const inPlace = (BigInt(format.addressHi) << 32n) | BigInt(format.addressLo >>> 0)
  const low = entry & inPlace & ~((1n << BigInt(format.granuleLg2)) - 1n)
  const moved = (entry & BigInt(format.movedMask)) >> BigInt(format.movedTo)
  return low | (format.movedMask === 0 ? 0n : moved << BigInt(format.movedFrom))
}

/** A leaf as software outside of this project built it, and what it was asked for. */
export interface LeafVector {
  readonly iova: bigint
  readonly size: bigint
  readonly pa: bigint
  readonly prot: number
  /** The 64-bit word in the table. */
  readonly entry: bigint
}

/** The words that the builder writes for a vector: all entries of the leaf, and the table entries above them. */
export function builtEntries(
  given: FormatCase,
  { iova, size, pa, prot }: LeafVector,
): { readonly leaf: readonly bigint[]; readonly tables: readonly bigint[] } {
  const bench = newTable(given)
  bench.table.map(iova, pa, size, prot)
  const lines = dump(bench)
  const levelOf = (line: string): string => line.slice(0, 1)
  const lowest = levelOf(lines.at(-1) as string)
  const entryOf = (line: string): bigint => BigInt(`0x${line.split(" = ")[1]}`)
  return {
    leaf: lines.filter(line => levelOf(line) === lowest).map(entryOf),
    tables: lines.filter(line => levelOf(line) !== lowest).map(entryOf),
  }
}
