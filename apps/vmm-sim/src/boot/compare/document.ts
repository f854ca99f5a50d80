/** The page of differences between Linux's drivers and ours, out of recorded boots. */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import * as v from "valibot"
import { DISK_ID } from "../boot.ts"
import { PLATFORMS } from "../platforms.ts"
import { type BringUpDifference, compareBringUps, ownBringUpLines } from "./bring-ups.ts"
import type { DifferenceLine } from "./difference.ts"
import { explain, explanationsOf } from "./explanations.ts"

const FOLDER = join(import.meta.dirname, "../../../fixtures/linux-6.1")

/** Boots of which the kernel's transcript is kept, by vendor and mode. */
export const RECORDED = [
  ["vtd", "legacy"],
  ["vtd", "scalable"],
  ["amd", "v1"],
  ["smmuv3", "s1"],
] as const

const RECORD = v.object({
  machine: v.string(),
  boot: v.string(),
  driver: v.array(v.string()),
  start: v.array(v.string()),
  unmap: v.array(v.string()),
})

export interface RecordedDifference {
  readonly vendor: string
  readonly title: string
  readonly difference: BringUpDifference
}

/** Linux as it was recorded, against our own driver as it is now. */
export function recordedDifference(vendor: string, modeName: string): RecordedDifference {
  const platform = PLATFORMS[vendor]
  const mode = platform?.modes[modeName]
  if (platform === undefined || mode === undefined) throw new Error(`no boot ${vendor} ${modeName}`)
  const linux = v.parse(RECORD, JSON.parse(readFileSync(join(FOLDER, `${vendor}-${modeName}.json`), "utf8")))
  return {
    vendor,
    title: `${vendor}, ${linux.boot}: ${linux.machine}`,
    difference: compareBringUps(linux, ownBringUpLines(platform, mode, DISK_ID)),
  }
}

const HEAD = `# Linux's drivers and ours, command by command

What Debian's kernel wrote to a model to bring it up and put a disk on a domain, recorded by
\`vmm-sim boot --policy strict --transcript\`, beside what our own driver writes to the same model for the same end.
Addresses, numbers that a driver chose, and slots of queues are left out; a line that repeats the one before stands
once. \`L\`: Linux alone; \`O\`: our own driver alone. The number is that of the reason below.

Generated from \`apps/vmm-sim/fixtures/linux-6.1\`; \`vitest run apps/vmm-sim/test/boot -u\` writes it anew.`

export function transcriptDocument(): string {
  const sections = RECORDED.map(([vendor, mode]) => section(recordedDifference(vendor, mode)))
  return `${[HEAD, ...sections].join("\n\n")}\n`
}

function section({ vendor, title, difference }: RecordedDifference): string {
  const lines = [
    "until the first translated DMA:",
    ...difference.start.map(line => lineText(vendor, line)),
    "",
    "for the first unmap:",
    ...difference.unmap.map(line => lineText(vendor, line)),
  ]
  const used = [...difference.start, ...difference.unmap].map(line => explain(vendor, line))
  const reasons = explanationsOf(vendor).flatMap((reason, n) =>
    used.includes(reason) ? [`- **${n + 1}** ${reason.why}`] : [],
  )
  return [`## ${title}`, ["```", ...lines, "```"].join("\n"), reasons.join("\n")].join("\n\n")
}

const MARKS = { both: " ", first: "L", second: "O" } as const

function lineText(vendor: string, line: DifferenceLine): string {
  const reason = explain(vendor, line)
  const number = reason === null ? "" : String(explanationsOf(vendor).indexOf(reason) + 1)
  return `${MARKS[line.side]} ${number.padStart(2)} ${line.text}`
}
