/**
 * How QEMU reads VT-d's structures in scalable mode where it does not read them as the book does. Intel VT-d 5.10
 * (D51397-018), chapter 9. Where the structures of a case lie: `diff/vendors/vtd-script.ts`.
 */
import type { Words } from "../diff/script.ts"
import type { World } from "../diff/vendor-diff.ts"
import {
  CONTEXT_TABLE,
  PASID_DIRECTORY,
  PASID_TABLE,
  ROOT_TABLE,
  UPPER_CONTEXT_TABLE,
} from "../diff/vendors/vtd-layout.ts"

const PAGE = 0x1000
const TABLE_AREA_BYTES = 0x80_0000
const SNP = 1n << 11n
/** Bits that QEMU looks at, by word. Context entry: without DTE, PASIDE, PRE, RID_PRIV; directory entry: P, FPD, pointer. */
const CONTEXT_BITS = [~0x1cn, ~0x10_0000n, 0n, 0n]
const DIRECTORY_BITS = [~0xffcn]
/** PASID entry: P, FPD, AW, PGTT (in 7.2 nested is second stage) and the pointer; DID; FSPM and the first-stage pointer. */
const PASID_BITS_SECOND = [~0xe60n, 0xffffn, 0n, 0n, 0n, 0n, 0n, 0n]
const PASID_BITS_FIRST = [0x1dfn, 0xffffn, ~0xff3n, 0n, 0n, 0n, 0n, 0n]
/** Bits 11:1 of either half of a root entry, and those beyond 48 bits of address. */
const ROOT_RESERVED = 0xffff_0000_0000_0ffen

export function withoutReservedBits({ variant, places }: World, memory: Words): Words {
  const pasid = variant === "scalable-first" ? PASID_BITS_FIRST : PASID_BITS_SECOND
  const tables: readonly (readonly [offset: number, bits: readonly bigint[]])[] = [
    [CONTEXT_TABLE, CONTEXT_BITS],
    [UPPER_CONTEXT_TABLE, CONTEXT_BITS],
    [PASID_DIRECTORY, DIRECTORY_BITS],
    [PASID_TABLE, pasid],
  ]
  if (variant === "legacy") return new Map()
  return changedWords(memory, (address, value) => {
    const offset = address - places.structures
    const table = tables.find(([start]) => offset >= start && offset < start + PAGE)
    if (table === undefined) return value
    const [start, bits] = table
    return BigInt.asUintN(64, value & bits[((offset - start) / 8) % bits.length])
  })
}

export function withReservedBitsOfBothHalves({ variant, places }: World, memory: Words): Words {
  if (variant === "legacy") return new Map()
  const root = places.structures + ROOT_TABLE
  const reserved = ((memory.get(root) ?? 0n) | (memory.get(root + 8) ?? 0n)) & ROOT_RESERVED
  return changedWords(memory, (address, value) =>
    address === root || address === root + 8 ? value | reserved : value,
  )
}

/** Second-stage entries without SNP. */
export function withoutSnoop({ variant, places }: World, memory: Words): Words {
  if (variant === "scalable-first") return new Map()
  return changedWords(memory, (address, value) => {
    const isTable = places.tables.some(base => address >= base && address < base + TABLE_AREA_BYTES)
    return isTable ? value & ~SNP : value
  })
}

function changedWords(memory: Words, read: (address: number, value: bigint) => bigint): Words {
  const changes = new Map<number, bigint>()
  for (const [address, value] of memory) {
    const now = read(address, value)
    if (now !== value) changes.set(address, now)
  }
  return changes
}
