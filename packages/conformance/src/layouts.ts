/** Bit positions of a vendor's structures against what its book, or an independent program, says of them. */
import type { BitLayout, FieldSpecs } from "@iommu/core"
import { assertEqual, assertTrue } from "./assert.ts"
import type { TestRunner } from "./target.ts"

/** All fields of one layout as somebody else has them; bits count through all words: `"V 0, Config 3:1"`. */
export interface LayoutVector {
  /** The layout's name among the exports of the vendor's files. */
  readonly layout: string
  /** Where the positions were read. */
  readonly from: string
  readonly fields: string
}

/** Masks of single words, by the name of the constant: `"CR0_SMMUEN 0, CR0_VMW 8:6"`. */
export interface MaskVector {
  readonly from: string
  readonly masks: string
}

type Exports = Readonly<Record<string, unknown>>

/** Defines a test per layout, and one that no layout of the files is without a vector. */
export function defineLayouts(
  runner: TestRunner,
  files: readonly Exports[],
  vectors: readonly LayoutVector[],
): void {
  const layouts = new Map(files.flatMap(Object.entries).filter(isLayout))
  runner.describe("bit layouts", () => {
    runner.it("have a vector each", () => {
      const names = vectors.map(({ layout }) => layout)
      assertEqual(names.toSorted().join(" "), [...layouts.keys()].toSorted().join(" "), "layouts")
    })
    for (const { layout, from, fields } of vectors) {
      runner.it(`${layout} is as ${from} has it`, () => {
        const specs = Object.entries(layouts.get(layout)?.fields ?? {})
        const actual = specs.map(([field, [msb, lsb]]) => `${field} ${msb === lsb ? msb : `${msb}:${lsb}`}`)
        assertEqual(actual.toSorted().join(", "), fields.split(", ").toSorted().join(", "), layout)
      })
    }
  })
}

/** Defines a test per mask. */
export function defineMasks(
  runner: TestRunner,
  files: readonly Exports[],
  vectors: readonly MaskVector[],
): void {
  const constants = new Map(files.flatMap(Object.entries))
  runner.describe("masks", () => {
    for (const { from, masks } of vectors) {
      for (const mask of masks.split(", ")) {
        runner.it(`${mask} (${from})`, () => {
          const [name, bits] = mask.split(" ") as [string, string]
          const [msb, lsb = msb] = bits.split(":").map(Number) as [number, number?]
          const value = constants.get(name)
          assertTrue(typeof value === "number" || typeof value === "bigint", `${name} is a constant`)
          const wanted = ((1n << BigInt(msb - lsb + 1)) - 1n) << BigInt(lsb)
          assertEqual(BigInt.asUintN(typeof value === "number" ? 32 : 64, BigInt(value)), wanted, name)
        })
      }
    }
  })
}

function isLayout(entry: [string, unknown]): entry is [string, BitLayout<FieldSpecs>] {
  const [, value] = entry
  return typeof value === "object" && value !== null && "fields" in value && "reserved" in value
}
