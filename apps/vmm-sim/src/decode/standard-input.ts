/** Lines of a stream of unknown length and content. */

/** More than any log that a person looks at. */
const MOST_BYTES = 64 * 2 ** 20
const MOST_LINES = 1_000_000
/** A line of a log is shorter; nothing of interest stands behind. */
const MOST_OF_LINE = 4096

export class TooLongError extends Error {
  constructor(limit: string) {
    super(`more than ${limit}: grep 'DMAR\\|AMD-Vi\\|arm-smmu' first`)
  }
}

/** @throws TooLongError */
export async function readStandardInput(input: AsyncIterable<Uint8Array | string>): Promise<string[]> {
  const decoder = new TextDecoder()
  const lines: string[] = []
  let bytes = 0
  let rest = ""
  for await (const chunk of input) {
    bytes += chunk.length
    if (bytes > MOST_BYTES) throw new TooLongError(`${MOST_BYTES / 2 ** 20} MiB`)
    const text = typeof chunk === "string" ? chunk : decoder.decode(chunk, { stream: true })
    const pieces = (rest + text).split("\n")
    rest = cut(pieces.pop() ?? "")
    for (const piece of pieces) lines.push(cut(piece))
    if (lines.length > MOST_LINES) throw new TooLongError(`${MOST_LINES} lines`)
  }
  if (rest !== "") lines.push(rest)
  return lines
}

function cut(line: string): string {
  return line.slice(0, MOST_OF_LINE).replace(/\r$/, "")
}
