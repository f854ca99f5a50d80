import { describe, expect, test } from "vitest"
import { answerOfRead, findTag, framePattern, patternAt, tagOf } from "../../src/diff/data-frames.ts"

const FRAMES = [0x10_0000, 0x40_0000]

function wordAt(bytes: Uint8Array, at: number): number {
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(at, true)
}

describe("data frames", () => {
  test("say of each word where it stands", () => {
    for (const [index, base] of FRAMES.entries()) {
      for (const offset of [0, 4, 0x8000, 0xfffc]) {
        const value = wordAt(framePattern(index), offset)
        expect(answerOfRead(FRAMES, value)).toEqual({ kind: "landed", address: base + offset })
        expect(patternAt(FRAMES, base + offset)).toBe(value)
      }
    }
  })

  test("know what is none of their words", () => {
    for (const bus of [0, 0xffff_ffff]) expect(answerOfRead(FRAMES, bus)).toEqual({ kind: "refused" })
    const beyond = wordAt(framePattern(FRAMES.length), 0)
    expect(answerOfRead(FRAMES, beyond)).toEqual({ kind: "elsewhere", value: beyond })
    expect(answerOfRead(FRAMES, 0x1234_5679)).toEqual({ kind: "elsewhere", value: 0x1234_5679 })
  })

  test("do not tell what a device has written elsewhere from nothing", () => {
    for (const word of [tagOf(0, 0), tagOf(15, 15), 0x1234_5678]) {
      expect(answerOfRead(FRAMES, word)).toEqual({ kind: "refused" })
    }
  })

  test("give the place of what a device wrote, by device and round", () => {
    const contents = [framePattern(0), framePattern(1)]
    new DataView(contents[1].buffer).setUint32(0x1230, tagOf(3, 1), true)
    expect(findTag(FRAMES, contents, tagOf(3, 1))).toBe(0x40_1230)
    expect(findTag(FRAMES, contents, tagOf(3, 0))).toBeNull()
    expect(findTag(FRAMES, contents, tagOf(1, 3))).toBeNull()
  })
})
