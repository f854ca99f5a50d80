/** Walk steps for people. Nothing here runs while no trace is set. */
import { fromHalves, hex64, type WalkStep } from "@iommu/core"
import * as dte from "../spec/device-table.ts"
import * as pte from "../spec/page-tables.ts"
import * as gcr3 from "../spec/pasid-table.ts"

export type TraceHook = (step: WalkStep) => void

export interface HostTrace {
  hostEntry(level: number, tableHi: number, tableLo: number, index: number, hi: number, lo: number): void
}

export interface Gcr3Trace {
  gcr3Entry(level: number, tableHi: number, tableLo: number, index: number, hi: number, lo: number): void
}

export interface GuestTrace {
  guestEntry(level: number, tableHi: number, tableLo: number, index: number, hi: number, lo: number): void
}

export class Trace implements HostTrace, Gcr3Trace, GuestTrace {
  readonly #hook: TraceHook

  constructor(hook: TraceHook) {
    this.#hook = hook
  }

  deviceEntry(tableHi: number, tableLo: number, index: number, words: readonly bigint[]): void {
    this.#hook({
      stage: 0,
      what: "DTE",
      table: fromHalves(tableHi, tableLo),
      index,
      entry: words,
      meaning: describeDte(words),
    })
  }

  gcr3Entry(level: number, tableHi: number, tableLo: number, index: number, hi: number, lo: number): void {
    const address = addressOf(hi, lo)
    const target = level === 0 ? `guest root at ${address}` : `GCR3 table at ${address}`
    const meaning = (lo & gcr3.V) === 0 ? "not valid" : target
    this.#step(0, `level ${level} GCR3 entry`, tableHi, tableLo, index, hi, lo, meaning)
  }

  guestEntry(level: number, tableHi: number, tableLo: number, index: number, hi: number, lo: number): void {
    const what = ["", "PTE", "PDE", "PDPE", "PML4E", "PML5E"][level] as string
    this.#step(1, what, tableHi, tableLo, index, hi, lo, describeGuestEntry(level, hi, lo))
  }

  hostEntry(level: number, tableHi: number, tableLo: number, index: number, hi: number, lo: number): void {
    const what = `level ${level} ${isHostLeaf(lo) ? "PTE" : "PDE"}`
    this.#step(2, what, tableHi, tableLo, index, hi, lo, describeHostEntry(level, hi, lo))
  }

  #step(
    stage: 0 | 1 | 2,
    what: string,
    tableHi: number,
    tableLo: number,
    index: number,
    hi: number,
    lo: number,
    meaning: string,
  ): void {
    this.#hook({
      stage,
      what,
      table: fromHalves(tableHi, tableLo),
      index,
      entry: [fromHalves(hi, lo)],
      meaning,
    })
  }
}

const addressOf = (hi: number, lo: number): string =>
  hex64(fromHalves(hi & pte.ADDR_HI, (lo & pte.ADDR_LO) >>> 0))

function describeDte(words: readonly bigint[]): string {
  const get = (field: keyof typeof dte.fieldsDTE): bigint => dte.DTE.get(words, field)
  if (get("V") === 0n) return "not valid: requests pass untranslated"
  if (get("TV") === 0n) return "no translation information"
  const parts = [`domain ${get("DomainID")}`]
  const root = hex64(dte.DTE.getInPlace(words, "HostPageTableRootPtr"))
  parts.push(get("Mode") === 0n ? "no host tables" : `host root at ${root}, ${get("Mode")} levels`)
  if (get("GV") === 1n) {
    parts.push(`GCR3 table at ${hex64(dte.gcr3RootOf(words))}, ${get("GLX") + 1n} levels`)
    if (get("GIOV") === 1n) parts.push("requests without PASID use PASID 0")
  }
  parts.push(rights(get("IR") === 1n, get("IW") === 1n))
  return parts.join(", ")
}

function describeGuestEntry(level: number, hi: number, lo: number): string {
  if ((lo & pte.V2_P) === 0) return "not present"
  const leaf = level === 1 || (lo & pte.V2_PS) !== 0
  const user = (lo & pte.V2_US) !== 0 ? "user" : "supervisor"
  const execute = (hi & pte.V2_NX_HI) !== 0 ? ", no execute" : ""
  const access = `${rights(true, (lo & pte.V2_RW) !== 0)}, ${user}${execute}`
  if (!leaf) return `table at ${addressOf(hi, lo)}, ${access}`
  return `${sizeName(9 * level + 3)} page at ${addressOf(hi, lo)}, ${access}`
}

function isHostLeaf(lo: number): boolean {
  const next = (lo & pte.V1_NEXT_LEVEL) >>> pte.V1_NEXT_LEVEL_SHIFT
  return next === pte.V1_NEXT_LEVEL_LEAF || next === pte.V1_NEXT_LEVEL_SIZED
}

function describeHostEntry(level: number, hi: number, lo: number): string {
  if ((lo & pte.V1_PR) === 0) return "not present"
  const access = rights((hi & pte.V1_IR_HI) !== 0, (hi & pte.V1_IW_HI) !== 0)
  const next = (lo & pte.V1_NEXT_LEVEL) >>> pte.V1_NEXT_LEVEL_SHIFT
  if (!isHostLeaf(lo)) return `level ${next} table at ${addressOf(hi, lo)}, ${access}`
  if (next === pte.V1_NEXT_LEVEL_LEAF) {
    return `${sizeName(9 * level + 3)} page at ${addressOf(hi, lo)}, ${access}`
  }
  const size = sizedPage(fromHalves(hi & pte.ADDR_HI, (lo & pte.ADDR_LO) >>> 0))
  return size === null ? "page of an illegal size" : `${size}, ${access}`
}

/** Table 14: the lowest zero among bits 51:12 is the top bit of the offset. */
function sizedPage(address: bigint): string | null {
  let bit = 12n
  while (bit < 52n && ((address >> bit) & 1n) === 1n) bit++
  if (bit === 52n) return null
  const base = (address >> (bit + 1n)) << (bit + 1n)
  return `${sizeName(Number(bit) + 1)} page at ${hex64(base)}`
}

function rights(read: boolean, write: boolean): string {
  if (read && write) return "read, write"
  return read ? "read" : write ? "write" : "no access"
}

/** "4 KiB", "2 MiB", "1 GiB". */
function sizeName(lg2: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
  return `${2 ** (lg2 % 10)} ${units[Math.floor(lg2 / 10)]}`
}
