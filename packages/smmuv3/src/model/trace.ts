/**
 * Steps of a translation for people. The walks hold a Tracer only while somebody listens.
 */
import { ACCESS_EXEC, fromHalves, hex64, type PhysicalMemory, type WalkStep } from "@iommu/core"
import * as ste from "../spec/device-table.ts"
import * as pte from "../spec/page-tables.ts"
import * as cd from "../spec/pasid-table.ts"
import { CD_BYTES, L1CD_BYTES } from "../spec/pasid-table.ts"
import { ADDRESS_48, ADDRESS_LPA, type Geometry } from "./geometry.ts"

const CONFIGS = ["abort", "abort", "abort", "abort", "bypass", "stage 1", "stage 2", "stage 1 and 2"]
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]

export class Tracer {
  readonly #emit: (step: WalkStep) => void
  readonly #memory: PhysicalMemory

  constructor(memory: PhysicalMemory, emit: (step: WalkStep) => void) {
    this.#memory = memory
    this.#emit = emit
  }

  l1std(tableHi: number, tableLo: number, index: number, at: number): void {
    const entry = this.#entry(at, 1)
    const span = Number(ste.L1STD.get(entry, "Span"))
    const meaning =
      span === 0 || span > ste.L1STD_SPAN_LAST
        ? "no Stream table entries"
        : `${2 ** (span - 1)} Stream table entries at ${hex64(ste.L1STD.getInPlace(entry, "L2Ptr"))}`
    this.#step("L1STD", fromHalves(tableHi, tableLo), index, entry, meaning)
  }

  ste(tableHi: number, tableLo: number, index: number, at: number): void {
    const entry = this.#entry(at, 8)
    const f = ste.STE.decode(entry)
    const stages: string[] = [f.V === 0n ? "not valid" : CONFIGS[Number(f.Config)]]
    if (f.V === 1n && f.Config >= 4n && (f.Config & 1n) === 1n) {
      stages.push(`CDs at ${hex64(f.S1ContextPtr << 6n)}`)
    }
    if (f.V === 1n && f.Config >= 6n) stages.push(`S2TTB ${hex64(f.S2TTB << 4n)}`, `VMID ${f.S2VMID}`)
    this.#step("STE", fromHalves(tableHi, tableLo), index, entry, stages.join(", "))
  }

  l1cd(hi: number, lo: number, index: number, at: number): void {
    const entry = this.#entry(at, 1)
    const valid = (entry[0] & BigInt(cd.L1CD_V)) !== 0n
    const meaning = valid ? `CDs at ${hex64(cd.L1CD.getInPlace(entry, "L2Ptr"))}` : "not valid"
    this.#step("L1CD", fromHalves(hi, lo) - BigInt(index * L1CD_BYTES), index, entry, meaning)
  }

  cd(hi: number, lo: number, index: number, at: number): void {
    const entry = this.#entry(at, 8)
    const f = cd.CD.decode(entry)
    const meaning =
      f.V === 0n ? "not valid" : `TTB0 ${hex64(f.TTB0 << 4n)}, TTB1 ${hex64(f.TTB1 << 4n)}, ASID ${f.ASID}`
    this.#step("CD", fromHalves(hi, lo) - BigInt(index * CD_BYTES), index, entry, meaning)
  }

  descriptor(
    stage: 1 | 2,
    geometry: Geometry,
    level: number,
    tableHi: number,
    tableLo: number,
    index: number,
    high: number,
    low: number,
  ): void {
    this.#emit({
      stage,
      what: `level ${level} descriptor`,
      table: fromHalves(tableHi, tableLo),
      index,
      entry: [fromHalves(high, low)],
      meaning: describe(stage, geometry, level, high, low),
    })
  }

  #entry(at: number, dwords: number): bigint[] {
    const { words } = this.#memory
    return Array.from({ length: dwords }, (_, i) => fromHalves(words[at + 2 * i + 1], words[at + 2 * i]))
  }

  #step(what: string, table: bigint, index: number, entry: readonly bigint[], meaning: string): void {
    this.#emit({ stage: 0, what, table, index: index >>> 0, entry, meaning })
  }
}

function describe(stage: 1 | 2, g: Geometry, level: number, high: number, low: number): string {
  if ((low & pte.VALID) === 0) return "not valid"
  const page = level === pte.LAST_LEVEL
  if (page && (low & pte.PAGE) === 0) return "Reserved"
  if (!page && (low & pte.TABLE) !== 0) return `table at ${hex64(address(g, high, low, g.stride + 3))}`
  if (level < g.firstBlockLevel) return "a block where there are none"
  const sizeLg2 = g.stride + 3 + (pte.LAST_LEVEL - level) * g.stride
  const parts = [
    `${size(sizeLg2)} ${page ? "page" : "block"} at ${hex64(address(g, high, low, sizeLg2))}`,
    stage === 1 ? stage1Access(low) : stage2Access(low),
  ]
  if ((low & pte.AF) === 0) parts.push("Access flag clear")
  if ((high & pte.DBM_HI) !== 0) parts.push("DBM")
  if ((high & pte.CONTIGUOUS_HI) !== 0) parts.push("contiguous")
  return parts.join(", ")
}

function address(g: Geometry, high: number, low: number, lg2: number): bigint {
  let hi = high & pte.ADDR_HI
  if (g.addressForm === ADDRESS_LPA) hi |= (low & pte.LPA_OA_51_48) << 4
  else if (g.addressForm !== ADDRESS_48) hi = (high & pte.LPA2_ADDR_HI) | ((low & pte.LPA2_OA_51_50) << 10)
  return (fromHalves(hi, low) >> BigInt(lg2)) << BigInt(lg2)
}

function size(lg2: number): string {
  return `${2 ** (lg2 % 10)} ${UNITS[Math.trunc(lg2 / 10)]}`
}

function stage1Access(low: number): string {
  const access = (low & pte.S1_AP2) !== 0 ? "read-only" : "read, write"
  return (low & pte.S1_AP1) !== 0 ? access : `${access}, privileged`
}

function stage2Access(low: number): string {
  const access = (low & pte.S2_AP) >>> pte.S2_AP_SHIFT
  return ["no access", "read-only", "write-only", "read, write"][access & ~ACCESS_EXEC]
}
