/** Linux's driver and ours, command by command. */

import type { BootMode, BootPlatform } from "../platform.ts"
import type { Transcript } from "../watch/transcript.ts"
import { registerNameOf } from "../watch/transcript.ts"
import { type DifferenceLine, difference } from "./difference.ts"
import { normalLines } from "./normal-form.ts"
import { type BringUp, ownBringUp } from "./own-bring-up.ts"

/** In normal form: what was said until the first translated DMA, and for the first unmap. */
export interface BringUpLines {
  readonly start: readonly string[]
  readonly unmap: readonly string[]
}

export interface BringUpDifference {
  readonly start: readonly DifferenceLine[]
  readonly unmap: readonly DifferenceLine[]
}

/** Linux's, out of the transcript of a boot. */
export function linuxBringUp(platform: BootPlatform, transcript: Transcript): BringUpLines {
  const { entries, bringUpEntries } = transcript
  const later = entries.slice(bringUpEntries)
  const end = later.findIndex(
    entry => entry.kind === "command" && platform.bringUp.waits.includes(entry.command),
  )
  return linesOf(platform, { start: entries.slice(0, bringUpEntries), unmap: later.slice(0, end + 1) })
}

export function ownBringUpLines(platform: BootPlatform, mode: BootMode, device: number): BringUpLines {
  return linesOf(platform, ownBringUp(platform, mode, device))
}

/** "first" is Linux, "second" our own driver. */
export function compareBringUps(linux: BringUpLines, own: BringUpLines): BringUpDifference {
  return { start: difference(linux.start, own.start), unmap: difference(linux.unmap, own.unmap) }
}

function linesOf(platform: BootPlatform, { start, unmap }: BringUp): BringUpLines {
  const options = {
    tailRegister: registerNameOf(platform.registers.specs, platform.commandQueue.tailRegister),
    addressRegisters: new Set(platform.bringUp.addressRegisters),
  }
  return { start: normalLines(start, options), unmap: normalLines(unmap, options) }
}

const MARKS = { both: "  ", first: "L ", second: "O " } as const

/** For people: `L` stands before what Linux alone says, `O` before what our own driver alone says. */
export function differenceText({ start, unmap }: BringUpDifference): string {
  const text = (lines: readonly DifferenceLine[]): string[] =>
    lines.map(({ side, text }) => `${MARKS[side]}${text}`)
  return ["until the first DMA:", ...text(start), "for the first unmap:", ...text(unmap)].join("\n")
}
