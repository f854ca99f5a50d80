/** Lines of words among others, and what is wrong with them. */
import { describe, expect, it } from "vitest"
import { DECODERS } from "../../src/decode/decoders.ts"
import { findRecords, NoRecordError } from "../../src/decode/input.ts"
import { recordOf, wordsOf } from "../../src/decode/words.ts"

const decoderOf = (vendor: string) => {
  const decoder = DECODERS[vendor]
  if (decoder === undefined) throw new Error(`no ${vendor}`)
  return decoder
}
const find = (vendor: string, lines: readonly string[]) => findRecords(lines, [decoderOf(vendor)]).records

describe("words", () => {
  it.each([
    ["0x1 ff, 0XAB\t7", [1n, 0xffn, 0xabn, 7n]],
    ["ffffffffffffffff", [0xffff_ffff_ffff_ffffn]],
    ["0x10000000000000000", null],
    ["0x", null],
    ["1 -2", null],
    ["", null],
  ])("%s", (text, words) => {
    expect(wordsOf(text)).toEqual(words)
  })

  it("of 32 bits are joined, the low one first", () => {
    expect(recordOf([0x1111_1111n, 0x2222_2222n, 3n, 4n], 16)).toEqual([
      0x2222_2222_1111_1111n,
      0x4_0000_0003n,
    ])
    expect(recordOf([1n, 2n], 16)).toEqual([1n, 2n])
    expect(recordOf([1n, 2n, 3n], 16)).toBeNull()
    expect(recordOf([1n, 2n, 3n, 1n << 32n], 16)).toBeNull()
  })
})

describe("lines of words", () => {
  it("are records where they are whole, in a line or below each other", () => {
    const records = find("amd", [
      "a comment",
      "0x2000000000000100 0xfc189000",
      "0x2000000000000100",
      "0xfc189000",
      "x",
    ])
    expect(records).toMatchObject([{ words: [0x2000_0000_0000_0100n, 0xfc18_9000n], line: 1, times: 2 }])
  })

  it.each([
    [["1 2 3"], "line 1: 3 words; a record has 2 words of 64 bits or 4 of 32, the low one first"],
    [["1 2", "3"], "line 2: the record ends after 1 words"],
    [["1", "text"], "line 1: the record ends after 1 words"],
  ])("%j are none", (lines, message) => {
    expect(() => find("vtd", lines)).toThrow(new NoRecordError(message))
  })

  it("need a vendor, lines of a log do not", () => {
    expect(() => findRecords(["1 2"], Object.values(DECODERS))).toThrow("--vendor")
  })
})
