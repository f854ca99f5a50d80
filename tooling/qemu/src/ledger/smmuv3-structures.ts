/**
 * Structures of an SMMUv3 case as its memory has them. Arm IHI 0070 G.b §5.2, §5.4. Where they lie:
 * `diff/vendors/smmuv3-layout.ts`.
 */
import { deviceTable, pasidTable, registers } from "@iommu/smmuv3"
import type { Words } from "../diff/script.ts"
import type { World } from "../diff/vendor-diff.ts"
import { CD_AT, IPA_OFFSET, STREAM_TABLE, TABLE_AREA_BYTES } from "../diff/vendors/smmuv3-layout.ts"

const STRUCTURE_WORDS = 8

export function steAddress({ places }: World, id: number): number {
  return places.structures + STREAM_TABLE + id * deviceTable.STE_BYTES
}

export function steOf(world: World, memory: Words, id: number): bigint[] {
  return wordsAt(memory, steAddress(world, id))
}

export function cdAddress({ places }: World): number {
  return places.structures + CD_AT
}

export function cdOf(world: World, memory: Words): bigint[] {
  return wordsAt(memory, cdAddress(world))
}

/** Address and value of the entries of stage 1 tables that are not zero; none when TTB0 does not lead to tables. */
export function stage1Entries(world: World, memory: Words): readonly (readonly [number, bigint])[] {
  const ttb = Number(pasidTable.CD.getInPlace(cdOf(world, memory), "TTB0"))
  const physical = ttb >= IPA_OFFSET ? ttb - IPA_OFFSET : ttb
  const area = world.places.tables.find(base => physical >= base && physical < base + TABLE_AREA_BYTES)
  if (area === undefined) return []
  return [...memory].filter(
    ([address, value]) => address >= area && address < area + TABLE_AREA_BYTES && value !== 0n,
  )
}

/** Bits of an output address, for a value of IPS or S2PS: no more than the OAS has. */
export function outputBits({ identity }: World, size: bigint): number {
  const oas = registers.IDR5.get([identity["IDR5"]], "OAS")
  return registers.ADDRESS_SIZE_BITS[Number(size < oas ? size : oas)]
}

/** Of all physical addresses; the IAS is as large where tables are those of VMSAv8-64. §3.4. */
export function oasBits(world: World): number {
  return outputBits(world, registers.IDR5.get([world.identity["IDR5"]], "OAS"))
}

function wordsAt(memory: Words, at: number): bigint[] {
  return Array.from({ length: STRUCTURE_WORDS }, (_, index) => memory.get(at + index * 8) ?? 0n)
}
