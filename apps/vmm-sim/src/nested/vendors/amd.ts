import { amdDriver, amdModel, commands, deviceTable, events, registers } from "@iommu/amd"
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
import { readWords } from "../read-words.ts"
import type { GuestCommand, GuestEntry, NestedVendor } from "../vendor.ts"

const { REGISTERS } = registers
const CONTROL_IOMMU_EN = 1n
const BLOCKED: GuestEntry = { kind: "blocked" }
const BYPASS: GuestEntry = { kind: "bypass" }

export const amd: NestedVendor = {
  name: "AMD-Vi",
  formats: { stage1: "AMD v2 (x86-64)", stage2: "AMD v1" },
  hostModel: (memory, caches) => amdModel({ memory, caches }),
  guestModel: memory => amdModel({ memory }),
  hostDriver: amdDriver,
  guestDriver: (platform, options) => amdDriver(platform, { ...options, maxDeviceId: 0xff }),
  viommu: {
    type: ViommuType.AMD,
    events: { type: VeventqType.AMD, size: events.EVENT_BYTES, deliver: deliverEvent },
  },
  guestPaging: pagingParameters({ format: PageTableFormatId.AMD_V2, levels: 4 }),
  guestEntry,
  guestCommand,
}

/** The device table entry. AMD 48882 rev 3.10 §2.2.2. */
function guestEntry(mmio: Mmio, memory: PhysicalMemory, device: number): GuestEntry {
  if ((mmio.read64(REGISTERS.CONTROL[0]) & CONTROL_IOMMU_EN) === 0n) return BYPASS
  const base = mmio.read64(REGISTERS.DEVTAB_BASE[0])
  const pages = (base & 0x1ffn) + 1n
  if (BigInt(device) * 32n >= pages * 4096n) return BLOCKED
  const dte = readWords(memory, (base & 0x000f_ffff_ffff_f000n) + BigInt(device) * 32n, 4)
  const field = (name: keyof typeof deviceTable.DTE.fields): bigint => deviceTable.DTE.get(dte, name)
  if (field("V") === 0n) return BYPASS
  if (field("TV") === 0n || field("Mode") !== 0n) return BLOCKED
  if (field("GV") === 0n) return field("IR") + field("IW") === 0n ? BLOCKED : BYPASS
  const [word0, word1, word2, word3] = dte as [bigint, bigint, bigint, bigint]
  return { kind: "translated", data: { type: 3, dte: [word0, word1, word2, word3] } }
}

/** §2.4: commands on entries make the host read them again; page invalidations go to the host as they are. */
function guestCommand({ words }: Invalidation): GuestCommand {
  const [word0, word1] = words as [bigint, bigint]
  switch (Number(word0 >> 60n)) {
    case commands.OPCODE.INVALIDATE_DEVTAB_ENTRY:
      return { kind: "entry", device: Number(word0 & 0xffffn) }
    case commands.OPCODE.INVALIDATE_IOMMU_ALL:
      return { kind: "entry", device: "all" }
    case commands.OPCODE.INVALIDATE_IOMMU_PAGES:
    case commands.OPCODE.INVALIDATE_IOTLB_PAGES:
      return { kind: "cache", data: { type: 0x8000_0003, entries: [{ cmd: [word0, word1] }] } }
    default:
      return { kind: "none" }
  }
}

/** The hardware's side of the event log, §2.5.1: what finds no room is lost, and EventOverflow says so. */
function deliverEvent(front: IommuModel, memory: PhysicalMemory, event: Uint8Array): void {
  const { mmio } = front
  const base = mmio.read64(REGISTERS.EVTLOG_BASE[0])
  const bytes = events.EVENT_BYTES * 2 ** Number((base >> 56n) & 0xfn)
  const tail = mmio.read32(REGISTERS.EVT_TAIL[0]) % bytes
  const next = (tail + events.EVENT_BYTES) % bytes
  const status = mmio.read64(REGISTERS.STATUS[0])
  if (next === mmio.read32(REGISTERS.EVT_HEAD[0]) % bytes) {
    const stopped = status & ~BigInt(registers.STATUS_EventLogRun)
    front.restoreRegisters({ STATUS: stopped | BigInt(registers.STATUS_EventOverflow) })
    return
  }
  memory.write((base & 0x000f_ffff_ffff_f000n) + BigInt(tail), event)
  front.restoreRegisters({
    EVT_TAIL: BigInt(next),
    STATUS: status | BigInt(registers.STATUS_EventLogInt),
  })
}
