/** Descriptors in VT-d's invalidation queue, and its invalidation registers. Intel VT-d 5.10 (D51397-018) §6.5. */
import { commands, registers } from "@iommu/vtd"
import {
  type Command,
  type CommandsDiff,
  type Queue,
  type QueuePlace,
  type RegisterValues,
  turnedOver,
} from "../commands.ts"
import type { RegisterRead, RegisterWrite } from "../script.ts"
import type { World } from "../vendor-diff.ts"
import { PAGE_BYTES, RING, STATUS } from "./vtd-layout.ts"
import { DOMAIN, descriptorsOf, waitDescriptor, write32, write64 } from "./vtd-script.ts"

const { REGISTERS } = registers
const ERRORS = registers.IQE | registers.ITE | registers.ICE
const OTHER_PAGE = 1n << 30n
const TYPES = {
  CC_INV: commands.CC_INV,
  IOTLB_INV: commands.IOTLB_INV,
  DEV_TLB_INV: commands.DEV_TLB_INV,
  IEC_INV: commands.IEC_INV,
  INV_WAIT: commands.INV_WAIT,
  P_IOTLB_INV: commands.P_IOTLB_INV,
  PC_INV: commands.PC_INV,
  P_DEV_TLB_INV: commands.P_DEV_TLB_INV,
} as const
/** Types that no revision of the book has: bits 3:0, and bits 11:9 above them. */
const UNKNOWN = [0x0, 0xa, 0xf, 0x11, 0x42, 0x75]
const STATUS_WORDS = PAGE_BYTES / 8
/** Words of status data that waits write. */
const SLOTS = 8

export const vtdCommands: CommandsDiff = {
  commands: [...Object.keys(TYPES), "INV_WAIT", "IOTLB_INV", "unknown"],
  registers: { on: ["IQT"], off: ["CCMD", "IOTLB", "CCMD", "IOTLB", "IQT", "IQA"] },
  places: ["nowhere", "edge"],
  queue,
  clear: world => ({
    copies: [],
    writes: [
      write32("FSTS", ERRORS),
      write32("ICS", registers.IWC),
      // A reserved granularity: nothing is done, and CAIG and IAIG say so. §11.4.6.1, §11.4.6.3.
      write32("GCMD", registers.TE),
      write64("CCMD", registers.CCMD.encode({ ICC: 1n })[0]),
      { offset: ivaOf(world) + 8, bytes: 8, value: registers.IOTLB.encode({ IVT: 1n })[0] },
    ],
  }),
  encode: (world, command, iova) => {
    const words = descriptorsOf(world.variant, [descriptor(world, command, iova)])
    const flipped = turnedOver(words, command.flip)
    return isPageGroup(flipped) ? words : flipped
  },
  harmless: world => descriptorsOf(world.variant, [waitDescriptor(statusAt(world, 0))]),
  stored: world => Array.from({ length: STATUS_WORDS }, (_, index) => statusAt(world, 0) + index * 8),
  write,
  turn: isOn => (isOn ? [] : [write32("GCMD", registers.TE)]),
  // Only a wait may be the last descriptor of a queue that is turned off. §6.5.2.
  settle: world => {
    const ring = queue(world, "memory")
    const address = write64("IQA", queueAddress(world.variant, ring.base))
    const writes = [write32("FSTS", registers.IQE), address, ...ring.announce(1), ...ring.announce(2)]
    return { copies: [], writes }
  },
  reads,
  determined,
  events: () => [],
}

function queue(world: World, place: QueuePlace): Queue {
  const { places, variant } = world
  const entryBytes = variant === "legacy" ? 16 : 32
  const inPage = PAGE_BYTES / entryBytes
  const base = { memory: places.structures + RING, nowhere: places.nowhere, edge: places.edge - PAGE_BYTES }[
    place
  ]
  const entries = place === "edge" ? 2 * inPage : inPage
  const tail = (end: number): RegisterWrite => write64("IQT", BigInt((end % entries) * entryBytes))
  return {
    base,
    entryBytes,
    entries,
    present: place === "nowhere" ? 0 : inPage,
    arrange: first => [
      write32("GCMD", registers.TE),
      write64("IQA", queueAddress(variant, base) | (place === "edge" ? 1n : 0n)),
      write64("IQT", 0n),
      write32("GCMD", (registers.TE | registers.QIE) >>> 0),
      // The head moves by descriptors alone.
      tail(first),
    ],
    announce: end => [tail(end)],
    recover: end =>
      place === "memory"
        ? {
            copies: [],
            writes: [write32("FSTS", ERRORS), write32("ICS", registers.IWC), tail(end)],
          }
        : null,
  }
}

function queueAddress(variant: string, base: number): bigint {
  return BigInt(base) | (variant === "legacy" ? 0n : BigInt(registers.IQA_DW))
}

function statusAt({ places }: World, slot: number): number {
  return places.structures + STATUS + slot * 8
}

function descriptor(world: World, { name, operands, flip }: Command, iova: bigint): readonly bigint[] {
  const G = BigInt(operands & 3)
  const DID = DOMAIN + BigInt((operands >> 2) & 1)
  const ADDR = addressOf(operands, iova) >> 12n
  const AM = amOf(operands)
  const IH = BigInt((operands >> 6) & 1)
  const SID = BigInt(world.deviceIds[(operands >> 7) & 1])
  const PASID = BigInt((operands >> 8) & 1)
  switch (name) {
    case "CC_INV":
      return commands.CC_INV_DSC.encode({ Type: 1n, G, DID, SID, FM: BigInt((operands >> 8) & 3) })
    case "IOTLB_INV":
      return commands.IOTLB_INV_DSC.encode({ Type: 2n, G, DID, AM, IH, ADDR, DR: PASID, DW: IH })
    case "DEV_TLB_INV":
      return commands.DEV_TLB_INV_DSC.encode({ Type: 3n, SID, ADDR, S: IH })
    case "IEC_INV":
      return commands.IEC_INV_DSC.encode({ Type: 4n, G: G & 1n, IM: BigInt((operands >> 2) & 31), IIDX: SID })
    case "INV_WAIT":
      return wait(world, operands, flip)
    case "P_IOTLB_INV":
      return commands.P_IOTLB_INV_DSC.encode({ Type: 6n, G, DID, PASID, AM, IH, ADDR })
    case "PC_INV":
      return commands.PC_INV_DSC.encode({ Type: 7n, G, DID, PASID })
    case "P_DEV_TLB_INV":
      return commands.P_DEV_TLB_INV_DSC.encode({ Type: 8n, SID, PASID, ADDR, S: IH, GI: G & 1n })
    default: {
      const type = UNKNOWN[operands % UNKNOWN.length]
      return [BigInt((type & 15) | ((type >> 4) << 9)), 0n, 0n, 0n]
    }
  }
}

function wait(world: World, operands: number, flip: number | null): readonly bigint[] {
  // Both, interrupt and status, seldom: it ends some QEMUs.
  const isBoth = (operands & 0xff) === 0xff
  const isInterrupt = (operands & 3) === 1
  const isNeither = (operands & 3) === 2
  const slot = leavesStatus(flip) ? 0 : (operands >> 4) % SLOTS
  return commands.INV_WAIT_DSC.encode({
    Type: BigInt(commands.INV_WAIT),
    IF: isBoth || isInterrupt ? 1n : 0n,
    SW: isBoth || !(isInterrupt || isNeither || leavesStatus(flip)) ? 1n : 0n,
    FN: BigInt((operands >> 2) & 1),
    STDATA: BigInt(0x1000 + operands),
    STADDR: BigInt(statusAt(world, slot)) >> 2n,
  })
}

/** Page group responses are left out: QEMU 11 takes some, though it has no page requests (ECAP.PRS). */
function isPageGroup([first]: readonly bigint[]): boolean {
  return Number(first & BigInt(commands.TYPE_MASK)) === commands.PAGE_GRP_RESP
}

/** A bit of STADDR that leads to other memory, or to none, of which the book says nothing. §6.5.2.9. */
function leavesStatus(flip: number | null): boolean {
  return flip !== null && flip >= 64 + 12 && flip < 128
}

function addressOf(operands: number, iova: bigint): bigint {
  const isOther = ((operands >> 3) & 1) === 1
  return BigInt.asUintN(64, isOther ? iova ^ OTHER_PAGE : iova)
}

/** Up to MAMV of QEMU and beyond. §6.5.2.3. */
function amOf(operands: number): bigint {
  return [0n, 1n, 9n, 0n, 18n, 19n, 0n, 63n][(operands >> 4) & 7]
}

function write(world: World, { name, operands, flip }: Command, iova: bigint): readonly RegisterWrite[] {
  const flips = flip === null ? 0n : 1n << BigInt(flip)
  const granularity = BigInt(operands & 3)
  const DID = DOMAIN + BigInt((operands >> 2) & 1)
  switch (name) {
    case "CCMD": {
      const SID = BigInt(world.deviceIds[(operands >> 7) & 1])
      const [value] = registers.CCMD.encode({
        DID,
        SID,
        FM: BigInt((operands >> 8) & 3),
        CIRG: granularity,
        ICC: 1n,
      })
      return [write64("CCMD", value ^ flips)]
    }
    case "IOTLB": {
      const iva = ivaOf(world)
      const IH = BigInt((operands >> 6) & 1)
      const [address] = registers.IVA.encode({
        AM: amOf(operands),
        IH,
        ADDR: addressOf(operands, iova) >> 12n,
      })
      const [value] = registers.IOTLB.encode({ DID, IIRG: granularity, IVT: 1n })
      return [
        { offset: iva, bytes: 8, value: address },
        { offset: iva + 8, bytes: 8, value: value ^ flips },
      ]
    }
    case "IQT": {
      // Of 256-bit descriptors a multiple: bit 4 is an error by itself, with the queue off as well in some QEMUs.
      const unit = world.variant === "legacy" ? 4n : 5n
      return [write64("IQT", (BigInt(operands) << unit) ^ (flip === 4 ? 0n : flips))]
    }
    default: {
      const base = queueAddress(world.variant, world.places.structures + RING)
      return [write64("IQA", base ^ flips ^ BigInt(operands & 7))]
    }
  }
}

function ivaOf({ identity }: World): number {
  return registers.ivaOffset(identity["ECAP"])
}

/**
 * What a read of SID and FM gives is undefined, and hardware may do more than it was asked for: CAIG says whether it did
 * anything. §11.4.6.1.
 */
function determined(values: RegisterValues): RegisterValues {
  const { DID, CAIG, CIRG, ICC } = registers.CCMD.decode([values["CCMD"]])
  const [CCMD] = registers.CCMD.encode({ DID, CAIG: CAIG === 0n ? 0n : 1n, CIRG, ICC })
  return { ...values, CCMD }
}

function reads(world: World): RegisterRead[] {
  const narrow = (["FSTS", "GSTS", "ICS", "IECTL"] as const).map(
    (name): RegisterRead => ({ name, offset: REGISTERS[name][0], bytes: 4 }),
  )
  const wide = (["IQH", "IQT", "IQA", "IQERCD", "CCMD"] as const).map(
    (name): RegisterRead => ({ name, offset: REGISTERS[name][0], bytes: 8 }),
  )
  return [...narrow, ...wide, { name: "IOTLB", offset: ivaOf(world) + 8, bytes: 8 }]
}
