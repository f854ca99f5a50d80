/** How long a process has worked: on a busy machine that says more than the clock on the wall. */
import { readFileSync } from "node:fs"

/** Linux counts in these for everybody who reads /proc. */
const TICKS_A_SECOND = 100
/** Of what follows the program's name in /proc/PID/stat: utime and stime. proc(5). */
const UTIME = 11
const STIME = 12

/** Seconds of CPU that a process has used; where there is no /proc, seconds that this one has lived. */
export function cpuSecondsOf(pid: number): number {
  let stat: string
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "latin1")
  } catch {
    return performance.now() / 1000
  }
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
  return (Number(fields[UTIME]) + Number(fields[STIME])) / TICKS_A_SECOND
}
