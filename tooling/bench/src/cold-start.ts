/** The first transactions of a process, before V8 has compiled anything. */
import { execFileSync } from "node:child_process"
import { fileURLToPath } from "node:url"
import { BENCH_VENDORS } from "./machines.ts"
import type { QuantityCase } from "./quantity.ts"

const PROCESSES = 9
const COLD_PROCESS = fileURLToPath(new URL("./cold-process.ts", import.meta.url))

export interface ColdStart {
  /** By the clock on the wall. */
  readonly ms: number
  /** Of all threads of the process: V8 compiles beside the one that runs. */
  readonly cpuMs: number
}

export function coldStartQuantities(): QuantityCase[] {
  return BENCH_VENDORS.map(({ key, nested }) => ({
    what: "first 1,000 transactions",
    subject: nested.name,
    unit: "ms in a cold process",
    limit: 0.7,
    measure: () => fastest(Array.from({ length: PROCESSES }, () => runProcess(key))),
  }))
}

/** The wall clock counts other jobs of the machine, CPU time other threads of the process: the lesser of both, and the least of all. */
export function fastest(starts: readonly ColdStart[]): number {
  return Math.min(...starts.map(({ ms, cpuMs }) => Math.min(ms, cpuMs)))
}

function runProcess(vendor: string): ColdStart {
  const text = execFileSync(process.execPath, [COLD_PROCESS, vendor], { encoding: "utf8" })
  return readColdStart(text)
}

/** @throws Error when the process printed something else */
export function readColdStart(text: string): ColdStart {
  const value: unknown = JSON.parse(text)
  const { ms, cpuMs } = (value ?? {}) as { ms?: unknown; cpuMs?: unknown }
  if (typeof ms !== "number" || typeof cpuMs !== "number") throw new Error(`not two times: ${text}`)
  return { ms, cpuMs }
}
