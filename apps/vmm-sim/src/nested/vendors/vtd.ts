import {
  type Invalidation,
  type Mmio,
  PageTableFormatId,
  type PhysicalMemory,
  pagingParameters,
} from "@iommu/core"
import { commands, deviceTable, pasidTable, registers, vtdDriver, vtdModel } from "@iommu/vtd"
import { readWords } from "../read-words.ts"
import type { GuestCommand, GuestEntry, NestedVendor } from "../vendor.ts"
import { GUEST_CAPABILITIES } from "./vtd-capabilities.ts"

const { REGISTERS } = registers
const EVERYTHING_PAGES = 0xffff_ffff_ffff_ffffn
const BLOCKED: GuestEntry = { kind: "blocked" }

export const vtd: NestedVendor = {
  name: "Intel VT-d",
  formats: { stage1: "x86-64 first stage", stage2: "VT-d second stage" },
  hostModel: (memory, caches) => vtdModel({ memory, caches }),
  guestModel: memory => vtdModel({ memory, capabilities: GUEST_CAPABILITIES }),
  hostDriver: vtdDriver,
  guestDriver: vtdDriver,
  viommu: null,
  guestPaging: pagingParameters({ format: PageTableFormatId.X86_64_FIRST_STAGE }),
  guestEntry,
  guestCommand,
}

/** Root, context, PASID directory, PASID table entry of requests without PASID. VT-d 5.10 §3.4. */
function guestEntry(mmio: Mmio, memory: PhysicalMemory, device: number): GuestEntry {
  if ((mmio.read32(REGISTERS.GSTS[0]) & registers.TE) === 0) return { kind: "bypass" }
  const rtaddr = [mmio.read64(REGISTERS.RTADDR[0])]
  if (registers.RTADDR.get(rtaddr, "TTM") !== BigInt(registers.TTM_SCALABLE)) return BLOCKED
  const bus = BigInt(device >> 8)
  const half = BigInt((device >> 7) & 1)
  const root = memory.read64(registers.RTADDR.getInPlace(rtaddr, "RTA") + bus * 16n + half * 8n)
  if ((root & 1n) === 0n) return BLOCKED

  const context = readWords(memory, (root & ~0xfffn) + BigInt(device & 0x7f) * 32n, 4)
  if (deviceTable.SCALABLE_CONTEXT.get(context, "P") === 0n) return BLOCKED
  const pasid = deviceTable.SCALABLE_CONTEXT.get(context, "RID_PASID")
  const directory = deviceTable.SCALABLE_CONTEXT.getInPlace(context, "PASIDDIRPTR")
  const tablePointer = memory.read64(directory + (pasid >> 6n) * 8n)
  if ((tablePointer & 1n) === 0n) return BLOCKED

  const entry = readWords(memory, (tablePointer & ~0xfffn) + (pasid & 0x3fn) * 64n, 8)
  return passOn(entry)
}

function passOn(entry: readonly bigint[]): GuestEntry {
  const field = (name: keyof typeof pasidTable.PASID_ENTRY.fields): bigint =>
    pasidTable.PASID_ENTRY.get(entry, name)
  if (field("P") === 0n) return BLOCKED
  if (field("PGTT") === 4n) return { kind: "bypass" }
  if (field("PGTT") !== 1n) return BLOCKED
  return {
    kind: "translated",
    data: {
      type: 1,
      flags: field("SRE") | (field("EAFE") << 1n) | (field("WPE") << 2n),
      pgtblAddr: pasidTable.PASID_ENTRY.getInPlace(entry, "FSPTPTR"),
      addrWidth: field("FSPM") === 0n ? 48 : 57,
      __reserved: 0,
    },
  }
}

/** Invalidations of first-stage translations go to the host; those of entries make it read them again. §6.5.2. */
function guestCommand({ words }: Invalidation): GuestCommand {
  const type = Number((words[0] ?? 0n) & 0xfn)
  switch (type) {
    case commands.CC_INV:
    case commands.PC_INV:
      return { kind: "entry", device: "all" }
    case commands.P_IOTLB_INV: {
      const request = commands.P_IOTLB_INV_DSC.decode(words)
      const page = request.G === BigInt(commands.P_IOTLB_PAGE)
      return {
        kind: "cache",
        data: {
          type: 0,
          entries: [
            {
              addr: page ? request.ADDR << 12n : 0n,
              npages: page ? 1n << request.AM : EVERYTHING_PAGES,
              flags: Number(request.IH),
              __reserved: 0,
            },
          ],
        },
      }
    }
    default:
      return { kind: "none" }
  }
}
