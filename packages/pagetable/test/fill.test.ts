import { hi32, lo32 } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import {
  doubleStep,
  fillEmpty,
  isFiniteDouble,
  skipEmpty,
  skipPlain,
  skipPresent,
  toDouble,
} from "../src/fill.ts"

const ENTRIES = 64
/** Entries as formats make them: bit 63 clear, bits 62:52 not all ones. */
const entry = fc.bigInt({ min: 1n, max: (1n << 63n) - 1n }).filter(isFiniteDouble)

function memory(): { doubles: Float64Array; words: Int32Array; big: BigUint64Array } {
  const buffer = new ArrayBuffer(ENTRIES * 8)
  return {
    doubles: new Float64Array(buffer),
    words: new Int32Array(buffer),
    big: new BigUint64Array(buffer),
  }
}

describe("fillEmpty", () => {
  it("writes what adding 64-bit integers writes", () => {
    const steps = fc.integer({ min: 12, max: 42 })
    const range = fc.tuple(fc.nat(ENTRIES - 1), fc.nat(ENTRIES))
    const property = fc.property(entry, steps, range, (first, stepLg2, [at, wanted]) => {
      const step = 1n << BigInt(stepLg2)
      const count = Math.min(wanted, ENTRIES - at)
      const last = first + step * BigInt(count)
      if (last >> 52n !== first >> 52n) return
      const { doubles, big } = memory()
      const bits: [number, number] = [hi32(first), lo32(first)]
      expect(fillEmpty(doubles, at, count, toDouble(...bits), doubleStep(...bits, stepLg2))).toBe(count)
      const expected = Array.from({ length: ENTRIES }, (_, n) =>
        n >= at && n < at + count ? first + step * BigInt(n - at) : 0n,
      )
      expect([...big]).toEqual(expected)
    })
    fc.assert(property, { seed: 9, numRuns: 3000 })
  })

  it("stops before the first entry that is not zero, wherever it stands", () => {
    for (let taken = 0; taken < 20; taken++) {
      const { doubles, big } = memory()
      big[taken] = 0x7000_0000_0000_0001n
      expect(fillEmpty(doubles, 0, 20, toDouble(0, 0x1003), doubleStep(0, 0x1003, 12))).toBe(taken)
      expect(big[taken]).toBe(0x7000_0000_0000_0001n)
      expect([...big.subarray(taken + 1)].every(bits => bits === 0n)).toBe(true)
    }
  })

  it("knows which entries are no such doubles", () => {
    expect(isFiniteDouble(0x7ff0_0000_0000_0001n)).toBe(false)
    expect(isFiniteDouble(0x8000_0000_0000_0001n)).toBe(false)
    expect(isFiniteDouble(0x7fe0_0000_0000_0001n)).toBe(true)
  })
})

describe("scans", () => {
  const words = fc.array(fc.constantFrom(0n, 1n, 1n, 1n, 2n, 3n, 0x203n, (1n << 52n) | 1n), {
    minLength: ENTRIES,
    maxLength: ENTRIES,
  })
  const naive = (list: readonly bigint[], at: number, holds: (bits: bigint) => boolean): number => {
    const found = list.findIndex((bits, n) => n >= at && !holds(bits))
    return found < 0 ? ENTRIES : found
  }

  it("stop where an entry-by-entry scan stops", () => {
    const property = fc.property(words, fc.nat(ENTRIES), (list, at) => {
      const { doubles, words: view, big } = memory()
      big.set(list)
      expect(skipEmpty(doubles, at, ENTRIES)).toBe(naive(list, at, bits => bits === 0n))
      expect(skipPresent(view, at, ENTRIES, 3)).toBe(naive(list, at, bits => (bits & 3n) !== 0n))
      const isPlain = (bits: bigint): boolean => (bits & 1n) !== 0n && (bits & ((1n << 52n) | 0x200n)) === 0n
      expect(skipPlain(view, at, ENTRIES, 1, 1 << 20, 0x200)).toBe(naive(list, at, isPlain))
    })
    fc.assert(property, { seed: 10, numRuns: 1500 })
  })
})
