import { describe, expect, it } from "vitest"
import { parseOps } from "../src/capture/ops-file.ts"
import { cutPartialCalls } from "../src/verify/partial-calls.ts"

/** Counts of the calls after cutting. */
function counts(...lines: string[]): number[] {
  const calls = parseOps(new TextEncoder().encode(lines.join("\n")), "ops.txt")
  return cutPartialCalls(calls).map(({ count }) => Number(count))
}

describe("a call that stopped at the end of a table", () => {
  // The first three are lines of a real trace: 512 pages, of which 509 fit into the table, and the rest.
  it("is cut where its repetition starts", () => {
    expect(
      counts(
        "m dom6 1000603000 46600000 1000 512 7",
        "m dom6 1000800000 467fd000 1000 3 7",
        "m dom6 1000a200000 46800000 200000 1 5",
      ),
    ).toEqual([509, 3, 1])
  })

  it("is cut by each repetition in turn, whatever other domains do between", () => {
    expect(
      counts(
        "m a 1ff000 40000000 1000 600 3",
        "m b 200000 0 1000 1 3",
        "m a 200000 40001000 1000 599 3",
        "m a 400000 40201000 1000 87 3",
      ),
    ).toEqual([1, 1, 512, 87])
  })

  it("can be an unmap", () => {
    expect(counts("u a 1ff000 1000 3", "u a 200000 1000 2")).toEqual([1, 2])
  })

  it.each([
    ["another page", "m a 200000 50000000 1000 2 3"],
    ["another permission", "m a 200000 40001000 1000 2 1"],
    ["another end", "m a 200000 40001000 1000 1 3"],
    ["another domain", "m b 200000 40001000 1000 2 3"],
    ["the same start", "m a 1ff000 40000000 1000 3 3"],
    ["another kind", "u a 200000 1000 2"],
  ])("is not one that is followed by %s", (_, next) => {
    expect(counts("m a 1ff000 40000000 1000 3 3", next)[0]).toBe(3)
  })

  it("is not one that was undone before its part was mapped again", () => {
    expect(
      counts("m a 1ff000 40000000 1000 3 3", "u a 200000 1000 2", "m a 200000 40001000 1000 2 3"),
    ).toEqual([3, 2, 2])
  })
})
