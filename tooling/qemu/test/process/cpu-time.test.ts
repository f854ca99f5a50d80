import { expect, test } from "vitest"
import { cpuSecondsOf } from "../../src/process/cpu-time.ts"

test("a process that works uses CPU, as much as it says itself", () => {
  const before = cpuSecondsOf(process.pid)
  const until = process.cpuUsage().user + 300_000
  while (process.cpuUsage().user < until);
  const used = cpuSecondsOf(process.pid) - before
  expect(used).toBeGreaterThan(0.2)
  const { user, system } = process.cpuUsage()
  // The kernel's count and getrusage are one count, in ticks of 10 ms.
  expect(cpuSecondsOf(process.pid)).toBeCloseTo((user + system) / 1e6, 0)
})

test("of a process that is not there, what counts is the clock on the wall", () => {
  const before = cpuSecondsOf(0)
  expect(cpuSecondsOf(0)).toBeGreaterThanOrEqual(before)
})
