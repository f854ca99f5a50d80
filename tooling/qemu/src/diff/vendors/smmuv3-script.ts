/** An SMMUv3 case as memory and register writes. Arm IHI 0070 G.b. */
import { commands, deviceTable, pasidTable, registers } from "@iommu/smmuv3"
import { Image } from "../image.ts"
import type { Places } from "../places.ts"
import { buildTables, type Mapping, TableAllocator, type TableShape } from "../radix.ts"
import type { RegisterRead, RegisterWrite, Script } from "../script.ts"
import type { World } from "../vendor-diff.ts"
import type { LeafCase } from "./case-parts.ts"
import { accessOf, damaged, damageEntry, mappingOf, type Stage } from "./script-parts.ts"
import type { SmmuCase, StageCase } from "./smmuv3-case.ts"
import {
  CD_AT,
  COMMAND_QUEUE,
  EVENT_QUEUE,
  IPA_OFFSET,
  L1_STREAM_TABLE,
  STREAM_TABLE,
} from "./smmuv3-layout.ts"

const { REGISTERS } = registers
const COMMAND_QUEUE_LG2 = 8
/** One page of records. */
export const EVENT_QUEUE_LG2 = 7
const STREAMS = 1024
/** Leaf attributes that allow everything. Stage 1: nG, AF, inner shareable, AP[1]; stage 2: AF, S2AP 11, write-back. */
const S1_LEAF = 0xf40n
const S2_LEAF = 0x7fcn
const TABLE = 3n
const TABLE_BIT = 1
const PCI_BIT = 39
const BLOCK = 1n
/** T0SZ, TG0, T1SZ, TG1, TTB0 bit 39, TTB1; S1ContextPtr bit 39, S2T0SZ, S2SL0, S2TG, S2TTB bit 39. */
const SHAPE_BITS: Readonly<Record<string, readonly (readonly [first: number, last: number])[]>> = {
  CD: [
    [0, 7],
    [16, 23],
    [103, 103],
    [132, 183],
  ],
  STE: [
    [39, 39],
    [160, 167],
    [174, 175],
    [231, 231],
  ],
}
const TG: Readonly<Record<number, bigint>> = { 12: 0n, 14: 2n, 16: 1n }
const TG1: Readonly<Record<number, bigint>> = { 12: 2n, 14: 1n, 16: 3n }

export const EVENT_READS: readonly RegisterRead[] = (
  ["EVENTQ_PROD", "GERROR", "CMDQ_CONS", "CMDQ_PROD", "CR0ACK"] as const
).map(name => ({ name, offset: REGISTERS[name][0], bytes: 4 }))

/** Translation off: with GBPA as it is after reset, addresses pass. §3.11, §6.3.14. */
export const SMMU_BYPASS: readonly RegisterWrite[] = [write32("CR0", 0)]

export function smmuScript(world: World, given: SmmuCase): Script {
  const { places } = world
  const image = new Image()
  // Each stage has its tables in one place, so that an entry can be told from one of the other stage.
  const [low, high] = places.tables
  const [first, second] = given.highTables ? [high, low] : [low, high]
  const isNested = given.config === deviceTable.CONFIG_NESTED
  const ipaOffset = isNested ? IPA_OFFSET : 0
  const stage1 = buildStage1(image, given.stage1, places, new TableAllocator([first]), ipaOffset)
  const windows = isNested ? windowsOf(given.stage2, places) : null
  const stage2 = buildStage2(image, given.stage2, places, new TableAllocator([second]), windows)
  damageEntry(image, stage1, "stage 1", given.damage, leftOutBy(given.stage1))
  damageEntry(image, stage2, "stage 2", given.damage, leftOutBy(given.stage2))
  const cd = damaged(contextDescriptor(given.stage1, stage1, ipaOffset), "CD", withoutShape(given.damage))
  image.store(places.structures + CD_AT, cd)
  const ste = damaged(
    streamTableEntry(given, stage2, places.structures + CD_AT + ipaOffset),
    "STE",
    withoutShape(given.damage),
  )
  for (const id of world.deviceIds) image.store(places.structures + STREAM_TABLE + id * 64, ste)
  const accessed = given.config === deviceTable.CONFIG_S2 ? stage2 : stage1
  return {
    memory: image.words,
    zeroed: [places.structures + COMMAND_QUEUE, places.structures + EVENT_QUEUE],
    bypass: SMMU_BYPASS,
    rounds: [
      {
        stores: new Map(commandWords(places)),
        writes: setUp(given, places, image),
        accesses: given.accesses.map((access, device) => accessOf(access, device, accessed)),
        reads: EVENT_READS,
        areas: [{ address: places.structures + EVENT_QUEUE, bytes: 4096 }],
        acknowledge: [],
      },
    ],
  }
}

/**
 * An entry turned into a block where there are none, of which the book says no more than that it is reserved; and
 * address bit 39, which leads to PCI's memory, where everything reads as ones.
 */
function leftOutBy({ granuleLg2 }: StageCase): (bit: number, level: number) => boolean {
  const blocks = granuleLg2 === 12 ? 2 : 1
  return (bit, level) => bit === PCI_BIT || (bit === TABLE_BIT && level > blocks)
}

/**
 * No bit of a size or a granule: tables of another shape than they are built for are walked through data, and what
 * is found there is nobody's rule. Sizes that are ILLEGAL have their own place in a case. Of the pointers, no bit 39
 * (see {@link leftOutBy}), and nothing of TTB1, which QEMU translates with both stages whether or not it is used.
 */
function withoutShape(damage: SmmuCase["damage"]): SmmuCase["damage"] {
  const isShape =
    damage !== null &&
    SHAPE_BITS[damage.at]?.some(([first, last]) => damage.bit >= first && damage.bit <= last)
  return isShape ? null : damage
}

function buildStage1(
  image: Image,
  stage: StageCase,
  places: Places,
  allocator: TableAllocator,
  ipaOffset: number,
): Stage {
  const shape = shapeOf(stage, 0, S1_LEAF)
  const mappings = leavesOf(stage).map(leaf => mappingOf(shape, stage.inputBits, leaf, places, ipaOffset))
  const tables = buildTables(image, shape, mappings, allocator, at => BigInt(at + ipaOffset))
  return { shape, mappings, tables }
}

function buildStage2(
  image: Image,
  stage: StageCase,
  places: Places,
  allocator: TableAllocator,
  windows: readonly Mapping[] | null,
): Stage {
  const shape = shapeOf(stage, stage.concatenatedLg2, S2_LEAF)
  const mappings = windows ?? leavesOf(stage).map(leaf => mappingOf(shape, stage.inputBits, leaf, places))
  return { shape, mappings, tables: buildTables(image, shape, mappings, allocator) }
}

/** Blocks two levels above pages are there with the 4 KiB granule alone. DDI 0487 J.a §D8.3. */
function leavesOf({ granuleLg2, leaves }: StageCase): readonly LeafCase[] {
  return granuleLg2 === 12 ? leaves : leaves.map(leaf => ({ ...leaf, level: Math.min(leaf.level, 1) }))
}

/** As many levels as the input size needs; stage 2 saves one where concatenated roots reach as far. §D8.2. */
function shapeOf(
  { granuleLg2, inputBits }: StageCase,
  concatenatedLg2: number,
  attributes: bigint,
): TableShape {
  const stride = granuleLg2 - 3
  const levels = Math.max(1, Math.ceil((inputBits - concatenatedLg2 - granuleLg2) / stride))
  return {
    granuleLg2,
    levels,
    rootBits: Math.max(0, inputBits - granuleLg2 - (levels - 1) * stride),
    table: (_, address) => address | TABLE,
    leaf: (level, address) => address | attributes | (level === 0 ? TABLE : BLOCK),
  }
}

/** What stage 1 needs of stage 2: blocks around its structures, its tables and the frames. */
function windowsOf(stage: StageCase, { structures, tables, frames }: Places): Mapping[] {
  const size = 2 ** (stage.granuleLg2 + stage.granuleLg2 - 3)
  const bases = new Set([...frames, structures, ...tables].map(at => Math.floor(at / size) * size))
  return [...bases].map(base => ({
    iova: BigInt(base + IPA_OFFSET),
    level: 1,
    target: BigInt(base),
  }))
}

function contextDescriptor(stage: StageCase, { tables }: Stage, ipaOffset: number): bigint[] {
  const TTB = BigInt(tables.root + ipaOffset) >> 4n
  const size = BigInt(stage.wrongSize ?? 64 - stage.inputBits)
  return pasidTable.CD.encode({
    V: 1n,
    AA64: 1n,
    A: 1n,
    R: 1n,
    T0SZ: size,
    TG0: TG[stage.granuleLg2],
    T1SZ: size,
    TG1: TG1[stage.granuleLg2],
    IPS: BigInt(stage.outputSize),
    ASID: 1n,
    TTB0: TTB,
    TTB1: TTB,
    MAIR0: 0xffn,
  })
}

function streamTableEntry(
  { config, stage2: stage }: SmmuCase,
  { shape, tables }: Stage,
  cd: number,
): bigint[] {
  // The book counts from the root: level 3 is the last. §5.2, S2SL0.
  const start = 4 - shape.levels
  const SL0 = stage.granuleLg2 === 12 ? 2 - start : 3 - start
  return deviceTable.STE.encode({
    V: 1n,
    Config: BigInt(config),
    S1ContextPtr: BigInt(cd) >> 6n,
    S2VMID: 1n,
    S2T0SZ: BigInt(stage.wrongSize ?? 64 - stage.inputBits),
    S2SL0: BigInt(Math.max(0, SL0)),
    S2TG: TG[stage.granuleLg2],
    S2PS: BigInt(stage.outputSize),
    S2AA64: 1n,
    S2R: 1n,
    S2TTB: BigInt(tables.root) >> 4n,
  })
}

function setUp(given: SmmuCase, places: Places, image: Image): RegisterWrite[] {
  const base = places.structures
  const { twoLevel, streamTableLg2, shorterLg2 } = given
  // Every StreamID of the machine has ten bits at most.
  const config = twoLevel ? (1 << 16) | (streamTableLg2 << 6) | 10 : streamTableLg2
  if (twoLevel) writeFirstLevel(image, base, streamTableLg2, streamTableLg2 + 1 - shorterLg2)
  return [
    write32("CR0", 0),
    write32("CR1", 0),
    write32("CR2", registers.CR2_RECINVSID),
    write64("STRTAB_BASE", BigInt(base + (twoLevel ? L1_STREAM_TABLE : STREAM_TABLE))),
    write32("STRTAB_BASE_CFG", config),
    write64("CMDQ_BASE", BigInt(base + COMMAND_QUEUE + COMMAND_QUEUE_LG2)),
    write32("CMDQ_PROD", 0),
    write32("CMDQ_CONS", 0),
    write64("EVENTQ_BASE", BigInt(base + EVENT_QUEUE + EVENT_QUEUE_LG2)),
    write32("EVENTQ_PROD", 0),
    write32("EVENTQ_CONS", 0),
    write32("CR0", registers.CR0_CMDQEN | registers.CR0_EVENTQEN),
    write32("CMDQ_PROD", RESET_COMMANDS.length),
    write32("CR0", registers.CR0_CMDQEN | registers.CR0_EVENTQEN | registers.CR0_SMMUEN),
  ]
}

/** §3.3.1: descriptors of arrays of 2^(Span - 1) STEs, 2^SPLIT STEs from one to the next. */
function writeFirstLevel(image: Image, base: number, split: number, span: number): void {
  for (let first = 0, index = 0; first < STREAMS; first += 2 ** split, index++) {
    const [descriptor] = deviceTable.L1STD.encode({
      Span: BigInt(span),
      L2Ptr: BigInt(base + STREAM_TABLE + first * 64) >> 6n,
    })
    image.write(base + L1_STREAM_TABLE + index * 8, descriptor)
  }
}

/** Nothing of an earlier case stays in a cache. */
export const RESET_COMMANDS: readonly (readonly [bigint, bigint])[] = [
  [BigInt(commands.CMD_CFGI_STE_RANGE), BigInt(commands.CFGI_RANGE_ALL)],
  [BigInt(commands.CMD_TLBI_NSNH_ALL), 0n],
  [BigInt(commands.CMD_SYNC), 0n],
]

function commandWords({ structures }: Places): [number, bigint][] {
  return RESET_COMMANDS.flatMap(([first, second], index): [number, bigint][] => [
    [structures + COMMAND_QUEUE + index * 16, first],
    [structures + COMMAND_QUEUE + index * 16 + 8, second],
  ])
}

export function write32(name: keyof typeof REGISTERS, value: number): RegisterWrite {
  return { offset: REGISTERS[name][0], bytes: 4, value: BigInt(value) }
}

export function write64(name: keyof typeof REGISTERS, value: bigint): RegisterWrite {
  return { offset: REGISTERS[name][0], bytes: 8, value }
}
