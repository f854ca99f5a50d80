/**
 * A transcript in a form that two drivers can have in common: what differs from run to run (where memory was
 * allocated, which slot of a queue, which value a wait stores) is left out.
 */
import { type TranscriptEntry, upperHalf } from "../watch/transcript.ts"

/** Fields of commands that name a place or a turn, not a meaning. */
const INCIDENTAL: ReadonlySet<string> = new Set([
  "Opcode",
  "Type",
  "STDATA",
  "STADDR",
  "StoreAddress",
  "StoreData",
  "MSIAddress",
  "MSIData",
])
/** Fields of commands with a number that the driver chose. */
const HANDLES: ReadonlySet<string> = new Set(["DID", "DomainID", "ASID", "VMID"])
/** Fields of commands that name an address: whether there is one is what counts. */
const ADDRESSES: ReadonlySet<string> = new Set(["ADDR", "Address", "IPA"])

/** Bits of a page's address within a register or entry. */
const PAGE_ADDRESS = 0x000f_ffff_ffff_f000n
/** Below it no driver allocates: values are numbers and flags. */
const SMALLEST_ADDRESS = 0x10_0000n

export interface NormalOptions {
  /** Register whose writes hand commands over: the commands stand for them. */
  readonly tailRegister: string
  /** Registers that hold an address beside flags. */
  readonly addressRegisters: ReadonlySet<string>
}

/** One line for each entry; a line that repeats the one before stands once. */
export function normalLines(entries: readonly TranscriptEntry[], options: NormalOptions): string[] {
  const lines: string[] = []
  for (const entry of joinedHalves(entries)) {
    const line = entry.kind === "write" ? writeLine(entry.register, entry.value, options) : commandLine(entry)
    if (line !== null && line !== lines.at(-1)) lines.push(line)
  }
  return lines
}

/** A register of 64 bits that is written in two halves is written once. */
function joinedHalves(entries: readonly TranscriptEntry[]): TranscriptEntry[] {
  const joined: TranscriptEntry[] = []
  for (const entry of entries) {
    const last = joined.at(-1)
    const isUpper =
      entry.kind === "write" && last?.kind === "write" && entry.register === upperHalf(last.register)
    if (isUpper) joined[joined.length - 1] = { ...last, value: last.value | (entry.value << 32n) }
    else joined.push(entry)
  }
  return joined
}

function writeLine(register: string, value: bigint, options: NormalOptions): string | null {
  if (register === options.tailRegister) return null
  if (!options.addressRegisters.has(register)) return `${register} = 0x${value.toString(16)}`
  const address = value & PAGE_ADDRESS
  const flags = value & ~PAGE_ADDRESS
  const shown = address === 0n ? "0" : "page"
  return `${register} = ${shown}${flags === 0n ? "" : ` | 0x${flags.toString(16)}`}`
}

function commandLine({ command, fields }: TranscriptEntry & { kind: "command" }): string {
  const shown = Object.entries(fields)
    .filter(([name, value]) => value !== 0n && !INCIDENTAL.has(name))
    .map(([name, value]) => `${name}=${fieldText(name, value)}`)
  return [command, ...shown].join(" ")
}

function fieldText(name: string, value: bigint): string {
  if (HANDLES.has(name)) return "some"
  return ADDRESSES.has(name) ? addressText(value) : `0x${value.toString(16)}`
}

/** All ones stands for everything; page numbers and addresses are places. */
function addressText(value: bigint): string {
  const bits = value.toString(2)
  return value >= SMALLEST_ADDRESS && /^1+$/.test(bits) ? "all" : "page"
}
