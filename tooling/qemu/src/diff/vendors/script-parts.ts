/** From the parts of a case to mappings, damaged words and accesses. */
import type { Image } from "../image.ts"
import { FRAME_BYTES, type Places } from "../places.ts"
import { type BuiltTables, entrySizeLg2, type Mapping, type TableShape } from "../radix.ts"
import type { Access } from "../script.ts"
import type { AccessCase, EntryFlip, LeafCase } from "./case-parts.ts"

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
  { indices, level, frame, page, flips }: LeafCase,
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
    bits: bitsOf(flips),
  }
}

/** An access to the frame that a leaf leads to, unless a bit of its address is another one. */
export function accessOf({ leaf, offset, write, flip }: AccessCase, device: number, stage: Stage): Access {
  const { shape, mappings } = stage
  const { iova, level, target } = mappings[leaf % mappings.length]
  const size = 1n << BigInt(entrySizeLg2(shape, level))
  const frame = target - (target % BigInt(FRAME_BYTES))
  const inLeaf = size < BigInt(FRAME_BYTES) ? target + (BigInt(offset) % size) : frame + BigInt(offset)
  const at = iova + (inLeaf & (size - 1n))
  return { device, iova: BigInt.asUintN(64, flip === null ? at : at ^ (1n << BigInt(flip))), write }
}

export function flipEntries(image: Image, { tables }: Stage, flips: readonly EntryFlip[]): void {
  for (const { leaf, depth, bit } of flips) {
    const path = tables.paths[leaf % tables.paths.length]
    image.flip(path[depth % path.length], 1n << BigInt(bit))
  }
}

/** A structure with some of its bits turned over, counted through all its words. */
export function flipBits(words: readonly bigint[], bits: readonly number[]): bigint[] {
  return words.map((word, index) => word ^ bitsOf(bits.filter(bit => bit >> 6 === index)))
}

export function bitsOf(flips: readonly number[]): bigint {
  return flips.reduce((bits, bit) => bits ^ (1n << BigInt(bit & 63)), 0n)
}
