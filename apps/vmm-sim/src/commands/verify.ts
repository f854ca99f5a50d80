import { Command } from "commander"
import { findCaptures } from "../capture/discover.ts"
import { openCapture, PACKED_SUFFIX } from "../capture/files.ts"
import { loadCapture } from "../capture/load.ts"
import { detailLines, reportDocument, reportLine } from "../verify/report.ts"
import { type CaptureReport, isClean, verifyCapture } from "../verify/verify.ts"

interface VerifyOptions {
  readonly json?: true
  readonly details?: true
}

const NOTES = `
DIR is the folder of a capture (capture.json, pages.bin, and ops.txt if there is one), a packed
capture (a file *${PACKED_SUFFIX}), or a folder that holds such folders and files: then each of them is checked.

Exit code: 0 when nothing differs but what the ledger of QEMU's slips explains, 1 when something
does, 2 when the input cannot be used or the command line is wrong.`

export function verifyCommand(): Command {
  return new Command("verify")
    .description("Check captures of IOMMU tables built by real kernels against the models")
    .argument("<DIR...>", "captures, or folders of captures")
    .option("--json", "print one JSON document")
    .option("--details", "list the rows that differ; with --json on stderr")
    .addHelpText("after", NOTES)
    .action(verify)
}

function verify(paths: readonly string[], options: VerifyOptions): void {
  // Unusable input is found before any check runs.
  const captures = findCaptures(paths).map(path => loadCapture(openCapture(path)))
  const nameWidth = Math.max(...captures.map(({ name }) => name.length))
  const reports: CaptureReport[] = []
  for (const capture of captures) {
    const report = verifyCapture(capture, table => showProgress(`${capture.name}: ${table}`))
    showProgress("")
    reports.push(report)
    if (!options.json) console.log(reportLine(report, nameWidth))
    if (!options.details) continue
    const print = options.json ? console.error : console.log
    for (const line of detailLines(report)) print(line)
  }
  if (options.json) console.log(JSON.stringify(reportDocument(reports)))
  process.exitCode = reports.every(isClean) ? 0 : 1
}

/** One line on a terminal, overwritten by the next; nothing in a pipe. */
function showProgress(text: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`)
}
