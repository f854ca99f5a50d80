/**
 * How QEMU reads SMMUv3's structures where it does not read them as the book does. Arm IHI 0070 G.b §5.2, §5.4.
 * Where the structures of a case lie: `smmuv3-structures.ts`.
 */
import { deviceTable, pasidTable } from "@iommu/smmuv3"
import type { Words } from "../diff/script.ts"
import type { World } from "../diff/vendor-diff.ts"
import { L1_STREAM_TABLE } from "../diff/vendors/smmuv3-layout.ts"
import { cdAddress, cdOf, outputBits, stage1Entries, steAddress, steOf } from "./smmuv3-structures.ts"

/** By S2TG. */
const GRANULES: readonly (number | undefined)[] = [12, 16, 14]
const LARGEST_SIZE = 5n
const ADDRESS = 0x00ff_ffff_ffff_fff0n
const FIRST_LEVEL_BYTES = 0x1000

/** STEs whose stage 2 input is wider than its output, and those with S1CDMax, as not valid. */
export function withMoreIllegalEntries(world: World, memory: Words): Words {
  const changes = new Map<number, bigint>()
  for (const id of world.deviceIds) {
    const ste = steOf(world, memory, id)
    const granule64K = deviceTable.STE.get(ste, "S2TG") === 1n
    const limit = Math.min(outputBits(world, deviceTable.STE.get(ste, "S2PS")), granule64K ? 52 : 48)
    const input = 64 - Number(deviceTable.STE.get(ste, "S2T0SZ"))
    const hasStage2 = (deviceTable.STE.get(ste, "Config") & 6n) === 6n
    const translates = deviceTable.STE.get(ste, "Config") > BigInt(deviceTable.CONFIG_BYPASS)
    const asksMore = deviceTable.STE.get(ste, "S1CDMax") !== 0n || deviceTable.STE.get(ste, "S1STALLD") !== 0n
    if ((hasStage2 && input > limit) || (translates && asksMore))
      changes.set(steAddress(world, id), ste[0] & ~1n)
  }
  return changes
}

/** The CD with an output size that bounds nothing; one whose roots do not fit their size is as it is. */
export function withWideStage1Output(world: World, memory: Words): Words {
  const cd = cdOf(world, memory)
  const bits = BigInt(outputBits(world, pasidTable.CD.get(cd, "IPS")))
  if ([cd[1], cd[2]].some(root => (root & ADDRESS) >> bits !== 0n)) return new Map()
  return changedWord(memory, cdAddress(world), word => (word & ~(7n << 32n)) | (LARGEST_SIZE << 32n))
}

/** First-level descriptors of the Stream table whose arrays are twice as long. */
export function withDoubledSpan({ places }: World, memory: Words): Words {
  const changes = new Map<number, bigint>()
  const base = places.structures + L1_STREAM_TABLE
  for (const [at, value] of memory) {
    const isFirstLevel = at >= base && at < base + FIRST_LEVEL_BYTES
    if (isFirstLevel && deviceTable.L1STD.get([value], "Span") !== 0n) changes.set(at, value + 1n)
  }
  return changes
}

/** Stage 2 with each of the tables of its root as the first of them. */
export function withOneRootTable(world: World, memory: Words): Words {
  const ste = steOf(world, memory, world.deviceIds[0])
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

/** STEs without S2HA and S2HD. */
export function withoutStage2Updates(world: World, memory: Words): Words {
  return new Map(
    world.deviceIds.flatMap(id => [
      ...changedWord(memory, steAddress(world, id) + 16, word => word & ~(3n << 55n)),
    ]),
  )
}

/** Pointers of the STE and the CD without address bits 55:48. */
export function withPointersOf48Bits(world: World, memory: Words): Words {
  const cd = cdAddress(world)
  const entries = world.deviceIds.map(id => steAddress(world, id))
  const pointers = [cd + 8, cd + 16, ...entries.flatMap(ste => [ste, ste + 24])]
  return new Map(pointers.flatMap(at => [...changedWord(memory, at, word => word & ~(0xffn << 48n))]))
}

/** The CD with walks of both halves on. */
export function withBothHalves(world: World, memory: Words): Words {
  return changedWord(memory, cdAddress(world), word => word & ~((1n << 14n) | (1n << 30n)))
}

/** The CD with Access flag faults off. */
export function withoutAccessFaults(world: World, memory: Words): Words {
  return changedWord(memory, cdAddress(world), word => word | (1n << 35n))
}

/** Stage 1 tables without a bit for privileged access alone: AP[1] set, APTable[0] clear. DDI 0487 J.a §D8.4. */
export function withoutPrivilege(world: World, memory: Words): Words {
  return new Map(
    stage1Entries(world, memory).flatMap(([at]) => [
      ...changedWord(memory, at, word => (word | (1n << 6n)) & ~(1n << 61n)),
    ]),
  )
}

/** @param read the word as QEMU takes it; @returns nothing when that is as it stands */
function changedWord(memory: Words, at: number, read: (word: bigint) => bigint): Words {
  const word = memory.get(at) ?? 0n
  const now = read(word)
  return now === word ? new Map() : new Map([[at, now]])
}
