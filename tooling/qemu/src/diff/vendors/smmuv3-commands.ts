/** Commands in SMMUv3's Command queue. Arm IHI 0070 G.b chapter 4, §3.5, §7.1. */
import { commands, registers } from "@iommu/smmuv3"
import {
  type Command,
  type CommandsDiff,
  type Queue,
  type QueuePlace,
  type RegisterValues,
  turnedOver,
} from "../commands.ts"
import type { RegisterCopy, RegisterRead, RegisterWrite } from "../script.ts"
import type { World } from "../vendor-diff.ts"
import { COMMAND_RING, RING_ENTRIES, RING_LG2 } from "./smmuv3-layout.ts"
import { write32, write64 } from "./smmuv3-script.ts"

const { REGISTERS } = registers
const OTHER_PAGE = 1n << 30n
const QUEUES = registers.CR0_CMDQEN | registers.CR0_EVENTQEN
/** Of no revision of the book, and of the other security states. §4.1.1. */
const UNKNOWN = [0x00, 0x08, 0x14, 0x18, 0x1a, 0x29, 0x2b, 0x31, 0x42, 0x47, 0x60, 0xff]
const HARMLESS: readonly bigint[] = [BigInt(commands.CMD_SYNC), 0n]
const NAMES = new Map([...commands.COMMANDS].map(([opcode, layout]) => [layout.name, opcode]))

const OFF: RegisterWrite = write32("CR0", registers.CR0_EVENTQEN | registers.CR0_SMMUEN)
/** GERRORN as GERROR: no error is active. §6.3.20. */
const ACKNOWLEDGE: readonly RegisterCopy[] = [
  { from: REGISTERS.GERROR[0], to: REGISTERS.GERRORN[0], bytes: 4 },
]

const READS: readonly RegisterRead[] = [
  ...(["CMDQ_PROD", "CMDQ_CONS", "GERROR", "GERRORN", "CR0ACK"] as const).map(
    (name): RegisterRead => ({ name, offset: REGISTERS[name][0], bytes: 4 }),
  ),
  { name: "CMDQ_BASE", offset: REGISTERS.CMDQ_BASE[0], bytes: 8 },
]

export const smmuv3Commands: CommandsDiff = {
  commands: [...NAMES.keys(), "CMD_SYNC", "unknown"],
  // The others are guarded by CR0.CMDQEN. §6.3.26, §6.3.28.
  registers: { on: ["CMDQ_PROD on"], off: ["CMDQ_BASE", "CMDQ_PROD", "CMDQ_CONS"] },
  places: ["nowhere"],
  queue,
  clear: () => ({ copies: ACKNOWLEDGE, writes: [] }),
  encode,
  harmless: () => HARMLESS,
  stored: () => [],
  write,
  turn: isOn => (isOn ? [] : [OFF]),
  settle: () => ({ writes: [OFF], copies: ACKNOWLEDGE }),
  reads: () => READS,
  determined,
  events: () => [],
}

function queue({ places }: World, place: QueuePlace): Queue {
  const inMemory = places.structures + COMMAND_RING
  const base = place === "memory" ? inMemory : places.nowhere
  const arrange = (at: number, entry: number): RegisterWrite[] => [
    OFF,
    write64("CMDQ_BASE", BigInt(at + RING_LG2)),
    write32("CMDQ_PROD", indexOf(entry)),
    write32("CMDQ_CONS", indexOf(entry)),
    write32("CR0", QUEUES | registers.CR0_SMMUEN),
  ]
  return {
    base,
    entryBytes: commands.COMMAND_BYTES,
    entries: RING_ENTRIES,
    present: place === "memory" ? RING_ENTRIES : 0,
    arrange: first => arrange(base, first),
    announce: end => [write32("CMDQ_PROD", indexOf(end))],
    recover: end => ({
      // §7.1: by the acknowledgement commands are consumed again, where the index says.
      copies: ACKNOWLEDGE,
      writes: [...(place === "memory" ? [] : arrange(inMemory, end - 1)), write32("CMDQ_PROD", indexOf(end))],
    }),
  }
}

/**
 * ERR is UNKNOWN while the error is not active, and bits of an index beyond the queue are; other RES0 bits may keep what
 * is written. §6.3.26 to §6.3.28. GERROR and GERRORN toggle from where they are. §6.3.19.
 */
function determined(values: RegisterValues, start: RegisterValues): RegisterValues {
  const isActive = ((values["GERROR"] ^ values["GERRORN"]) & BigInt(registers.GERROR_CMDQ_ERR)) !== 0n
  const index = BigInt(2 * RING_ENTRIES - 1)
  return {
    ...values,
    CMDQ_BASE: values["CMDQ_BASE"] & 0x40ff_ffff_ffff_ffffn,
    CMDQ_PROD: values["CMDQ_PROD"] & index,
    CMDQ_CONS: values["CMDQ_CONS"] & (isActive ? index | BigInt(registers.CMDQ_CONS_ERR) : index),
    GERROR: values["GERROR"] ^ start["GERROR"],
    GERRORN: values["GERRORN"] ^ start["GERRORN"],
  }
}

/** An index with its wrap bit. §3.5.1. */
function indexOf(entry: number): number {
  return entry % (2 * RING_ENTRIES)
}

function encode(world: World, { name, operands, flip }: Command, iova: bigint): readonly bigint[] {
  const opcode = NAMES.get(name)
  const layout = opcode === undefined ? undefined : commands.COMMANDS.get(opcode)
  if (opcode === undefined || layout === undefined) {
    return turnedOver([BigInt(UNKNOWN[operands % UNKNOWN.length]), 0n], flip)
  }
  const bit = (at: number): bigint => BigInt((operands >> at) & 1)
  const isRange = bit(8) === 1n
  const other = bit(3) === 1n ? iova ^ OTHER_PAGE : iova
  const page = BigInt.asUintN(name === "CMD_TLBI_S2_IPA" ? 56 : 64, other) >> 12n
  const values: Readonly<Record<string, bigint>> = {
    Opcode: BigInt(opcode),
    StreamID: BigInt(world.deviceIds[(operands >> 7) & 1]),
    VMID: 1n + bit(4),
    ASID: 1n + bit(5),
    Leaf: bit(6),
    // A range starts at a multiple of its granule; one at a multiple of a block is not asked for. §4.4.1.1.
    Address: isRange ? page & ~0xfn : page,
    TG: isRange ? BigInt((operands >> 9) & 3) : 0n,
    NUM: isRange ? BigInt((operands >> 11) & 7) : 0n,
    SCALE: isRange ? bit(14) : 0n,
    TTL: isRange ? 3n * bit(0) : 0n,
    Range: BigInt([0, 3, 7, 31][operands & 3]),
    Size: BigInt([0, 1, 52, 2][operands & 3]) & (name === "CMD_PREFETCH_ADDR" ? 7n : 63n),
    Resp: BigInt(operands & 3),
    CS: BigInt(operands & 3),
    STAG: BigInt(operands),
    Ac: bit(0),
    Ab: bit(1),
  }
  const fields = Object.entries(values).filter(([field]) => field in layout.fields)
  const isUnpredictable = isRange && "TTL" in layout.fields && flip !== null && RANGE_BITS.includes(flip)
  return turnedOver(layout.encode(Object.fromEntries(fields)), isUnpredictable ? null : flip)
}

/** Bits of TTL and of an address within a granule: what a range then covers is UNPREDICTABLE. §4.4.1.1. */
const RANGE_BITS = [72, 73, 76, 77, 78, 79]

function write(
  { places }: World,
  { name, operands, flip }: Command,
  _: bigint,
  entry: number,
): readonly RegisterWrite[] {
  const flips = flip === null ? 0n : 1n << BigInt(flip)
  const index = BigInt(indexOf(entry)) ^ BigInt.asUintN(20, flips)
  switch (name) {
    case "CMDQ_PROD on":
      // Bits above the wrap bit: what the others say has to fit CMDQ_CONS.
      return [write32("CMDQ_PROD", Number(index | 0x1fn) & (indexOf(entry) | ~0x1f))]
    case "CMDQ_PROD":
    case "CMDQ_CONS":
      return [write32(name, Number(index ^ (BigInt(operands) & 0xffffn)))]
    default:
      return [write64("CMDQ_BASE", BigInt(places.structures + COMMAND_RING + (operands & 15)) ^ flips)]
  }
}
