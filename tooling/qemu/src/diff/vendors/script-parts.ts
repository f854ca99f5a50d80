/** From the parts of a case to mappings, damaged words and accesses. */
import type { Image } from "../image.ts"
import { FRAME_BYTES, type Places } from "../places.ts"
import { type BuiltTables, entrySizeLg2, type Mapping, type TableShape } from "../radix.ts"
import type { Access } from "../script.ts"
import { ABSENT, type AccessCase, type Damage, type EntryDamage, LAST, type LeafCase } from "./case-parts.ts"

/** One stage of a case, built. */
export interface Stage {
  readonly shape: TableShape
  readonly mappings: readonly Mapping[]
  readonly tables: BuiltTables
}

/**
 * @param inputBits width of the addresses that the tables translate
 * @param offset between where a frame is and what a leaf says of it
 */
export function mappingOf(
  shape: TableShape,
  inputBits: number,
  { indices, level, frame, page }: LeafCase,
  places: Places,
  offset = 0,
): Mapping {
  const leafLevel = Math.min(level, shape.levels - 1)
  let iova = 0n
  for (let at = shape.levels - 1; at >= leafLevel; at--) {
    const index = BigInt.asUintN(shape.granuleLg2 - 3, BigInt(indices[shape.levels - 1 - at]))
    iova |= index << BigInt(entrySizeLg2(shape, at))
  }
  return {
    iova: BigInt.asUintN(inputBits, iova),
    level: leafLevel,
    target: BigInt(places.frames[frame] + page * 4096 + offset),
  }
}

/** Which of eight words is a device's own: in what order devices come to one word is not for a case to say. */
const OWN_WORD = 0x1c

/** An access to the frame that a leaf leads to, unless a bit of its address is another one. */
export function accessOf({ leaf, offset, write, flip }: AccessCase, device: number, stage: Stage): Access {
  const { shape, mappings } = stage
  const place = BigInt((offset & ~OWN_WORD) | ((device << 2) & OWN_WORD))
  const { iova, level, target } = mappings[leaf % mappings.length]
  const size = 1n << BigInt(entrySizeLg2(shape, level))
  const frame = target - (target % BigInt(FRAME_BYTES))
  const inLeaf = size < BigInt(FRAME_BYTES) ? target + (place % size) : frame + place
  const at = iova + (inLeaf & (size - 1n))
  const sent = BigInt.asUintN(64, flip === null ? at : at ^ (1n << BigInt(flip)))
  return { device, iova: sent, write, asks: "place" }
}

/**
 * Turns over the bit of a stage's entry, when the damage is one of that stage.
 * @param isLeftOut damage that says nothing about the IOMMU in this machine
 */
export function damageEntry<Structure extends string>(
  image: Image,
  { shape, tables }: Stage,
  name: EntryDamage["at"],
  damage: Damage<Structure>,
  isLeftOut: (bit: number, level: number) => boolean = () => false,
): void {
  if (damage === null || damage.at !== name || !("leaf" in damage)) return
  const path = tables.paths[damage.leaf % tables.paths.length]
  const depth = damage.depth === LAST ? path.length - 1 : damage.depth % path.length
  if (isLeftOut(damage.bit, shape.levels - 1 - depth)) return
  image.flip(path[depth], 1n << BigInt(damage.bit))
}

/** A structure as it is in a case: whole, with the bit of the damage turned over, or not there at all. */
export function damaged<Structure extends string>(
  words: readonly bigint[],
  name: Structure,
  damage: Damage<Structure>,
): bigint[] {
  if (damage === null || damage.at !== name) return [...words]
  if (damage.bit === ABSENT) return words.map(() => 0n)
  return words.map((word, index) =>
    damage.bit >> 6 === index ? word ^ (1n << BigInt(damage.bit & 63)) : word,
  )
}
