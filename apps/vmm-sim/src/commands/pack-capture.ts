import { writeFileSync } from "node:fs"
import { Command } from "commander"
import { PACKED_SUFFIX } from "../capture/files.ts"
import { packCapture } from "../capture/pack.ts"

export function packCommand(): Command {
  return new Command("pack-capture")
    .description("Pack a capture into one compressed file, without its logs")
    .argument("<DIR>", "folder of the capture")
    .argument("<FILE>", `file to write; verify looks for *${PACKED_SUFFIX}`)
    .action((folder: string, file: string) => writeFileSync(file, packCapture(folder)))
}
