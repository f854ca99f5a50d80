/** What stays of a boot for whoever wants to look: RAM, disk, console, transcript. */
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import type { WorkFolder } from "@iommu/qemu"
import type { BootRun } from "./boot.ts"
import type { TranscriptEntry } from "./watch/transcript.ts"

/** A folder like those of {@link WorkFolder}, that stays. */
export function keptFolder(path: string): WorkFolder {
  mkdirSync(path, { recursive: true })
  return { path, file: name => join(path, name), remove: () => undefined }
}

/** Beside `ram`, which QEMU had. */
export function keepRun({ console, hardware }: BootRun, folder: WorkFolder): void {
  writeFileSync(folder.file("disk"), hardware.disk.bytes)
  writeFileSync(folder.file("console.txt"), `${console.lines.join("\n")}\n`)
  writeFileSync(folder.file("transcript.txt"), `${hardware.transcript.entries.map(entryText).join("\n")}\n`)
}

function entryText(entry: TranscriptEntry): string {
  if (entry.kind === "write") return `write ${entry.register} = 0x${entry.value.toString(16)}`
  const fields = Object.entries(entry.fields).map(([name, value]) => `${name}=0x${value.toString(16)}`)
  return `command ${entry.command} ${fields.join(" ")}`
}
