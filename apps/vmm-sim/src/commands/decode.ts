import { type LinuxRelease, linuxReleaseOf, type PageRequest } from "@iommu/core"
import { Command, InvalidArgumentError, Option } from "commander"
import { DECODERS } from "../decode/decoders.ts"
import { type Findings, findRecords, NoRecordError, typed } from "../decode/input.ts"
import { plain, type RecordReport, recordText, reportOf, requestText } from "../decode/report.ts"
import { readStandardInput, TooLongError } from "../decode/standard-input.ts"
import { recordOf, sizeText, wordsOf } from "../decode/words.ts"

interface DecodeOptions {
  readonly vendor?: string
  readonly linux: LinuxRelease
  readonly device?: string
  readonly pageRequest?: true
  readonly json?: true
}

const NOTES = `
WORDS are those of one record, in hexadecimal: 64-bit words, or twice as many of 32 bits, the low one first.
  vtd     a fault recording register, FRCD: 2 words
  smmuv3  an event: 4 words
  amd     an event log entry: 2 words
Without WORDS, lines are read from standard input: of a kernel's log, of any release since 4.9 and any vendor, or of
words alone, a record in a line or a word in a line. The same record is shown once, with how often it came.

  dmesg | npx -y pnpm@12 vmm-sim decode
  npx -y pnpm@12 vmm-sim decode --vendor vtd 0x7fe0c9943000 0xc000023a80006a08

Exit code: 0 when there were records, 2 when there were none or when the command line is wrong.`

function release(version: string): LinuxRelease {
  const known = linuxReleaseOf(version)
  if (known === null) throw new InvalidArgumentError("its text is not known here")
  return known
}

/** Records that are shown in full; more than that is a storm, and a document's business. */
const SHOWN = 100

export function decodeCommand(): Command {
  return new Command("decode")
    .description("Explain fault records, from their words or from a kernel's log")
    .argument("[WORDS...]", "words of one record")
    .addOption(
      new Option("--vendor <vendor>", "whose IOMMU; a log says it itself").choices(Object.keys(DECODERS)),
    )
    .option("--linux <version>", "kernel whose text to print: 6.1 to 6.12, 6.16 and later", release, "6.12")
    .option("--device <name>", "driver and name of the device in that text: 'nvme 0000:01:00.0'")
    .option("--page-request", "WORDS are a page request")
    .option("--json", "print one JSON document")
    .addHelpText("after", NOTES)
    .action(decode)
}

async function decode(parts: readonly string[], options: DecodeOptions, command: Command): Promise<void> {
  try {
    if (options.pageRequest) printRequest(parts, options)
    else printFindings(parts.length > 0 ? fromWords(parts, options) : await fromInput(options), options)
  } catch (error) {
    if (error instanceof NoRecordError || error instanceof TooLongError) {
      command.error(`error: ${error.message}`, { exitCode: 2 })
    }
    throw error
  }
}

function printRequest(parts: readonly string[], options: DecodeOptions): void {
  const decoder = decoderOf(options)
  const request = decoder.decodePageRequest(typedWords(parts, decoder.pageRequestBytes))
  if (request === null)
    throw new NoRecordError("the words are no page request: their type or code is another")
  console.log(requestOutput(decoder.vendor, request, options))
}

function requestOutput(vendor: string, request: PageRequest, { json }: DecodeOptions): string {
  return json ? JSON.stringify({ requests: [{ vendor, ...plain(request) }] }) : requestText(vendor, request)
}

function fromWords(parts: readonly string[], options: DecodeOptions): Findings {
  const decoder = decoderOf(options)
  return { records: [typed(typedWords(parts, decoder.recordBytes), decoder)], suppressed: 0 }
}

function decoderOf({ vendor }: DecodeOptions): (typeof DECODERS)[string] {
  const decoder = vendor === undefined ? undefined : DECODERS[vendor]
  if (decoder === undefined) throw new NoRecordError("words do not say whose they are: --vendor does")
  return decoder
}

function typedWords(parts: readonly string[], bytes: number): bigint[] {
  const words = wordsOf(parts.join(" "))
  const record = words === null ? null : recordOf(words, bytes)
  if (record === null) throw new NoRecordError(`a record has ${sizeText(bytes)}, in hexadecimal`)
  return record
}

async function fromInput({ vendor }: DecodeOptions): Promise<Findings> {
  if (process.stdin.isTTY) throw new NoRecordError("neither WORDS nor standard input")
  const lines = await readStandardInput(process.stdin)
  const decoders = Object.entries(DECODERS).filter(([name]) => vendor === undefined || name === vendor)
  const findings = findRecords(
    lines,
    decoders.map(([, decoder]) => decoder),
  )
  if (findings.records.length === 0) throw new NoRecordError(`no record in ${lines.length} lines`)
  return findings
}

function printFindings({ records, suppressed }: Findings, options: DecodeOptions): void {
  const report = (record: Findings["records"][number]): RecordReport =>
    reportOf(record, options.linux, options.device ?? null)
  if (options.json) {
    console.log(JSON.stringify({ records: records.map(report), suppressed }))
    return
  }
  console.log(
    records
      .slice(0, SHOWN)
      .map(record => recordText(report(record)))
      .join("\n\n"),
  )
  const left = records.length - SHOWN
  if (left > 0) console.log(`\n${left} more records that differ; --json shows them`)
  if (suppressed > 0) console.log(`\nthe kernel left out ${suppressed} messages more (callbacks suppressed)`)
}
