/** Commands in AMD-Vi's command buffer. AMD 48882 rev 3.10 §2.4. */
import { commands, registers } from "@iommu/amd"
import { type Command, type CommandsDiff, type Queue, type QueuePlace, turnedOver } from "../commands.ts"
import type { Observation, RegisterRead, RegisterWrite, Script } from "../script.ts"
import type { World } from "../vendor-diff.ts"
import { eventsOf } from "./amd-events.ts"
import { COMMAND_RING, EVENT_LOG, PAGE_ENTRIES, STORED } from "./amd-layout.ts"
import { DOMAIN, EVENT_LOG_BYTES, EVT_TAIL, write64 } from "./amd-script.ts"

const { REGISTERS, CONTROL_CmdBufEn, CONTROL_EventLogEn, CONTROL_IommuEn } = registers
const { OPCODE } = commands
const OTHER_PAGE = 1n << 30n
const PAGE = 4096
const STORED_WORDS = PAGE / 8
const SLOTS = 8
/** 256 entries are the fewest. */
const LEN = 8n
const ON = BigInt(CONTROL_IommuEn | CONTROL_EventLogEn | CONTROL_CmdBufEn)
const OFF = BigInt(CONTROL_IommuEn | CONTROL_EventLogEn)
const QUIET = BigInt(CONTROL_IommuEn | CONTROL_CmdBufEn)
const UNKNOWN = [0n, 11n, 12n, 13n, 14n, 15n]

const SERVED: RegisterWrite = write64(
  "STATUS",
  BigInt(registers.STATUS_ComWaitInt | registers.STATUS_EventLogInt | registers.STATUS_EventOverflow),
)

const READS: readonly RegisterRead[] = (
  ["CMDBUF_BASE", "CMD_HEAD", "CMD_TAIL", "STATUS", EVT_TAIL] as const
).map((name): RegisterRead => ({ name, offset: REGISTERS[name][0], bytes: 8 }))

export const amdCommands: CommandsDiff = {
  commands: [...Object.keys(OPCODE), "COMPLETION_WAIT", "unknown"],
  registers: { on: ["CMD_TAIL", "STATUS"], off: ["CMD_HEAD", "CMD_TAIL", "CMDBUF_BASE", "STATUS"] },
  places: ["nowhere", "edge"],
  queue,
  clear: ({ places }) => ({
    // The log starts anew: what accesses left in it is not compared here.
    writes: [
      write64("CONTROL", QUIET),
      SERVED,
      write64("EVTLOG_BASE", BigInt(places.structures + EVENT_LOG) | (LEN << 56n)),
    ],
    copies: [],
  }),
  encode: (world, command, iova) => turnedOver(encode(world, command, iova), command.flip),
  harmless: () => commands.COMPLETION_WAIT.encode({ Opcode: BigInt(OPCODE.COMPLETION_WAIT) }),
  stored: world => Array.from({ length: STORED_WORDS }, (_, index) => storedAt(world, 0) + index * 8),
  write,
  turn: isOn => [write64("CONTROL", isOn ? ON : OFF)],
  settle: () => ({ copies: [], writes: [write64("CONTROL", QUIET)] }),
  reads: () => READS,
  // Events are compared word by word.
  determined: values => ({ ...values, [EVT_TAIL]: 0n }),
  events,
}

function queue(world: World, place: QueuePlace): Queue {
  const { places } = world
  const bases = {
    memory: places.structures + COMMAND_RING,
    nowhere: places.nowhere,
    edge: places.edge - PAGE,
  }
  const entries = place === "edge" ? 2 * PAGE_ENTRIES : PAGE_ENTRIES
  const length = place === "edge" ? LEN + 1n : LEN
  const pointer = (entry: number): bigint => BigInt((entry % entries) * commands.COMMAND_BYTES)
  const announce = (end: number): RegisterWrite => write64("CMD_TAIL", pointer(end))
  const restart = (end: number): readonly RegisterWrite[] => {
    if (place === "memory") return [write64("CONTROL", OFF), write64("CONTROL", ON), announce(end)]
    const ring = queue(world, "memory")
    return [...ring.arrange(end - 1), ...ring.announce(end)]
  }
  return {
    base: bases[place],
    entryBytes: commands.COMMAND_BYTES,
    entries,
    present: place === "nowhere" ? 0 : PAGE_ENTRIES,
    arrange: first => [
      write64("CONTROL", OFF),
      write64("CMDBUF_BASE", BigInt(bases[place]) | (length << 56n)),
      write64("CMD_HEAD", pointer(first)),
      write64("CMD_TAIL", pointer(first)),
      write64("CONTROL", ON),
    ],
    announce: end => [announce(end)],
    recover: end => ({ writes: [SERVED, ...restart(end)], copies: [] }),
  }
}

function storedAt({ places }: World, slot: number): number {
  return places.structures + STORED + slot * 8
}

function encode(world: World, { name, operands, flip }: Command, iova: bigint): readonly bigint[] {
  const bit = (at: number): bigint => BigInt((operands >> at) & 1)
  const DeviceID = BigInt(world.deviceIds[(operands >> 7) & 1])
  const page = BigInt.asUintN(64, bit(3) === 1n ? iova ^ OTHER_PAGE : iova) >> 12n
  const range = { Address: bit(5) === 1n ? page | 0xfn : page, S: bit(4), GN: 0n }
  switch (name) {
    case "COMPLETION_WAIT":
      return wait(world, operands, flip)
    case "INVALIDATE_DEVTAB_ENTRY":
      return commands.INVALIDATE_DEVTAB_ENTRY.encode({ DeviceID, Opcode: 2n })
    case "INVALIDATE_IOMMU_PAGES": {
      const DomainID = DOMAIN + bit(2)
      return commands.INVALIDATE_IOMMU_PAGES.encode({ DomainID, Opcode: 3n, PDE: bit(6), ...range })
    }
    case "INVALIDATE_IOTLB_PAGES":
      return commands.INVALIDATE_IOTLB_PAGES.encode({
        DeviceID,
        QueueID: DeviceID,
        MaxPend: 1n,
        Opcode: 4n,
        ...range,
      })
    case "INVALIDATE_INTERRUPT_TABLE":
      return commands.INVALIDATE_INTERRUPT_TABLE.encode({ DeviceID, Opcode: 5n })
    case "PREFETCH_IOMMU_PAGES":
      return commands.PREFETCH_IOMMU_PAGES.encode({
        DeviceID,
        PFCount: 1n,
        Opcode: 6n,
        Inval: bit(6),
        ...range,
      })
    case "COMPLETE_PPR_REQUEST":
      return commands.COMPLETE_PPR_REQUEST.encode({
        DeviceID,
        Opcode: 7n,
        CompletionTag: BigInt(operands & 15),
      })
    case "INVALIDATE_IOMMU_ALL":
      return commands.INVALIDATE_IOMMU_ALL.encode({ Opcode: 8n })
    case "INSERT_GUEST_EVENT":
    case "RESET_VMMIO":
      return [BigInt(OPCODE[name]) << 60n, 0n]
    default:
      return [UNKNOWN[operands % UNKNOWN.length] << 60n, 0n]
  }
}

function wait(world: World, operands: number, flip: number | null): readonly bigint[] {
  const slot = leavesStored(flip) ? 0 : (operands >> 4) % SLOTS
  return commands.COMPLETION_WAIT.encode({
    S: leavesStored(flip) ? 0n : BigInt(operands & 1),
    I: BigInt((operands >> 1) & 1),
    F: BigInt((operands >> 2) & 1),
    StoreAddress: BigInt(storedAt(world, slot)) >> 3n,
    Opcode: BigInt(OPCODE.COMPLETION_WAIT),
    StoreData: BigInt(0x1000 + operands) | (1n << 48n),
  })
}

/** A bit of the address that leads to other memory, or to none. */
function leavesStored(flip: number | null): boolean {
  return flip !== null && flip >= 12 && flip < 52
}

function write({ places }: World, { name, operands, flip }: Command): readonly RegisterWrite[] {
  const flips = flip === null ? 0n : 1n << BigInt(flip)
  switch (name) {
    case "CMD_HEAD":
    case "CMD_TAIL": {
      // Within the buffer: a tail that the head never meets keeps QEMU at it for ever.
      const pointer = BigInt((operands % PAGE_ENTRIES) * commands.COMMAND_BYTES)
      const inBuffer = flip !== null && flip >= 4 && flip < 19 ? 0n : flips
      return [write64(name, pointer ^ inBuffer)]
    }
    case "CMDBUF_BASE": {
      const pointer = BigInt((operands % PAGE_ENTRIES) * commands.COMMAND_BYTES)
      const value = (BigInt(places.structures + COMMAND_RING) | (LEN << 56n)) ^ flips
      return [write64("CMD_HEAD", pointer), write64("CMD_TAIL", pointer), write64(name, value)]
    }
    default:
      return [write64("STATUS", BigInt(operands) ^ flips)]
  }
}

function events(
  { places }: World,
  { rounds }: Script,
  observation: Observation,
): readonly (readonly bigint[])[] {
  const round = rounds.findLastIndex(({ areas }) =>
    areas.some(({ address }) => address === places.structures + EVENT_LOG),
  )
  if (round < 0) return []
  const { registers: values, areas } = observation.rounds[round]
  const tail = Number(values[READS.findIndex(({ name }) => name === EVT_TAIL)]) % EVENT_LOG_BYTES
  return eventsOf(areas[0], tail)
}
