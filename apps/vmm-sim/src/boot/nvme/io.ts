/** NVM commands: read, write, write zeroes, flush. NVM Express 1.4c §6. */
import type { Dma } from "../pci/dma.ts"
import { BLOCK_BYTES, type Disk } from "./disk.ts"
import { fromHost, toHost } from "./prp.ts"
import { type Command, DONE, dword, failed, NVM, type Outcome, STATUS } from "./spec.ts"

export const NAMESPACE = 1
/** Of one command: 2^5 pages of 4 KiB, as Identify Controller's MDTS says. */
export const MAX_TRANSFER_LG2_PAGES = 5
const MAX_TRANSFER_BYTES = 4096 << MAX_TRANSFER_LG2_PAGES

export function executeIo(dma: Dma, disk: Disk, command: Command): Outcome {
  const { opcode } = command
  const isFlush = opcode === NVM.FLUSH
  if (!isFlush && opcode !== NVM.READ && opcode !== NVM.WRITE && opcode !== NVM.WRITE_ZEROES) {
    return failed(STATUS.INVALID_OPCODE)
  }
  const isForAll = isFlush && command.namespace === 0xffff_ffff
  if (command.namespace !== NAMESPACE && !isForAll) return failed(STATUS.INVALID_NAMESPACE)
  const blocks = isFlush ? 0 : (dword(command, 12) & 0xffff) + 1
  const first = (BigInt(dword(command, 11)) << 32n) | BigInt(dword(command, 10))
  const bytes = blocks * BLOCK_BYTES
  const stretch = isFlush ? disk.bytes.subarray(0, 0) : disk.stretch(first, blocks)
  if (stretch === null) return failed(STATUS.LBA_OUT_OF_RANGE)
  const status = transfer(dma, command, stretch)
  disk.note(opcode, status, bytes)
  return status === STATUS.SUCCESS ? DONE : failed(status)
}

function transfer(dma: Dma, { opcode, prp1, prp2 }: Command, stretch: Uint8Array): number {
  switch (opcode) {
    case NVM.READ:
      if (stretch.length > MAX_TRANSFER_BYTES) return STATUS.INVALID_FIELD
      return toHost(dma, prp1, prp2, stretch)
    case NVM.WRITE:
      if (stretch.length > MAX_TRANSFER_BYTES) return STATUS.INVALID_FIELD
      return fromHost(dma, prp1, prp2, stretch)
    case NVM.WRITE_ZEROES:
      stretch.fill(0)
      return STATUS.SUCCESS
    default:
      return STATUS.SUCCESS
  }
}
