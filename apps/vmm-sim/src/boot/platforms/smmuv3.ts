/** Arm SMMUv3, found through a node of the device tree. */
import type { BitLayout, FieldSpecs, Mmio } from "@iommu/core"
import {
  commands,
  registers,
  SMMUV3_EVERYTHING,
  SMMUV3_QEMU_NESTED,
  type SmmuV3IdRegisters,
  smmuv3Decoder,
  smmuv3Model,
} from "@iommu/smmuv3"
import { addSmmu } from "../firmware/smmu-node.ts"
import { cloudKernel } from "../guest/kernels.ts"
import { VIRT } from "../machine/boards.ts"
import type { BootMode, BootPlatform } from "../platform.ts"
import type { CommandQueueWatch, QueueShape } from "../watch/transcript.ts"

const { REGISTERS } = registers
/** Within the machine's PCI window, where it has nothing of its own. */
const REGISTER_BASE = 0x3e00_0000

/** The Command queue. IHI 0070 G.b §4.1, §6.3.26. */
const commandQueue: CommandQueueWatch = {
  tailRegister: REGISTERS.CMDQ_PROD[0],
  shape: queueShape,
  layoutOf: words => layoutOf(Number((words[0] ?? 0n) & BigInt(commands.OPCODE))),
}

function layoutOf(opcode: number): BitLayout<FieldSpecs> | null {
  return commands.COMMANDS.get(opcode) ?? null
}

function queueShape(mmio: Mmio): QueueShape | null {
  if ((mmio.read32(REGISTERS.CR0[0]) & registers.CR0_CMDQEN) === 0) return null
  const base = mmio.read64(REGISTERS.CMDQ_BASE[0])
  const entries = 2 ** Number(base & BigInt(registers.QUEUE_BASE_LOG2SIZE))
  const indexOf = (value: number): number => (value & registers.QUEUE_INDEX) % entries
  return {
    base: base & 0x00ff_ffff_ffff_ffe0n,
    entryBytes: commands.COMMAND_BYTES,
    entries,
    tail: indexOf(mmio.read32(REGISTERS.CMDQ_PROD[0])),
    indexOf,
  }
}

/** What follows from 16-bit StreamIDs: more than a PCI segment's requesters has no use here. */
const IDR1 = field32(registers.IDR1, SMMUV3_EVERYTHING.IDR1, { SIDSIZE: 16n })

function mode(description: string, changes: Partial<SmmuV3IdRegisters> = {}, append = ""): BootMode {
  const id = { ...SMMUV3_EVERYTHING, IDR1, ...changes }
  return {
    description,
    append,
    createModel: (memory, caches) => smmuv3Model({ memory, caches, id }),
  }
}

/** A register of 32 bits with some fields changed. */
function field32<F extends FieldSpecs>(
  layout: BitLayout<F>,
  value: number,
  changes: Partial<Record<keyof F, bigint>>,
): number {
  return Number(layout.encode({ ...layout.decode([BigInt(value >>> 0)]), ...changes })[0])
}

export const smmuv3: BootPlatform = {
  name: "smmuv3",
  board: VIRT,
  registers: { base: REGISTER_BASE, bytes: registers.REGION_BYTES, specs: REGISTERS },
  commandQueue,
  bringUp: {
    addressRegisters: [
      "STRTAB_BASE",
      "CMDQ_BASE",
      "EVENTQ_BASE",
      "PRIQ_BASE",
      "EVENTQ_IRQ_CFG0",
      "GERROR_IRQ_CFG0",
    ],
    waits: ["CMD_SYNC"],
  },
  kernels: { bookworm: cloudKernel("bookworm", "arm64"), trixie: cloudKernel("trixie", "arm64") },
  firmware: {
    kind: "device tree",
    change: root => addSmmu(root, { registerBase: REGISTER_BASE, registerBytes: registers.REGION_BYTES }),
  },
  driverLines: /^arm-smmu-v3|^iommu|iommu group/,
  decoder: smmuv3Decoder,
  iommuName: `arm-smmu-v3 ${REGISTER_BASE.toString(16)}.iommu`,
  modes: {
    s1: mode("stage 1, two-level stream table, all that the model has"),
    // EL2's contexts and two-level tables of context descriptors belong to stage 1.
    s2: mode("stage 2 alone", {
      IDR0: field32(registers.IDR0, SMMUV3_EVERYTHING.IDR0, { S1P: 0n, Hyp: 0n, CD2L: 0n }),
    }),
    "s1-linear": mode("stage 1, linear stream table of 2^8 entries", {
      IDR0: field32(registers.IDR0, SMMUV3_EVERYTHING.IDR0, { ST_LEVEL: 0n }),
      IDR1: field32(registers.IDR1, SMMUV3_EVERYTHING.IDR1, { SIDSIZE: 8n }),
    }),
    "s1-no-ril": mode("stage 1 without range invalidation", {
      IDR3: field32(registers.IDR3, SMMUV3_EVERYTHING.IDR3, { RIL: 0n }),
    }),
    "s1-no-httu": mode("stage 1 without hardware updates of flags", {
      IDR0: field32(registers.IDR0, SMMUV3_EVERYTHING.IDR0, { HTTU: 0n }),
    }),
    "44-bit": mode("the registers of QEMU's own model, 44 bits and no PASIDs, with messages", {
      ...SMMUV3_QEMU_NESTED,
      IDR0: field32(registers.IDR0, SMMUV3_QEMU_NESTED.IDR0, { MSI: 1n }),
    }),
  },
}
