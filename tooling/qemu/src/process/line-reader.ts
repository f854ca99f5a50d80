/** Cuts a stream of text into lines, however it was cut into pieces on the way. */
export class LineReader {
  readonly #onLine: (line: string) => void
  #rest = ""

  /** @param onLine called for each whole line, without its end */
  constructor(onLine: (line: string) => void) {
    this.#onLine = onLine
  }

  push(text: string): void {
    const lines = (this.#rest + text).split("\n")
    this.#rest = lines.pop() ?? ""
    for (const line of lines) this.#onLine(line.endsWith("\r") ? line.slice(0, -1) : line)
  }
}
