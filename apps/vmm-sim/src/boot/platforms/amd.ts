/** AMD-Vi, found through the ACPI table IVRS. */
import { amdDecoder, amdModel, commands, EVERYTHING, EVERYTHING_2, registers } from "@iommu/amd"
import type { BitLayout, FieldSpecs, Mmio } from "@iommu/core"
import { ivrsTable } from "../firmware/ivrs.ts"
import { GENERIC_6_1, GENERIC_6_12 } from "../guest/kernels.ts"
import { AmdFunction } from "../machine/amd-function.ts"
import { Q35 } from "../machine/boards.ts"
import type { BootMode, BootPlatform } from "../platform.ts"
import { AMD_FEATURES } from "../watch/features.ts"
import type { CommandQueueWatch, QueueShape } from "../watch/transcript.ts"

const { REGISTERS } = registers
const REGISTER_BASE = 0xfed8_0000
/** Bus 0. */
const LAST_DEVICE = 0xff

const LAYOUTS: Readonly<Record<number, BitLayout<FieldSpecs>>> = Object.fromEntries(
  [
    commands.COMPLETION_WAIT,
    commands.INVALIDATE_DEVTAB_ENTRY,
    commands.INVALIDATE_IOMMU_PAGES,
    commands.INVALIDATE_IOTLB_PAGES,
    commands.INVALIDATE_INTERRUPT_TABLE,
    commands.PREFETCH_IOMMU_PAGES,
    commands.COMPLETE_PPR_REQUEST,
    commands.INVALIDATE_IOMMU_ALL,
  ].map(layout => [commands.OPCODE[layout.name as commands.CommandName], layout]),
)

/** The command buffer. AMD 48882 rev 3.10, §2.4, §3.4. */
const commandQueue: CommandQueueWatch = {
  tailRegister: REGISTERS.CMD_TAIL[0],
  shape: queueShape,
  layoutOf: words => LAYOUTS[Number((words[0] ?? 0n) >> 60n)] ?? null,
}

function queueShape(mmio: Mmio): QueueShape | null {
  if ((mmio.read32(REGISTERS.CONTROL[0]) & registers.CONTROL_CmdBufEn) === 0) return null
  const base = mmio.read64(REGISTERS.CMDBUF_BASE[0])
  const { COMMAND_BYTES } = commands
  const entries = 2 ** Number((base >> 56n) & BigInt(registers.BUFFER_LEN_MASK))
  const indexOf = (value: number): number => ((value & registers.POINTER_MASK) / COMMAND_BYTES) % entries
  return {
    base: base & 0x000f_ffff_ffff_f000n,
    entryBytes: COMMAND_BYTES,
    entries,
    tail: indexOf(mmio.read32(REGISTERS.CMD_TAIL[0])),
    indexOf,
  }
}

type FeatureName = keyof typeof registers.EXT_FEATURES.fields

/** All that the model has, with some fields changed. Linux stops itself (BUG) where PASmax exceeds 16 bits. */
function features(changes: Partial<Record<FeatureName, bigint>> = {}): bigint {
  const all = registers.EXT_FEATURES.decode([EVERYTHING])
  return registers.EXT_FEATURES.encode({ ...all, PASmax: 15n, ...changes })[0] as bigint
}

function mode(description: string, extFeatures: bigint, append = ""): BootMode {
  return {
    description,
    append: `${append} intremap=off`.trim(),
    createModel: (memory, caches) => amdModel({ memory, caches, extFeatures, extFeatures2: EVERYTHING_2 }),
  }
}

export const amd: BootPlatform = {
  name: "amd",
  board: Q35,
  registers: { base: REGISTER_BASE, bytes: registers.MMIO_BYTES, specs: REGISTERS },
  commandQueue,
  bringUp: {
    addressRegisters: ["DEVTAB_BASE", "CMDBUF_BASE", "EVTLOG_BASE", "PPR_BASE"],
    waits: ["COMPLETION_WAIT"],
  },
  kernels: { bookworm: GENERIC_6_1, trixie: GENERIC_6_12 },
  companion: mmio => new AmdFunction(mmio, REGISTER_BASE),
  firmware: {
    kind: "acpi",
    tables: ({ companionDevice, mmio }) => [
      ivrsTable({
        device: companionDevice,
        capability: AmdFunction.CAPABILITY,
        registerBase: BigInt(REGISTER_BASE),
        extFeatures: mmio.read64(REGISTERS.EXT_FEATURES[0]),
        extFeatures2: mmio.read64(REGISTERS.EXT_FEATURES2[0]),
        lastDevice: LAST_DEVICE,
      }),
    ],
  },
  driverLines: /^AMD-Vi|^iommu|iommu group|AMD IOMMU/,
  decoder: amdDecoder,
  iommuName: "iommu ivhd0",
  linuxFeatures: AMD_FEATURES,
  switches: [
    {
      name: "EPHEn",
      announced: { register: "EXT_FEATURES", bit: registers.EXT_FEATURES.fields.EPHSup[1] },
      enable: { register: "CONTROL", bit: registers.CONTROL.fields.EPHEn[1] },
      // Linux 6.14; 6.12.16 and what came after it have it as well.
      since: [6, 12],
    },
  ],
  modes: {
    v1: mode("host tables, all that the model has", features()),
    "v1-no-ia": mode(
      "without INVALIDATE_IOMMU_ALL: each device and domain by itself",
      features({ IASup: 0n }),
    ),
    "v1-no-gt": mode(
      "without guest tables and page requests",
      features({ GTSup: 0n, PPRSup: 0n, EPHSup: 0n, GATS: 0n }),
    ),
    "v1-no-eph": mode("without enhanced page requests", features({ EPHSup: 0n })),
    "v1-plain": mode("no more than the first IOMMUs had", 0n),
    v2: mode("guest tables for DMA", features(), "amd_iommu=pgtbl_v2"),
  },
}
