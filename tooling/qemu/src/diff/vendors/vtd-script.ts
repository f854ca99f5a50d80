/** A VT-d case as memory and register writes. Intel VT-d 5.10 (D51397-018). */
import { commands, deviceTable, pasidTable, registers } from "@iommu/vtd"
import { Image } from "../image.ts"
import { buildTables, TableAllocator, type TableShape } from "../radix.ts"
import type { Access, RegisterRead, RegisterWrite, Round, Script } from "../script.ts"
import type { World } from "../vendor-diff.ts"
import { accessOf, damaged, damageEntry, mappingOf } from "./script-parts.ts"
import type { VtdCase } from "./vtd-case.ts"
import {
  CONTEXT_TABLE,
  PASID_DIRECTORY,
  PASID_TABLE,
  QUEUE,
  ROOT_TABLE,
  STATUS,
  STRUCTURES_BYTES,
  UPPER_CONTEXT_TABLE,
} from "./vtd-layout.ts"

const { REGISTERS } = registers
export const DOMAIN = 5n
/** Leaf attributes that allow everything. Second stage: R, W; first stage: P, R/W, U/S, A, D. */
const SS_LEAF = 3n
const FS_LEAF = 0x67n
const FS_TABLE = 0x27n
const PS = 1n << 7n

export const VTD_BYPASS: readonly RegisterWrite[] = [write32("GCMD", 0)]

const FSTS = "FSTS"
export const FRCD_LO = "FRCD_LO"
export const FRCD_HI = "FRCD_HI"

export function vtdScript(world: World, given: VtdCase): Script {
  const { places, variant } = world
  const base = places.structures
  const image = new Image()
  const shape = shapeOf(variant, given.levels)
  const mappings = given.leaves.map(leaf => mappingOf(shape, 12 + 9 * given.levels, leaf, places))
  const stage = {
    shape,
    mappings,
    tables: buildTables(image, shape, mappings, new TableAllocator(places.tables)),
  }
  damageEntry(image, stage, variant === "scalable-first" ? "stage 1" : "stage 2", given.damage)
  if (variant === "legacy") legacyStructures(image, world, given, stage.tables.root)
  else scalableStructures(image, world, given, stage.tables.root)
  image.store(base + QUEUE, invalidateEverything(variant, base + STATUS))
  image.write(base + STATUS, 0n)
  const accesses = given.accesses
    .map((access, device) => accessOf(access, device, stage))
    .map(access => (passesThrough(given, variant) ? harmless(access, base) : access))
  // One fault is recorded of a group; where QEMU has no fault at all, it would be another one.
  const isGroup = given.together && given.damage === null && given.type === 0
  const groups = isGroup ? [accesses] : accesses.map(access => [access])
  return {
    memory: image.words,
    zeroed: [],
    bypass: VTD_BYPASS,
    rounds: groups.map(
      (group, index): Round => ({
        stores: new Map(),
        writes: index === 0 ? setUp(base, variant) : [],
        accesses: group,
        reads: faultReads(world),
        areas: [],
        acknowledge: acknowledge(world),
      }),
    ),
  }
}

function shapeOf(variant: string, levels: number): TableShape {
  const isFirst = variant === "scalable-first"
  const attributes = isFirst ? FS_LEAF : SS_LEAF
  return {
    granuleLg2: 12,
    levels,
    table: (_, address) => address | (isFirst ? FS_TABLE : SS_LEAF),
    leaf: (level, address) => address | attributes | (level === 0 ? 0n : PS),
  }
}

function legacyStructures(image: Image, { places, deviceIds }: World, given: VtdCase, table: number): void {
  const base = places.structures
  const root = deviceTable.ROOT.encode({ P: 1n, CTP: BigInt(base + CONTEXT_TABLE) >> 12n })
  image.store(base + ROOT_TABLE, damaged(root, "root", given.damage))
  const context = deviceTable.CONTEXT.encode({
    P: 1n,
    TT: BigInt(typeOf(given)),
    SSPTPTR: BigInt(table) >> 12n,
    AW: BigInt(given.levels - 2),
    DID: DOMAIN,
  })
  const entry = damaged(context, "context", given.damage)
  for (const id of deviceIds) image.store(base + CONTEXT_TABLE + id * 16, entry)
}

/** Pass-through ignores most of the entry that asks for it: that entry is then as it should be. */
function typeOf({ type, damage }: VtdCase): number {
  return damage?.at === "context" || damage?.at === "PASID entry" ? 0 : type
}

/** As said, or because the bit of a legacy TT (§9.3) that is turned over makes it so. */
function passesThrough(given: VtdCase, variant: string): boolean {
  const { damage } = given
  const isTurned = variant === "legacy" && damage?.at === "context" && damage.bit === 3
  return isTurned || typeOf(given) === 2
}

/** What passes through must not write to the case's own structures: caches may or may not have what they said before. */
function harmless(access: Access, base: number): Access {
  const isOwn = access.iova >= BigInt(base) && access.iova < BigInt(base + STRUCTURES_BYTES)
  return isOwn ? { ...access, write: false } : access
}

/** RID_PASID, which QEMU uses though it does not report ECAP.RPS. §9.4. */
function isRidPasid(damage: VtdCase["damage"]): boolean {
  return damage?.at === "context" && damage.bit >= 64 && damage.bit < 84
}

function scalableStructures(image: Image, world: World, given: VtdCase, table: number): void {
  const { places, deviceIds, variant } = world
  const base = places.structures
  const root = deviceTable.SCALABLE_ROOT.encode({
    LP: 1n,
    LCTP: BigInt(base + CONTEXT_TABLE) >> 12n,
    UP: 1n,
    UCTP: BigInt(base + UPPER_CONTEXT_TABLE) >> 12n,
  })
  image.store(base + ROOT_TABLE, damaged(root, "root", given.damage))
  const context = deviceTable.SCALABLE_CONTEXT.encode({
    P: 1n,
    PASIDDIRPTR: BigInt(base + PASID_DIRECTORY) >> 12n,
  })
  const entry = isRidPasid(given.damage) ? context : damaged(context, "context", given.damage)
  // §9.2: devices 16 to 31 have a table of their own.
  for (const id of deviceIds) {
    const half = id < 0x80 ? CONTEXT_TABLE : UPPER_CONTEXT_TABLE
    image.store(base + half + (id & 0x7f) * 32, entry)
  }
  const directory = pasidTable.PASID_DIRECTORY.encode({ P: 1n, SMPTBLPTR: BigInt(base + PASID_TABLE) >> 12n })
  image.store(base + PASID_DIRECTORY, damaged(directory, "PASID directory", given.damage))
  const isFirst = variant === "scalable-first"
  const pgtt = isFirst ? pasidTable.PGTT_FIRST : pasidTable.PGTT_SECOND
  const pointer = BigInt(table) >> 12n
  const pasidEntry = pasidTable.PASID_ENTRY.encode({
    P: 1n,
    PGTT: BigInt(typeOf(given) === 2 ? pasidTable.PGTT_PASS_THROUGH : pgtt),
    AW: BigInt(given.levels - 2),
    DID: DOMAIN,
    ...(isFirst ? { FSPTPTR: pointer } : { SSPTPTR: pointer }),
  })
  image.store(base + PASID_TABLE, damaged(pasidEntry, "PASID entry", given.damage))
}

/** §6.5.2: descriptors of 256 bits in scalable mode, of 128 bits in legacy mode. */
function invalidateEverything(variant: string, statusAt: number): bigint[] {
  const context = commands.CC_INV_DSC.encode({ Type: BigInt(commands.CC_INV), G: BigInt(commands.CC_GLOBAL) })
  const pasid = commands.PC_INV_DSC.encode({ Type: BigInt(commands.PC_INV), G: BigInt(commands.PC_GLOBAL) })
  const iotlb = commands.IOTLB_INV_DSC.encode({
    Type: BigInt(commands.IOTLB_INV),
    G: BigInt(commands.IOTLB_GLOBAL),
  })
  const wait = waitDescriptor(statusAt)
  return descriptorsOf(variant, variant === "legacy" ? [context, iotlb, wait] : [context, pasid, iotlb, wait])
}

/** Without a wait as its last descriptor, the queue may not be turned off. §6.5.2. */
export function waitDescriptor(statusAt: number): readonly bigint[] {
  return commands.INV_WAIT_DSC.encode({
    Type: BigInt(commands.INV_WAIT),
    SW: 1n,
    STDATA: 1n,
    STADDR: BigInt(statusAt) >> 2n,
  })
}

/** Descriptors as they stand in the queue: of 256 bits in scalable mode, of 128 bits in legacy mode. */
export function descriptorsOf(variant: string, descriptors: readonly (readonly bigint[])[]): bigint[] {
  return descriptors.flatMap(words =>
    variant === "legacy" ? words.slice(0, 2) : [...words, 0n, 0n].slice(0, 4),
  )
}

/** Bytes of the descriptors of the set-up. */
export function firstDescriptors(variant: string): number {
  return variant === "legacy" ? 3 * 16 : 4 * 32
}

function setUp(base: number, variant: string): RegisterWrite[] {
  const isLegacy = variant === "legacy"
  const mode = isLegacy ? registers.TTM_LEGACY : registers.TTM_SCALABLE
  return [
    write32("GCMD", 0),
    write64("RTADDR", BigInt(base + ROOT_TABLE) | BigInt(mode << registers.TTM_SHIFT)),
    write32("GCMD", registers.SRTP),
    write64("IQA", BigInt(base + QUEUE) | (isLegacy ? 0n : BigInt(registers.IQA_DW))),
    write64("IQT", 0n),
    write32("GCMD", registers.QIE),
    write64("IQT", BigInt(firstDescriptors(variant))),
    write32("GCMD", (registers.QIE | registers.TE) >>> 0),
  ]
}

/** The only fault recording register of QEMU; others stay empty. §11.4.7.6. */
function faultReads({ identity }: World): RegisterRead[] {
  const offset = faultRecord(identity)
  return [
    { name: FSTS, offset: REGISTERS.FSTS[0], bytes: 4 },
    { name: FRCD_LO, offset, bytes: 8 },
    { name: FRCD_HI, offset: offset + 8, bytes: 8 },
    { name: "IQH", offset: REGISTERS.IQH[0], bytes: 8 },
    { name: "GSTS", offset: REGISTERS.GSTS[0], bytes: 4 },
  ]
}

/** F of the record, then PFO: both are cleared by a one. */
function acknowledge({ identity }: World): RegisterWrite[] {
  return [
    { offset: faultRecord(identity) + 12, bytes: 4, value: 0x8000_0000n },
    { offset: REGISTERS.FSTS[0], bytes: 4, value: BigInt(registers.PFO) },
  ]
}

function faultRecord(identity: World["identity"]): number {
  return Number(registers.CAP.get([identity["CAP"]], "FRO")) * 16
}

export function write32(name: keyof typeof REGISTERS, value: number): RegisterWrite {
  return { offset: REGISTERS[name][0], bytes: 4, value: BigInt(value) }
}

export function write64(name: keyof typeof REGISTERS, value: bigint): RegisterWrite {
  return { offset: REGISTERS[name][0], bytes: 8, value }
}
