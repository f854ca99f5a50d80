import fc from "fast-check"
import { describe, expect, it } from "vitest"
import type { Capture } from "../src/capture/load.ts"
import { readLeaves } from "../src/verify/leaves.ts"
import { Machine } from "../src/verify/machine.ts"
import { TABLES, verifyCapture } from "../src/verify/verify.ts"
import { fixture, fixtureNames } from "./capture-folder.ts"

/** Whatever the pages and registers of a capture hold, checking it ends with every row counted. */
function checkEnds(capture: Capture): void {
  const rows = {
    translations: capture.translations.slice(0, 10),
    unmapped: capture.unmapped.slice(0, 5),
    faults: capture.faults.slice(0, 10),
    variants: capture.variants.slice(0, 5),
  }
  const { counts } = verifyCapture({ ...capture, ...rows, ops: null })
  for (const table of TABLES) {
    const { checked, agree, explained, differ } = counts[table]
    expect(agree + explained + differ).toBe(checked)
  }
}

describe.each(fixtureNames)("%s with hostile contents", name => {
  const capture = fixture(name)
  const names = Object.keys(capture.registers)

  it("of pages: words changed anywhere", () => {
    const word = fc.tuple(fc.nat(capture.data.length / 8 - 1), fc.bigInt(0n, (1n << 64n) - 1n))
    fc.assert(
      fc.property(fc.array(word, { minLength: 1, maxLength: 200 }), words => {
        const data = capture.data.slice()
        const view = new DataView(data.buffer)
        for (const [index, value] of words) view.setBigUint64(index * 8, value, true)
        checkEnds({ ...capture, data })
      }),
      { seed: 11, numRuns: 12 },
    )
  })

  it("of pages: every word the same", () => {
    // Zeros, ones, and entries that point back at the tables they are in.
    for (const value of [
      0n,
      (1n << 64n) - 1n,
      capture.pages[3] | 3n,
      capture.pages[5] | 0x6000_0000_0000_0e01n,
    ]) {
      const words = new BigUint64Array(capture.data.length / 8).fill(value)
      checkEnds({ ...capture, data: new Uint8Array(words.buffer) })
    }
  })

  it("of registers", () => {
    const values = fc.array(fc.bigInt(0n, (1n << 64n) - 1n), {
      minLength: names.length,
      maxLength: names.length,
    })
    fc.assert(
      fc.property(values, fc.nat(), (random, keep) => {
        const registers = names.map((register, index) => [
          register,
          (keep >> (index % 31)) & 1 ? capture.registers[register] : random[index],
        ])
        checkEnds({ ...capture, registers: Object.fromEntries(registers) })
      }),
      { seed: 12, numRuns: 12 },
    )
  })
})

describe("leaves of tables that refer to themselves", () => {
  it("are read until there are more than the tables can hold", () => {
    // Root, and every table below it: the AMD v1 table whose entries all point at itself, one level down.
    const capture = fixture("amd-v1")
    const device = capture.translations[0].device
    const machine = new Machine(capture)
    const steps: bigint[] = []
    machine.model.trace = step => steps.push(step.table)
    machine.read(device, capture.translations[0].iova)
    machine.model.trace = null
    const root = steps[1]
    for (let index = 0n; index < 512n; index++) {
      const level = index % 4n
      machine.memory.write64(root + index * 8n, root | 0x6000_0000_0000_0001n | (level << 9n))
    }
    const { complete, leaves } = readLeaves(machine, device, 20)
    expect(complete).toBe(false)
    expect(leaves.length).toBeGreaterThan(1000)
  })
})
