/** Our drivers against what Linux's were seen to write: every difference has a reason. */
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { difference } from "../../src/boot/compare/difference.ts"
import { RECORDED, recordedDifference, transcriptDocument } from "../../src/boot/compare/document.ts"
import { explain, explanationsOf } from "../../src/boot/compare/explanations.ts"
import { normalLines } from "../../src/boot/compare/normal-form.ts"

describe("bring-up, Linux's and ours", () => {
  const all = RECORDED.map(([vendor, mode]) => recordedDifference(vendor, mode))

  it.each(all.map(one => [one.title, one] as const))("%s: every difference is explained", (_title, one) => {
    const lines = [...one.difference.start, ...one.difference.unmap]
    expect(lines.filter(line => line.side !== "both" && explain(one.vendor, line) === null)).toEqual([])
    expect(
      lines.filter(({ side }) => side === "both").length,
      "they have something in common",
    ).toBeGreaterThan(3)
  })

  it.each(["vtd", "amd", "smmuv3"])("%s: every explanation is of a difference that is there", vendor => {
    const used = all
      .filter(one => one.vendor === vendor)
      .flatMap(one => [...one.difference.start, ...one.difference.unmap])
      .map(line => explain(vendor, line))
    expect(explanationsOf(vendor).filter(reason => !used.includes(reason))).toEqual([])
  })

  it("stands in the docs as it is", async () => {
    await expect(transcriptDocument()).toMatchFileSnapshot("../../../../docs/boot-transcripts.md")
  })
})

describe("a difference", () => {
  const lines = fc.array(fc.constantFrom("a", "b", "c", "d"), { maxLength: 12 })

  it("has both lists in it, in order, and the most in common", () => {
    fc.assert(
      fc.property(lines, lines, (first, second) => {
        const all = difference(first, second)
        expect(all.filter(({ side }) => side !== "second").map(({ text }) => text)).toEqual(first)
        expect(all.filter(({ side }) => side !== "first").map(({ text }) => text)).toEqual(second)
        if (first.join() === second.join()) expect(all.every(({ side }) => side === "both")).toBe(true)
      }),
      { seed: 20_26, numRuns: 300 },
    )
    expect(difference(["a", "b", "c"], ["b", "c", "d"]).map(({ side, text }) => `${side} ${text}`)).toEqual([
      "first a",
      "both b",
      "both c",
      "second d",
    ])
  })
})

describe("the normal form", () => {
  const options = { tailRegister: "TAIL", addressRegisters: new Set(["BASE"]) }
  const write = (register: string, value: bigint) => ({ kind: "write" as const, register, value })

  it("leaves out places and turns, and keeps flags", () => {
    expect(
      normalLines(
        [
          write("BASE", 0x1234_5001n),
          write("BASE (upper half)", 0x900_0000n),
          write("TAIL", 0x20n),
          {
            kind: "command",
            command: "INV",
            fields: { Opcode: 3n, DomainID: 7n, S: 1n, Address: 0x12345n, PDE: 0n },
            words: [],
          },
          { kind: "command", command: "INV", fields: { Address: 0x7_ffff_ffff_ffffn }, words: [] },
          write("CONTROL", 1n),
          write("CONTROL", 1n),
        ],
        options,
      ),
    ).toEqual([
      "BASE = page | 0x900000000000001",
      "INV DomainID=some S=0x1 Address=page",
      "INV Address=all",
      "CONTROL = 0x1",
    ])
  })
})
