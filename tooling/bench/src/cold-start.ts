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

/**
 * The goal was set against walks without IOTLB. V8 compiles a function when it is first called, unless told otherwise:
 * with `--no-lazy` the price of that is paid when modules load, as in a process that starts from a snapshot.
 */
export function coldStartQuantities(): QuantityCase[] {
  return BENCH_VENDORS.flatMap(({ key, nested }) => [
    {
      what: "first 1,000 transactions, no IOTLB, compiled when loaded",
      subject: nested.name,
      unit: "ms in a cold process",
      limit: 0.7,
      measure: () => fastest(start(["--no-lazy", COLD_PROCESS, key, "no-iotlb"])),
    },
    {
      what: "first 1,000 transactions, all caches, compiled when called",
      subject: nested.name,
      unit: "ms in a cold process",
      limit: null,
      measure: () => fastest(start([COLD_PROCESS, key])),
    },
  ])
}

/** The wall clock counts other jobs of the machine, CPU time other threads of the process: the lesser of both, and the least of all. */
export function fastest(starts: readonly ColdStart[]): number {
  return Math.min(...starts.map(({ ms, cpuMs }) => Math.min(ms, cpuMs)))
}

function start(args: readonly string[]): ColdStart[] {
  return Array.from({ length: PROCESSES }, () =>
    readColdStart(execFileSync(process.execPath, args, { encoding: "utf8" })),
  )
}

/** @throws Error when the process printed something else */
export function readColdStart(text: string): ColdStart {
  const value: unknown = JSON.parse(text)
  const { ms, cpuMs } = (value ?? {}) as { ms?: unknown; cpuMs?: unknown }
  if (typeof ms !== "number" || typeof cpuMs !== "number") throw new Error(`not two times: ${text}`)
  return { ms, cpuMs }
}
