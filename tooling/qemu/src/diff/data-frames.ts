/** The data that translations lead to: each word says where it stands, and what a device wrote is found again. */

import { TEST_WORD } from "../machine/test-device.ts"
import { FRAME_BYTES } from "./places.ts"
import type { Answer } from "./script.ts"

/** High bits of a word of a frame, and of a word that a device writes. */
const PATTERN = 0xd000_0000
const TAG = 0xe000_0000
/** Above all of them: a hundred rounds of as many devices as a machine has. */
const TAGS = 0x1_0000
const WORDS = FRAME_BYTES / 4

/** A word that device `device` writes in round `round`. */
export function tagOf(device: number, round: number): number {
  return TAG + round * 0x100 + device
}

/** A frame as it stands before anything is written to it. */
export function framePattern(index: number): Uint8Array {
  const words = Uint32Array.from({ length: WORDS }, (_, word) => PATTERN + index * WORDS + word)
  return new Uint8Array(words.buffer)
}

/** What a device that read this word has read. */
export function answerOfRead(frames: readonly number[], value: number): Answer {
  // Where nothing answers, some buses give zeros and PCI gives ones. Outside of the frames a device may have written
  // before, in this case or in an earlier one.
  const isWritten = value === TEST_WORD || (value >= TAG && value < TAG + TAGS)
  if (value === 0 || value === 0xffff_ffff || isWritten) return { kind: "refused" }
  const index = value - PATTERN
  if (index < 0 || index >= frames.length * WORDS) return { kind: "elsewhere", value }
  return { kind: "landed", address: frames[Math.floor(index / WORDS)] + (index % WORDS) * 4 }
}

/** Where a tag stands in frames that were read back, or null. */
export function findTag(
  frames: readonly number[],
  contents: readonly Uint8Array[],
  tag: number,
): number | null {
  const needle = Buffer.alloc(4)
  needle.writeUInt32LE(tag)
  for (const [index, content] of contents.entries()) {
    const at = Buffer.from(content.buffer, content.byteOffset, content.length).indexOf(needle)
    if (at >= 0) return frames[index] + at
  }
  return null
}

/** The word that stands at an address of a frame before anything is written. */
export function patternAt(frames: readonly number[], address: number): number {
  const index = frames.findIndex(base => address >= base && address < base + FRAME_BYTES)
  return PATTERN + index * WORDS + (address - frames[index]) / 4
}
