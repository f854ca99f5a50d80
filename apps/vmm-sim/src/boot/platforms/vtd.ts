/** Intel VT-d, found through the ACPI table DMAR. */
import type { BitLayout, FieldSpecs, Mmio, RegisterSpecs } from "@iommu/core"
import {
  commands,
  EVERYTHING,
  FIRST_STAGE_ONLY,
  LEGACY_39,
  LEGACY_ONLY,
  registers,
  SECOND_STAGE_ONLY,
  type VtdCapabilities,
  vtdDecoder,
  vtdModel,
} from "@iommu/vtd"
import { dmarTable } from "../firmware/dmar.ts"
import { cloudKernel } from "../guest/kernels.ts"
import { Q35 } from "../machine/boards.ts"
import type { BootMode, BootPlatform } from "../platform.ts"
import { VTD_CAPABILITIES } from "../watch/features.ts"
import type { CommandQueueWatch, QueueShape } from "../watch/transcript.ts"

const REGISTER_BASE = 0xfed9_0000
const HOST_ADDRESS_WIDTH = 39

const { REGISTERS } = registers
const DESCRIPTORS: Readonly<Record<number, BitLayout<FieldSpecs>>> = {
  [commands.CC_INV]: commands.CC_INV_DSC,
  [commands.IOTLB_INV]: commands.IOTLB_INV_DSC,
  [commands.DEV_TLB_INV]: commands.DEV_TLB_INV_DSC,
  [commands.IEC_INV]: commands.IEC_INV_DSC,
  [commands.INV_WAIT]: commands.INV_WAIT_DSC,
  [commands.P_IOTLB_INV]: commands.P_IOTLB_INV_DSC,
  [commands.PC_INV]: commands.PC_INV_DSC,
  [commands.P_DEV_TLB_INV]: commands.P_DEV_TLB_INV_DSC,
  [commands.PAGE_GRP_RESP]: commands.PAGE_GRP_RESP_DSC,
}

/** The book lets these move; in all our modes ECAP.IRO is 0xf and CAP.FRO 0x22. §11.4.3, §11.4.7.6, §11.4.9. */
const SPECS: RegisterSpecs = {
  ...REGISTERS,
  IVA: [0xf0, 8, "RW", "Invalidate Address"],
  IOTLB: [0xf8, 8, "RW", "IOTLB Invalidate"],
  ...Object.fromEntries(
    Array.from({ length: 8 }, (_, n) => [
      [`FRCD${n}_LO`, [0x220 + 16 * n, 8, "RO", "fault recording"]],
      [`FRCD${n}_HI`, [0x228 + 16 * n, 8, "RW1C", "fault recording"]],
    ]).flat(),
  ),
}

/** The invalidation queue. VT-d 5.10 (D51397-018) §6.5.2, §11.4.9. */
const commandQueue: CommandQueueWatch = {
  tailRegister: REGISTERS.IQT[0],
  shape: queueShape,
  layoutOf: words => DESCRIPTORS[Number((words[0] ?? 0n) & BigInt(commands.TYPE_MASK))] ?? null,
}

/** A queue of 2^QS pages; descriptors have 16 bytes, with DW 32. */
function queueShape(mmio: Mmio): QueueShape | null {
  if ((mmio.read32(REGISTERS.GSTS[0]) & registers.QIE) === 0) return null
  const address = mmio.read64(REGISTERS.IQA[0])
  const entryBytes = (address & 0x800n) === 0n ? 16 : 32
  const entries = (4096 << Number(address & 7n)) / entryBytes
  const indexOf = (value: number): number =>
    Math.floor((value & registers.QUEUE_OFFSET_MASK) / entryBytes) % entries
  return {
    base: address & ~0xfffn,
    entryBytes,
    entries,
    tail: indexOf(mmio.read32(REGISTERS.IQT[0])),
    indexOf,
  }
}

/** Capabilities with some fields changed; interrupt remapping is off in all of them, see {@link mode}. */
function changed(
  from: VtdCapabilities,
  cap: Partial<Record<keyof typeof registers.CAP.fields, bigint>>,
  ecap: Partial<Record<keyof typeof registers.ECAP.fields, bigint>> = {},
): VtdCapabilities {
  return {
    ver: from.ver,
    cap: registers.CAP.encode({ ...registers.CAP.decode([from.cap]), ...cap })[0] as bigint,
    ecap: registers.ECAP.encode({ ...registers.ECAP.decode([from.ecap]), ...ecap })[0] as bigint,
  }
}

/** The machine's own interrupts do not come through this process: there is nothing to remap them with. */
function mode(description: string, given: VtdCapabilities, append: string): BootMode {
  const capabilities = changed(given, {}, { IR: 0n, EIM: 0n })
  return {
    description,
    append: `intel_iommu=${append} intremap=off`,
    createModel: (memory, caches) =>
      vtdModel({ memory, caches, capabilities, hostAddressWidth: HOST_ADDRESS_WIDTH }),
  }
}

const LEGACY = "on,sm_off"
const SCALABLE = "on,sm_on"
const FIVE_LEVELS = { SAGAW: 0b01000n, MGAW: 56n }

export const vtd: BootPlatform = {
  name: "vtd",
  board: Q35,
  registers: { base: REGISTER_BASE, bytes: registers.REGISTER_PAGE_BYTES, specs: SPECS },
  commandQueue,
  bringUp: {
    addressRegisters: ["RTADDR", "IQA", "PQA", "FEADDR", "PEADDR", "IEADDR", "IRTA"],
    waits: ["inv_wait_dsc"],
  },
  kernels: { bookworm: cloudKernel("bookworm", "amd64"), trixie: cloudKernel("trixie", "amd64") },
  firmware: {
    kind: "acpi",
    tables: () => [dmarTable({ registerBase: BigInt(REGISTER_BASE), hostAddressWidth: HOST_ADDRESS_WIDTH })],
  },
  driverLines: /^DMAR|^iommu|iommu group/,
  decoder: vtdDecoder,
  iommuName: null,
  linuxFeatures: VTD_CAPABILITIES,
  modes: {
    legacy: mode("legacy mode, second-stage tables of 4 levels", LEGACY_ONLY, LEGACY),
    "legacy-3-level": mode("the same with 3 levels", LEGACY_39, LEGACY),
    "legacy-5-level": mode("the same with 5 levels", changed(LEGACY_ONLY, FIVE_LEVELS), LEGACY),
    "legacy-caching": mode(
      "4 levels, caching mode: not-present entries are kept",
      changed(LEGACY_ONLY, { CM: 1n }),
      LEGACY,
    ),
    scalable: mode(
      "scalable mode with all that the model has: first stage of 5 levels",
      EVERYTHING,
      SCALABLE,
    ),
    "scalable-first": mode("scalable mode, first stage of 4 levels alone", FIRST_STAGE_ONLY, SCALABLE),
    "scalable-second": mode("scalable mode, second stage alone", SECOND_STAGE_ONLY, SCALABLE),
    "scalable-caching": mode(
      "scalable mode with all, caching mode",
      changed(EVERYTHING, { CM: 1n }),
      SCALABLE,
    ),
  },
}
