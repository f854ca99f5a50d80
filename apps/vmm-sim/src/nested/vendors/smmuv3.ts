import {
  type Invalidation,
  type IommuModel,
  type Mmio,
  PageTableFormatId,
  type PhysicalMemory,
  pagingParameters,
  VeventqType,
  ViommuType,
} from "@iommu/core"
import { commands, deviceTable, events, registers, smmuv3Driver, smmuv3Model } from "@iommu/smmuv3"
import { readWords } from "../read-words.ts"
import type { GuestCommand, GuestEntry, NestedVendor } from "../vendor.ts"

const { REGISTERS } = registers
const CONFIG_ABORT = 0n
/** The guest's StreamIDs have 8 bits, its queues 256 entries; it sends no SubstreamIDs. */
const GUEST_IDR1 = Number(registers.IDR1.encode({ SIDSIZE: 8n, CMDQS: 8n, EVENTQS: 8n, PRIQS: 8n })[0])
/** The STE bits that a guest may choose: word 0 V, Config, S1Fmt, S1ContextPtr, S1CDMax; word 1 S1DSS to EATS. */
const GUEST_BITS = [0xf80f_ffff_ffff_ffffn, 0x3800_00ffn] as const

export const smmuv3: NestedVendor = {
  name: "Arm SMMUv3",
  formats: { stage1: "VMSAv8-64 stage 1, 4K granule", stage2: "VMSAv8-64 stage 2, 4K granule" },
  hostModel: (memory, caches) => smmuv3Model({ memory, caches }),
  guestModel: memory => smmuv3Model({ memory, id: { IDR1: GUEST_IDR1 } }),
  hostDriver: smmuv3Driver,
  guestDriver: smmuv3Driver,
  viommu: {
    type: ViommuType.ARM_SMMUV3,
    events: { type: VeventqType.ARM_SMMUV3, size: events.EVENT_BYTES, deliver: deliverEvent },
  },
  guestPaging: pagingParameters({ format: PageTableFormatId.ARM_64_LPAE_S1 }),
  guestEntry,
  guestCommand,
}

/** The Stream table entry, linear or two-level. IHI 0070 G.b §3.3.1, §3.3.2. */
function guestEntry(mmio: Mmio, memory: PhysicalMemory, device: number): GuestEntry {
  if ((mmio.read32(REGISTERS.CR0[0]) & registers.CR0_SMMUEN) === 0) return { kind: "bypass" }
  const address = entryAddress(mmio, memory, device)
  if (address === null) return { kind: "blocked" }
  const ste = readWords(memory, address, 2)
  const config = deviceTable.STE.get(ste, "Config")
  if (deviceTable.STE.get(ste, "V") === 0n || config === CONFIG_ABORT) return { kind: "blocked" }
  const [word0, word1] = ste as [bigint, bigint]
  return { kind: "translated", data: { type: 2, ste: [word0 & GUEST_BITS[0], word1 & GUEST_BITS[1]] } }
}

function entryAddress(mmio: Mmio, memory: PhysicalMemory, device: number): bigint | null {
  const base = mmio.read64(REGISTERS.STRTAB_BASE[0]) & 0x00ff_ffff_ffff_ffc0n
  const config = mmio.read32(REGISTERS.STRTAB_BASE_CFG[0])
  if (device >= 2 ** (config & registers.STRTAB_BASE_CFG_LOG2SIZE)) return null
  const format = (config & registers.STRTAB_BASE_CFG_FMT) >>> registers.STRTAB_BASE_CFG_FMT_SHIFT
  if (format === registers.STRTAB_FMT_LINEAR) return base + BigInt(device * deviceTable.STE_BYTES)
  const split = (config & registers.STRTAB_BASE_CFG_SPLIT) >>> registers.STRTAB_BASE_CFG_SPLIT_SHIFT
  const descriptor = [memory.read64(base + BigInt((device >> split) * deviceTable.L1STD_BYTES))]
  const span = Number(deviceTable.L1STD.get(descriptor, "Span"))
  const index = device & (2 ** split - 1)
  if (span === 0 || index >= 2 ** (span - 1)) return null
  return deviceTable.L1STD.getInPlace(descriptor, "L2Ptr") + BigInt(index * deviceTable.STE_BYTES)
}

/** Commands on entries make the host read them again; TLB and CD commands go to the host as they are. */
function guestCommand({ words }: Invalidation): GuestCommand {
  const [word0, word1] = words as [bigint, bigint]
  const opcode = Number(word0 & 0xffn)
  switch (opcode) {
    case commands.CMD_CFGI_STE:
      return { kind: "entry", device: Number(word0 >> 32n) }
    case commands.CMD_CFGI_STE_RANGE:
      return { kind: "entry", device: "all" }
    case commands.CMD_CFGI_CD:
    case commands.CMD_CFGI_CD_ALL:
    case commands.CMD_TLBI_NH_ALL:
    case commands.CMD_TLBI_NH_ASID:
    case commands.CMD_TLBI_NH_VA:
    case commands.CMD_TLBI_NH_VAA:
    case commands.CMD_TLBI_NSNH_ALL:
    case commands.CMD_ATC_INV:
      return { kind: "cache", data: { type: 1, entries: [{ cmd: [word0, word1] }] } }
    default:
      return { kind: "none" }
  }
}

/** The producer's side of the Event queue, IHI 0070 G.b §7.2: what finds no room is lost, and OVFLG says so. */
function deliverEvent(front: IommuModel, memory: PhysicalMemory, event: Uint8Array): void {
  const { mmio } = front
  const base = mmio.read64(REGISTERS.EVENTQ_BASE[0])
  const size = 2 ** Number(base & BigInt(registers.QUEUE_BASE_LOG2SIZE))
  const prod = mmio.read32(REGISTERS.EVENTQ_PROD[0])
  const cons = mmio.read32(REGISTERS.EVENTQ_CONS[0])
  if (((prod - cons) & (2 * size - 1)) >= size) {
    const overflows = ((prod ^ cons) & registers.QUEUE_PROD_OVFLG) === 0
    const flagged = overflows ? (prod ^ registers.QUEUE_PROD_OVFLG) >>> 0 : prod
    front.restoreRegisters({ EVENTQ_PROD: BigInt(flagged) })
    return
  }
  const slot = BigInt(prod & (size - 1))
  memory.write((base & 0x00ff_ffff_ffff_ffe0n) + slot * BigInt(events.EVENT_BYTES), event)
  const next = (prod & registers.QUEUE_PROD_OVFLG) | ((prod + 1) & (2 * size - 1))
  front.restoreRegisters({ EVENTQ_PROD: BigInt(next >>> 0) })
}
