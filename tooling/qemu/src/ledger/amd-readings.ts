/**
 * How QEMU reads AMD-Vi's structures where it does not read them as the book does. AMD 48882 rev 3.10 §2.2. Where
 * the structures of a case lie: `diff/vendors/amd-layout.ts`.
 */
import { deviceTable } from "@iommu/amd"
import type { Words } from "../diff/script.ts"
import type { World } from "../diff/vendor-diff.ts"
import { DEVICE_TABLE } from "../diff/vendors/amd-layout.ts"

const TABLE_AREA_BYTES = 0x80_0000
/** PR, A, D, NextLevel, address, U, FC, IR, IW of a leaf; a table entry has no U and no FC. §2.2.3. */
const LEAF_BITS = 0x780f_ffff_ffff_fe61n
const TABLE_BITS = 0x600f_ffff_ffff_fe61n
const NEXT_LEVEL = 7n << 9n
const PR = 1n
const IR_IW = 3n << 61n
/** Bits 7:2 and 63 of word 0, bit 8 of word 1. */
const DTE_RESERVED = [0x8000_0000_0000_00fcn, 0x100n]
/** PPR and GPRP, bits 53:52 of word 0. */
const PAGE_REQUESTS = 3n << 52n
/** A bit that is reserved in every revision. */
const RESERVED = 1n << 2n
const MODE = 7n << 9n

export function withoutReservedEntryBits(world: World, memory: Words): Words {
  return changedTables(world, memory, entry => entry & (isLeaf(entry) ? LEAF_BITS : TABLE_BITS))
}

export function withQemusReservedBits(world: World, memory: Words): Words {
  return changedEntries(world, memory, ([word0, word1]) =>
    (word0 & DTE_RESERVED[0]) !== 0n || (word1 & DTE_RESERVED[1]) !== 0n ? word0 | RESERVED : word0,
  )
}

export function withoutPageRequestBits(world: World, memory: Words): Words {
  return changedEntries(world, memory, ([word0]) => word0 & ~PAGE_REQUESTS)
}

/** IR and IW set above the leaves: in the device table entry and in entries that lead to tables. */
export function withPermissionsOfLeaves(world: World, memory: Words): Words {
  return new Map([
    ...changedEntries(world, memory, ([word0]) => word0 | IR_IW),
    ...changedTables(world, memory, entry => (isLeaf(entry) ? entry : entry | IR_IW)),
  ])
}

/** Leaves present, if they hold anything at all. */
export function withPresentLeaves(world: World, memory: Words): Words {
  return changedTables(world, memory, entry => (isLeaf(entry) && entry !== 0n ? entry | PR : entry))
}

/** An address as far as the levels of Mode reach. */
export function withinMode({ places, deviceIds }: World, memory: Words, iova: bigint): bigint {
  const word0 = memory.get(places.structures + DEVICE_TABLE + deviceIds[0] * deviceTable.DTE_BYTES) ?? 0n
  const levels = Number((word0 & MODE) >> 9n)
  return levels === 0 ? iova : BigInt.asUintN(12 + 9 * levels, iova)
}

function isLeaf(entry: bigint): boolean {
  return (entry & NEXT_LEVEL) === 0n || (entry & NEXT_LEVEL) === NEXT_LEVEL
}

/** @param read an entry as QEMU takes it */
function changedTables({ places }: World, memory: Words, read: (entry: bigint) => bigint): Words {
  const changes = new Map<number, bigint>()
  for (const [address, value] of memory) {
    const isTable = places.tables.some(base => address >= base && address < base + TABLE_AREA_BYTES)
    const now = isTable ? read(value) : value
    if (now !== value) changes.set(address, now)
  }
  return changes
}

/** @param read the first word of an entry as QEMU takes it */
function changedEntries(
  { places, deviceIds }: World,
  memory: Words,
  read: (entry: readonly [bigint, bigint]) => bigint,
): Words {
  const changes = new Map<number, bigint>()
  for (const id of deviceIds) {
    const at = places.structures + DEVICE_TABLE + id * deviceTable.DTE_BYTES
    const word0 = memory.get(at) ?? 0n
    const now = read([word0, memory.get(at + 8) ?? 0n])
    if (now !== word0) changes.set(at, now)
  }
  return changes
}
