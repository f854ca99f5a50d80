/** Lines of a stream of unknown length and content. */

/** More than any log that a person looks at. */
const MOST_BYTES = 64 * 2 ** 20
/** A line of a log is shorter; nothing of interest stands behind. */
const MOST_OF_LINE = 4096

export class TooLongError extends Error {}

/** @throws TooLongError */
export async function readStandardInput(input: AsyncIterable<Uint8Array | string>): Promise<string[]> {
  const text = new TextDecoder()
  const pieces: string[] = []
  let bytes = 0
  for await (const chunk of input) {
    bytes += chunk.length
    if (bytes > MOST_BYTES) {
      throw new TooLongError(`more than ${MOST_BYTES / 2 ** 20} MiB: grep 'DMAR\\|AMD-Vi\\|arm-smmu' first`)
    }
    pieces.push(typeof chunk === "string" ? chunk : text.decode(chunk, { stream: true }))
  }
  const lines = pieces.join("").split(/\r?\n/)
  if (lines.at(-1) === "") lines.pop()
  return lines.map(line => line.slice(0, MOST_OF_LINE))
}
