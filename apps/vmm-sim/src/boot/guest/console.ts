/** What the guest prints: the kernel's lines, and those of our script. */
import { stripVTControlCharacters } from "node:util"
import { MARK } from "./init-script.ts"

/** One line of our script: the word after {@link MARK}, and the rest. */
export interface Mark {
  readonly word: string
  readonly rest: readonly string[]
}

/** More than a boot prints; what a guest prints beyond it is counted, not kept. */
const MAX_LINES = 20_000
const MAX_LINE = 2_000

export class GuestConsole {
  readonly lines: string[] = []
  readonly marks: Mark[] = []
  linesDropped = 0
  readonly #onLine: (line: string) => void
  #rest = ""

  constructor(onLine: (line: string) => void) {
    this.#onLine = onLine
  }

  push(text: string): void {
    const pieces = (this.#rest + text).split(/\r*\n/)
    this.#rest = (pieces.pop() ?? "").slice(0, MAX_LINE)
    for (const piece of pieces) this.#line(stripVTControlCharacters(piece).slice(0, MAX_LINE))
  }

  /** Lines of the kernel before our script began, all of them where none did. */
  get bootLines(): readonly string[] {
    const begin = this.lines.findIndex(line => line.startsWith(MARK))
    return begin < 0 ? this.lines : this.lines.slice(0, begin)
  }

  /** Lines of the kernel that the expression matches, without their time. */
  kernelLines(pattern: RegExp, lines: readonly string[] = this.lines): string[] {
    return lines.map(withoutTime).filter(line => !line.startsWith(MARK) && pattern.test(line))
  }

  /** The rest of the first line of our script with this word, or null. */
  mark(word: string): readonly string[] | null {
    return this.marks.find(mark => mark.word === word)?.rest ?? null
  }

  #line(line: string): void {
    if (this.lines.length === MAX_LINES) {
      this.linesDropped++
      return
    }
    this.lines.push(line)
    if (line.startsWith(MARK)) {
      const [word = "", ...rest] = line.slice(MARK.length).trim().split(" ")
      this.marks.push({ word, rest })
    }
    this.#onLine(line)
  }
}

function withoutTime(line: string): string {
  return line.replace(/^\[ *\d+\.\d+\] /, "")
}
