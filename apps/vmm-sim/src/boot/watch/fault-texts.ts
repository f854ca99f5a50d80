/** What the kernel's driver printed of the model's records, next to what our decoder says that it prints. */
import {
  type DecodedRecord,
  type Fault,
  type FaultDecoder,
  LINUX_RELEASES,
  type LinuxContext,
  type LinuxRelease,
  linuxReleaseOf,
} from "@iommu/core"

export interface ToldFault {
  readonly fault: Fault
  /** Lines of our decoder for the record; none where the model wrote none. */
  readonly text: readonly string[]
  /** The kernel has printed exactly these, in this order. */
  readonly isTold: boolean
}

export interface FaultTexts {
  readonly faults: readonly ToldFault[]
  /** Lines of the kernel that tell of records, and are not in the text of any. */
  readonly unexplained: readonly string[]
}

/** Who asked and who answered, as the kernel names them. */
export interface KernelNames {
  readonly iommu: string | null
  /** By requester id. */
  readonly devices: ReadonlyMap<number, string>
}

/** Each line of the kernel, without its time, belongs to one fault at most. */
export function compareTexts(
  faults: readonly Fault[],
  kernelLines: readonly string[],
  decoder: FaultDecoder<DecodedRecord>,
  releases: readonly LinuxRelease[],
  names: KernelNames,
): FaultTexts {
  const left = [...kernelLines]
  const told = faults.map((fault): ToldFault => {
    const { record } = fault
    if (record === null) return { fault, text: [], isTold: false }
    const texts = releases.map(release => textOf(record, release))
    const text = texts.find(lines => take(left, lines))
    return { fault, text: text ?? texts[0] ?? [], isTold: text !== undefined }
  })
  return { faults: told, unexplained: decoder.readLinuxLog(left).map(({ line }) => left[line] ?? "") }

  function textOf(words: readonly bigint[], release: LinuxRelease): string[] {
    const record = decoder.decode(words)
    const device = record.device === null ? null : (names.devices.get(record.device) ?? null)
    const context: LinuxContext = { release, segment: 0, iommu: names.iommu, device }
    return decoder.linuxLines(record, context)
  }
}

/** Takes the lines out where they stand one after the other, others in between allowed. @returns false: not there */
function take(from: string[], lines: readonly string[]): boolean {
  const places: number[] = []
  for (const line of lines) {
    const at = from.indexOf(line, (places.at(-1) ?? -1) + 1)
    if (at < 0) return false
    places.push(at)
  }
  for (const at of places.reverse()) from.splice(at, 1)
  return true
}

/**
 * Releases whose text a kernel may have: the one, where it is known, else all, the newest first, whose text holds that
 * of older ones.
 * @param version `6.1.0-50-cloud-amd64`
 */
export function releasesOf(version: string): readonly LinuxRelease[] {
  const known = linuxReleaseOf(version)
  return known === null ? [...LINUX_RELEASES].reverse() : [known]
}
