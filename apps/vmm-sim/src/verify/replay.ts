/** Replay of `ops.txt` through the vendor's driver: its leaves must be those of the dump. */
import { ACCESS_READ, ACCESS_WRITE, isIommuError, type PagingDomain } from "@iommu/core"
import type { Capture } from "../capture/load.ts"
import type { TableCall } from "../capture/ops-file.ts"
import { hex } from "./finding.ts"
import { type Leaf, readLeaves } from "./leaves.ts"
import type { Machine } from "./machine.ts"
import { cutPartialCalls } from "./partial-calls.ts"
import { ReplayHost } from "./replay-host.ts"
import type { Count, Difference } from "./verify.ts"

export interface ReplayResult {
  /** Leaves of every device, in the dump or in the driver's tables, and calls that the driver failed. */
  readonly count: Count
  readonly details: readonly Difference[]
}

/** Nothing is checked in a capture without `ops.txt`. */
export function checkReplay(capture: Capture, dump: Machine): ReplayResult {
  const count: Count = { checked: 0, agree: 0, explained: 0, differ: 0 }
  const details: Difference[] = []
  const check = (row: string, difference: string | null): void => {
    count.checked++
    if (difference === null) count.agree++
    else {
      count.differ++
      details.push({ table: "ops", row, differences: [difference], explainedBy: null })
    }
  }
  if (capture.ops === null) return { count, details }

  const host = new ReplayHost(capture, dump)
  for (const call of cutPartialCalls(capture.ops)) {
    const failure = attempt(() => apply(host.domain(call.domain), call))
    if (failure !== null) check(`ops.txt line ${call.line}`, failure)
  }
  for (const device of host.attachedDevices) {
    const expected = readLeaves(dump, device, capture.pages.length)
    const found = readLeaves(host, device, host.pagesInUse)
    for (const { iova, dumped, built } of pairLeaves(expected.leaves, found.leaves)) {
      const row = `ops.txt: leaf of device 0x${device.toString(16)}, iova ${hex(iova)}`
      check(
        row,
        leafText(dumped) === leafText(built) ? null : `must be ${leafText(dumped)}, is ${leafText(built)}`,
      )
    }
    if (!expected.complete || !found.complete) {
      check(`ops.txt: device 0x${device.toString(16)}`, "its tables have more leaves than can be read")
    }
  }
  return { count, details }
}

/** @returns what went wrong, or null */
function apply(domain: PagingDomain, call: TableCall): string | null {
  const bytes = call.pageSize * call.count
  if (call.kind === "map") {
    domain.map(call.iova, call.pa, bytes, call.prot)
    return null
  }
  const unmapped = domain.unmap(call.iova, bytes)
  return unmapped === bytes
    ? null
    : `must unmap ${hex(bytes)} bytes at ${hex(call.iova)}, unmaps ${hex(unmapped)}`
}

/** A call that the driver refuses is a difference; anything else that is thrown is a bug of ours. */
function attempt(run: () => string | null): string | null {
  try {
    return run()
  } catch (error) {
    if (isIommuError(error)) return error.message
    throw error
  }
}

interface LeafPair {
  readonly iova: bigint
  readonly dumped: Leaf | null
  readonly built: Leaf | null
}

function pairLeaves(dumped: readonly Leaf[], built: readonly Leaf[]): LeafPair[] {
  const pairs = new Map<bigint, LeafPair>()
  for (const leaf of dumped) pairs.set(leaf.iova, { iova: leaf.iova, dumped: leaf, built: null })
  for (const leaf of built) {
    pairs.set(leaf.iova, { iova: leaf.iova, dumped: pairs.get(leaf.iova)?.dumped ?? null, built: leaf })
  }
  return [...pairs.values()]
}

function leafText(leaf: Leaf | null): string {
  if (leaf === null) return "no leaf"
  const read = (leaf.allowed & ACCESS_READ) !== 0 ? "r" : "-"
  const write = (leaf.allowed & ACCESS_WRITE) !== 0 ? "w" : "-"
  return `${hex(leaf.pa)}+${hex(leaf.size)} ${read}${write}`
}
