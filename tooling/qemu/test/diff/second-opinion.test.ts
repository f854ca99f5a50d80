import { describe, expect, test } from "vitest"
import { sameAnswer } from "../../src/diff/compare.ts"
import type { Access, Answer, Observation, Round, Script } from "../../src/diff/script.ts"
import { withSecondOpinion } from "../../src/diff/second-opinion.ts"

const ACCESS: Access = { device: 1, iova: 0x1000n, write: false, asks: "place" }

function round(more: Partial<Round>): Round {
  return { stores: new Map(), writes: [], accesses: [ACCESS], reads: [], areas: [], acknowledge: [], ...more }
}

function scriptOf(...rounds: Round[]): Script {
  return { memory: new Map(), zeroed: [], bypass: [], rounds }
}

/** A model's view: what became of the one access of each round. */
function expecting(...answers: Answer[]): Observation {
  const rounds = answers.map(answer => ({ answers: [answer], registers: [], areas: [], faults: [null] }))
  return { rounds, changed: new Map() }
}

const LANDED: Answer = { kind: "landed", address: 0x2000 }

describe("a second opinion", () => {
  test("is asked for by a write of the twin of each device, after all that was there", () => {
    const setUp = round({ writes: [{ offset: 0, bytes: 4, value: 1n }] })
    const { rounds } = withSecondOpinion(scriptOf(setUp, round({})), 8, expecting(LANDED, LANDED))
    expect(rounds.slice(0, 2)).toEqual([setUp, round({})])
    const again = round({ accesses: [{ device: 9, iova: 0x1000n, write: true, asks: "passage" }] })
    expect(rounds.slice(2)).toEqual([again, again])
  })

  test("is of the memory that the last rounds were in", () => {
    const changed = round({ stores: new Map([[0x1000, 1n]]), accesses: [{ ...ACCESS, iova: 0x2000n }] })
    const { rounds } = withSecondOpinion(scriptOf(round({}), changed), 4, expecting(LANDED, LANDED))
    expect(rounds.length).toBe(3)
    expect(rounds[2].accesses).toEqual([{ device: 5, iova: 0x2000n, write: true, asks: "passage" }])
  })

  test("is not asked for where a write would change the case", () => {
    const elsewhere = expecting({ kind: "elsewhere", value: 1 })
    expect(withSecondOpinion(scriptOf(round({})), 8, elsewhere).rounds[1].accesses).toEqual([])
    // A write that the model let through, and that is in no frame.
    const lost = expecting({ kind: "refused" })
    expect(withSecondOpinion(scriptOf(round({})), 8, lost).rounds[1].accesses).toEqual([])
  })
})

test("an access that was let through, to wherever, is none that was refused", () => {
  expect(sameAnswer({ kind: "passed" }, { kind: "passed" })).toBe(true)
  expect(sameAnswer({ kind: "passed" }, { kind: "refused" })).toBe(false)
  expect(sameAnswer({ kind: "refused" }, { kind: "passed" })).toBe(false)
  // QEMU calls a write to where there is nothing a failure, whoever sent it there.
  expect(sameAnswer({ kind: "outside" }, { kind: "refused" })).toBe(true)
})
