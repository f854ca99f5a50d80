/** Records in a text of mixed lines: a kernel's log, and lines of hexadecimal words. */
import type { DecodedRecord, FaultDecoder, LoggedRecord } from "@iommu/core"
import { recordOf, sizeText, wordsOf } from "./words.ts"

/** A record, with all that is the same of it in the input. */
export interface FoundRecord extends LoggedRecord {
  readonly decoder: FaultDecoder<DecodedRecord>
  /** Times that the same was found. */
  times: number
}

export interface Findings {
  readonly records: readonly FoundRecord[]
  /** Faults that the kernel counted and did not print. */
  readonly suppressed: number
}

/** Something in the input that is no record, and cannot be left out. */
export class NoRecordError extends Error {}

/** Of rate limits in the handlers of the three drivers. */
const SUPPRESSED =
  /\b(?:dmar_fault|amd_iommu_report_\w{1,40}|arm_smmu_\w{1,40}): (\d{1,12}) callbacks suppressed/

/**
 * @param decoders of all vendors that the log may be of; words need exactly one
 * @throws NoRecordError for words that are no record
 */
export function findRecords(
  lines: readonly string[],
  decoders: readonly FaultDecoder<DecodedRecord>[],
): Findings {
  const found = [
    ...typedRecords(lines, decoders),
    ...decoders.flatMap(decoder =>
      decoder.readLinuxLog(lines).map(record => ({ ...record, decoder, times: 1 })),
    ),
  ].sort((a, b) => a.line - b.line)
  const suppressed = lines.map(line => Number(SUPPRESSED.exec(line)?.[1] ?? 0))
  return { records: together(found), suppressed: suppressed.reduce((sum, count) => sum + count, 0) }
}

/** Records in lines of words alone: all of one record in a line, or one word in each of as many lines as it takes. */
function typedRecords(
  lines: readonly string[],
  decoders: readonly FaultDecoder<DecodedRecord>[],
): FoundRecord[] {
  const records: FoundRecord[] = []
  let column: bigint[] = []
  for (const [line, text] of lines.entries()) {
    const words = text.trim() === "" ? null : wordsOf(text)
    if (words === null) {
      refuseRest(column, line)
      column = []
      continue
    }
    const decoder = onlyOne(decoders, line)
    const all = words.length === 1 ? [...column, ...words] : words
    const record = recordOf(all, decoder.recordBytes)
    const isColumn = words.length === 1 && all.length < decoder.recordBytes / 8
    if (record === null && !isColumn) {
      throw new NoRecordError(
        `line ${line + 1}: ${all.length} words; a record has ${sizeText(decoder.recordBytes)}`,
      )
    }
    column = record === null ? all : []
    if (record !== null) records.push(typed(record, decoder, line))
  }
  refuseRest(column, lines.length)
  return records
}

function onlyOne(
  decoders: readonly FaultDecoder<DecodedRecord>[],
  line: number,
): FaultDecoder<DecodedRecord> {
  const [decoder, other] = decoders
  if (decoder === undefined || other !== undefined) {
    throw new NoRecordError(`line ${line + 1}: words alone do not say whose they are: --vendor does`)
  }
  return decoder
}

function refuseRest(column: readonly bigint[], line: number): void {
  if (column.length > 0) throw new NoRecordError(`line ${line}: the record ends after ${column.length} words`)
}

/** A record of which no log says anything else. */
export function typed(words: readonly bigint[], decoder: FaultDecoder<DecodedRecord>, line = 0): FoundRecord {
  return { words, decoder, untold: [], segment: 0, iommu: null, device: null, line, times: 1 }
}

/** Storms repeat themselves: each record once, where it came first. */
function together(records: readonly FoundRecord[]): FoundRecord[] {
  const first = new Map<string, FoundRecord>()
  for (const record of records) {
    const { decoder, words, device, iommu, segment } = record
    const key = [decoder.vendor, segment, iommu, device, ...words].join()
    const same = first.get(key)
    if (same === undefined) first.set(key, record)
    else same.times++
  }
  return [...first.values()]
}
