/**
 * How QEMU reads SMMUv3's structures where it does not read them as the book does. Arm IHI 0070 G.b §5.2, §5.4.
 * Where the structures of a case lie: `diff/vendors/smmuv3-layout.ts`.
 */
import { deviceTable, pasidTable, registers } from "@iommu/smmuv3"
import type { Words } from "../diff/script.ts"
import type { World } from "../diff/vendor-diff.ts"
import { CD_AT, IPA_OFFSET, STREAM_TABLE, TABLE_AREA_BYTES } from "../diff/vendors/smmuv3-layout.ts"

const WORDS = 8
/** By S2TG. */
const GRANULES: readonly (number | undefined)[] = [12, 16, 14]
const LARGEST_SIZE = 5n

/** STEs whose stage 2 input is wider than its output, and those with S1CDMax, as not valid. */
export function withMoreIllegalEntries({ places, deviceIds, identity }: World, memory: Words): Words {
  const changes = new Map<number, bigint>()
  for (const id of deviceIds) {
    const at = places.structures + STREAM_TABLE + id * deviceTable.STE_BYTES
    const ste = wordsAt(memory, at)
    const granule64K = deviceTable.STE.get(ste, "S2TG") === 1n
    const limit = Math.min(outputBits(identity, deviceTable.STE.get(ste, "S2PS")), granule64K ? 52 : 48)
    const input = 64 - Number(deviceTable.STE.get(ste, "S2T0SZ"))
    const hasStage2 = (deviceTable.STE.get(ste, "Config") & 6n) === 6n
    const translates = deviceTable.STE.get(ste, "Config") > BigInt(deviceTable.CONFIG_BYPASS)
    const asksMore = deviceTable.STE.get(ste, "S1CDMax") !== 0n || deviceTable.STE.get(ste, "S1STALLD") !== 0n
    if ((hasStage2 && input > limit) || (translates && asksMore)) changes.set(at, ste[0] & ~1n)
  }
  return changes
}

/** The CD with an output size that bounds nothing, or not valid where a root does not fit the size that it has. */
export function withWideStage1Output({ places, identity }: World, memory: Words): Words {
  const at = places.structures + CD_AT
  const cd = wordsAt(memory, at)
  const bits = BigInt(outputBits(identity, pasidTable.CD.get(cd, "IPS")))
  const roots = (["0", "1"] as const)
    .filter(half => pasidTable.CD.get(cd, `EPD${half}`) === 0n)
    .map(half => pasidTable.CD.get(cd, `TTB${half}`) << 4n)
  const word = roots.some(root => root >> bits !== 0n)
    ? cd[0] & ~(1n << 31n)
    : (cd[0] & ~(7n << 32n)) | (LARGEST_SIZE << 32n)
  return word === cd[0] ? new Map() : new Map([[at, word]])
}

/** Stage 2 with each of the tables of its root as the first of them. */
export function withOneRootTable({ places, deviceIds }: World, memory: Words): Words {
  const ste = wordsAt(memory, places.structures + STREAM_TABLE + deviceIds[0] * deviceTable.STE_BYTES)
  const granuleLg2 = GRANULES[Number(deviceTable.STE.get(ste, "S2TG"))]
  if (granuleLg2 === undefined) return new Map()
  const root = Number(deviceTable.STE.get(ste, "S2TTB") << 4n)
  const input = 64 - Number(deviceTable.STE.get(ste, "S2T0SZ"))
  const levels = (granuleLg2 === 12 ? 2 : 1) + Number(deviceTable.STE.get(ste, "S2SL0"))
  const bytes = 2 ** granuleLg2
  // Bits above those that so many levels resolve choose a table. DDI 0487 J.a §D8.2.
  const tables = Math.min(16, 2 ** Math.max(0, input - (granuleLg2 + levels * (granuleLg2 - 3))))
  const changes = new Map<number, bigint>()
  const inTable = (address: number, table: number): boolean =>
    address >= root + table * bytes && address < root + (table + 1) * bytes
  for (let table = 1; table < tables; table++) {
    for (const address of memory.keys()) if (inTable(address, table)) changes.set(address, 0n)
    for (const [address, value] of memory) {
      if (inTable(address, 0)) changes.set(address + table * bytes, value)
    }
  }
  return changes
}

/** STEs without S2HD. */
export function withoutStage2Dirty({ places, deviceIds }: World, memory: Words): Words {
  const changes = new Map<number, bigint>()
  for (const id of deviceIds) {
    const at = places.structures + STREAM_TABLE + id * deviceTable.STE_BYTES + 16
    const value = memory.get(at) ?? 0n
    const now = value & ~(1n << 55n)
    if (now !== value) changes.set(at, now)
  }
  return changes
}

/** Pointers of the STE and the CD without address bits 55:48. */
export function withPointersOf48Bits({ places, deviceIds }: World, memory: Words): Words {
  const pointers = [
    places.structures + CD_AT + 8,
    places.structures + CD_AT + 16,
    ...deviceIds.flatMap(id => {
      const ste = places.structures + STREAM_TABLE + id * deviceTable.STE_BYTES
      return [ste, ste + 24]
    }),
  ]
  const changes = new Map<number, bigint>()
  for (const at of pointers) {
    const value = memory.get(at) ?? 0n
    const now = value & ~(0xffn << 48n)
    if (now !== value) changes.set(at, now)
  }
  return changes
}

/** The CD with walks of both halves on. */
export function withBothHalves({ places }: World, memory: Words): Words {
  const at = places.structures + CD_AT
  const word = memory.get(at) ?? 0n
  const now = word & ~((1n << 14n) | (1n << 30n))
  return now === word ? new Map() : new Map([[at, now]])
}

/** The CD with Access flag faults off. */
export function withoutAccessFaults({ places }: World, memory: Words): Words {
  const at = places.structures + CD_AT
  const word = memory.get(at) ?? 0n
  return new Map([[at, word | (1n << 35n)]])
}

/** Stage 1 tables without a bit for privileged access alone: AP[1] set, APTable[0] clear. DDI 0487 J.a §D8.4. */
export function withoutPrivilege({ places }: World, memory: Words): Words {
  const ttb = Number(pasidTable.CD.get(wordsAt(memory, places.structures + CD_AT), "TTB0") << 4n)
  const physical = ttb >= IPA_OFFSET ? ttb - IPA_OFFSET : ttb
  const area = places.tables.find(base => physical >= base && physical < base + TABLE_AREA_BYTES)
  if (area === undefined) return new Map()
  const changes = new Map<number, bigint>()
  for (const [address, value] of memory) {
    if (address < area || address >= area + TABLE_AREA_BYTES || value === 0n) continue
    const now = (value | (1n << 6n)) & ~(1n << 61n)
    if (now !== value) changes.set(address, now)
  }
  return changes
}

function wordsAt(memory: Words, at: number): bigint[] {
  return Array.from({ length: WORDS }, (_, index) => memory.get(at + index * 8) ?? 0n)
}

function outputBits(identity: World["identity"], size: bigint): number {
  const oas = registers.IDR5.get([identity["IDR5"]], "OAS")
  return registers.ADDRESS_SIZE_BITS[Number(size < oas ? size : oas)]
}
