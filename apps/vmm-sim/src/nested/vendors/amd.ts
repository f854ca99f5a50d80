import { amdDriver, amdModel, commands, deviceTable, registers } from "@iommu/amd"
import {
  type Invalidation,
  type Mmio,
  PageTableFormatId,
  type PhysicalMemory,
  pagingParameters,
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
  guestDriver: platform => amdDriver(platform, { maxDeviceId: 0xff }),
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
