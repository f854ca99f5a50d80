/**
 * Steps of a translation for people. The walks hold a Tracer only while somebody listens.
 */
import { ACCESS_EXEC, fromHalves, hex64, type PhysicalMemory, type WalkStep } from "@iommu/core"
import * as ste from "../spec/device-table.ts"
import * as pte from "../spec/page-tables.ts"
import { addressHi, descriptorKind, KIND_INVALID, KIND_TABLE } from "../spec/page-tables.ts"
import * as cd from "../spec/pasid-table.ts"
import { CD_BYTES, L1CD_BYTES } from "../spec/pasid-table.ts"
import type { Geometry } from "./transaction.ts"

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
  const kind = descriptorKind(low, level, g.firstBlockLevel)
  if (kind === KIND_INVALID) return (low & pte.VALID) === 0 ? "not valid" : "Reserved at this level"
  if (kind === KIND_TABLE) return `table at ${hex64(address(g, high, low, g.stride + 3))}`
  const page = level === pte.LAST_LEVEL
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
  return (fromHalves(addressHi(high, low, g.addressForm), low) >> BigInt(lg2)) << BigInt(lg2)
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
