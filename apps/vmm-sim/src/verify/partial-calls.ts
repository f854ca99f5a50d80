/**
 * What each recorded io-pgtable call did, from what it was asked.
 *
 * Linux's `map_pages` and `unmap_pages` may stop at the end of a table and say so; the caller then repeats the call
 * for the rest. A trace of the calls has both, the first one with the count that was asked for. So a call whose end
 * is asked for again, with nothing undone between, was cut short there.
 */
import type { TableCall } from "../capture/ops-file.ts"

/** Calls on other processors can come between a call and its repetition. */
const CALLS_LOOKED_BACK = 16

export function cutPartialCalls(calls: readonly TableCall[]): TableCall[] {
  const done: TableCall[] = []
  const recent = new Map<string, number[]>()
  for (const call of calls) {
    const indexes = recent.get(call.domain) ?? []
    const first = indexes.findLast(index => overlaps(done[index], call))
    if (first !== undefined && isRest(call, done[first])) {
      const cut = done[first]
      done[first] = { ...cut, count: (call.iova - cut.iova) / cut.pageSize }
    }
    recent.set(call.domain, [...indexes, done.length].slice(-CALLS_LOOKED_BACK))
    done.push(call)
  }
  return done
}

function isRest(rest: TableCall, whole: TableCall): boolean {
  if (rest.kind !== whole.kind || rest.pageSize !== whole.pageSize) return false
  if (rest.iova <= whole.iova || endOf(rest) !== endOf(whole)) return false
  if (rest.kind === "unmap" || whole.kind === "unmap") return true
  return rest.prot === whole.prot && rest.pa - whole.pa === rest.iova - whole.iova
}

function overlaps(a: TableCall, b: TableCall): boolean {
  return a.iova < endOf(b) && b.iova < endOf(a)
}

function endOf({ iova, pageSize, count }: TableCall): bigint {
  return iova + pageSize * count
}
