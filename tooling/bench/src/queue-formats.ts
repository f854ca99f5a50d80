/** Where software finds the command queue of each vendor's hardware, and how it says "tell me when you are done". */
import { commands as amdCommands, registers as amdRegisters } from "@iommu/amd"
import type { Mmio } from "@iommu/core"
import { commands as smmuCommands, registers as smmuRegisters } from "@iommu/smmuv3"
import { commands as vtdCommands, registers as vtdRegisters } from "@iommu/vtd"

/** A queue as a driver left it, empty. */
export interface CommandQueue {
  readonly base: bigint
  readonly entries: number
  /** 64-bit words of an entry. */
  readonly words: number
  /** Entries written so far; at least modulo what {@link ring} makes of it. */
  readonly position: number
  /** Hands everything before a position to the hardware. */
  ring(position: number): void
  /** A command that writes `data` to memory when all before it are done. */
  wait(address: bigint, data: bigint): bigint[]
}

export const QUEUES: Readonly<Record<string, (mmio: Mmio) => CommandQueue>> = {
  vtd: vtdQueue,
  smmuv3: smmuQueue,
  amd: amdQueue,
}

const PAGE_MASK = 0xf_ffff_ffff_f000n

/** VT-d 5.10 §11.4.9: entries of 32 bytes with IQA_REG.DW, of 16 without; 2^QS pages. */
function vtdQueue(mmio: Mmio): CommandQueue {
  const { REGISTERS, IQA_DW, IQA_QS_MASK, QUEUE_OFFSET_MASK } = vtdRegisters
  const address = mmio.read64(REGISTERS.IQA[0])
  const entryLg2 = (address & BigInt(IQA_DW)) === 0n ? 4 : 5
  const entries = (4096 << Number(address & BigInt(IQA_QS_MASK))) >> entryLg2
  const tail = REGISTERS.IQT[0]
  return {
    base: address & PAGE_MASK,
    entries,
    words: (1 << entryLg2) / 8,
    position: (mmio.read32(tail) & QUEUE_OFFSET_MASK) >>> entryLg2,
    ring: position => mmio.write32(tail, (position & (entries - 1)) << entryLg2),
    wait: (to, data) => {
      const Type = BigInt(vtdCommands.INV_WAIT)
      return vtdCommands.INV_WAIT_DSC.encode({ Type, SW: 1n, STDATA: data, STADDR: to >> 2n })
    },
  }
}

/** IHI 0070 G.b §3.5.1: indices with a wrap bit above. */
function smmuQueue(mmio: Mmio): CommandQueue {
  const { REGISTERS, QUEUE_BASE_LOG2SIZE } = smmuRegisters
  const address = mmio.read64(REGISTERS.CMDQ_BASE[0])
  const entries = 2 ** Number(address & BigInt(QUEUE_BASE_LOG2SIZE))
  const prod = REGISTERS.CMDQ_PROD[0]
  return {
    base: address & 0xff_ffff_ffff_ffe0n,
    entries,
    words: smmuCommands.COMMAND_BYTES / 8,
    position: mmio.read32(prod) & (2 * entries - 1),
    ring: position => mmio.write32(prod, position & (2 * entries - 1)),
    wait: (to, data) => {
      const Opcode = BigInt(smmuCommands.CMD_SYNC)
      const CS = BigInt(smmuCommands.SIG_IRQ)
      return smmuCommands.SYNC.encode({ Opcode, CS, MSIData: data, MSIAddress: to >> 2n })
    },
  }
}

/** AMD 48882 rev 3.10 §2.4: 2^Len entries. */
function amdQueue(mmio: Mmio): CommandQueue {
  const { REGISTERS, POINTER_MASK } = amdRegisters
  const address = mmio.read64(REGISTERS.CMDBUF_BASE[0])
  const entries = 2 ** Number((address >> 56n) & 0xfn)
  const tail = REGISTERS.CMD_TAIL[0]
  return {
    base: address & PAGE_MASK,
    entries,
    words: amdCommands.COMMAND_BYTES / 8,
    position: (mmio.read32(tail) & POINTER_MASK) >>> amdCommands.COMMAND_BYTES_LG2,
    ring: position => mmio.write32(tail, (position & (entries - 1)) << amdCommands.COMMAND_BYTES_LG2),
    wait: (to, data) => {
      const Opcode = BigInt(amdCommands.OPCODE.COMPLETION_WAIT)
      return amdCommands.COMPLETION_WAIT.encode({ Opcode, S: 1n, StoreAddress: to >> 3n, StoreData: data })
    },
  }
}
