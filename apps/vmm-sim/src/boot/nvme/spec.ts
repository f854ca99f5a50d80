/**
 * Numbers of NVM Express. Base Specification 1.4c for registers (§3.1), queue entries (§4.2, §4.6), status codes
 * (§4.6.1.2), admin commands (§5) and NVM commands (§6); the same numbers stand in 2.0.
 */

/** Controller registers, §3.1: byte offsets. */
export const CAP = 0x00
export const VS = 0x08
export const INTMS = 0x0c
export const INTMC = 0x10
export const CC = 0x14
export const CSTS = 0x1c
export const AQA = 0x24
export const ASQ = 0x28
export const ACQ = 0x30
export const DOORBELLS = 0x1000

export const VERSION_1_4 = 0x0001_0400

/** CC, §3.1.5. */
export const CC_EN = 1
export const CC_MPS_SHIFT = 7
export const CC_SHN_SHIFT = 14
/** CSTS, §3.1.6. */
export const CSTS_RDY = 1
export const CSTS_CFS = 2
export const CSTS_SHST_COMPLETE = 2 << 2

export const SQE_BYTES = 64
export const CQE_BYTES = 16
export const PAGE_BYTES = 4096

/** Admin commands, §5. */
export const ADMIN = {
  DELETE_IO_SQ: 0x00,
  CREATE_IO_SQ: 0x01,
  GET_LOG_PAGE: 0x02,
  DELETE_IO_CQ: 0x04,
  CREATE_IO_CQ: 0x05,
  IDENTIFY: 0x06,
  ABORT: 0x08,
  SET_FEATURES: 0x09,
  GET_FEATURES: 0x0a,
  ASYNC_EVENT_REQUEST: 0x0c,
} as const

/** NVM commands, §6. */
export const NVM = { FLUSH: 0x00, WRITE: 0x01, READ: 0x02, WRITE_ZEROES: 0x08 } as const

/** Status: code in bits 7:0, type in bits 10:8. Figures 126 to 128. */
export const STATUS = {
  SUCCESS: 0x000,
  INVALID_OPCODE: 0x001,
  INVALID_FIELD: 0x002,
  DATA_TRANSFER_ERROR: 0x004,
  INVALID_NAMESPACE: 0x00b,
  PRP_OFFSET_INVALID: 0x013,
  LBA_OUT_OF_RANGE: 0x080,
  CQ_INVALID: 0x100,
  QID_INVALID: 0x101,
  QUEUE_SIZE_INVALID: 0x102,
  ASYNC_EVENT_LIMIT: 0x105,
  INTERRUPT_VECTOR_INVALID: 0x108,
  INVALID_LOG_PAGE: 0x109,
  QUEUE_DELETION_INVALID: 0x10c,
} as const

/** An entry of a submission queue, §4.2. */
export interface Command {
  readonly opcode: number
  readonly id: number
  readonly namespace: number
  readonly prp1: bigint
  readonly prp2: bigint
  /** Command dwords 10 to 15. */
  readonly dwords: readonly number[]
}

export function decodeCommand(entry: Uint8Array): Command {
  const view = new DataView(entry.buffer, entry.byteOffset, SQE_BYTES)
  return {
    opcode: view.getUint8(0),
    id: view.getUint16(2, true),
    namespace: view.getUint32(4, true),
    prp1: view.getBigUint64(24, true),
    prp2: view.getBigUint64(32, true),
    dwords: [10, 11, 12, 13, 14, 15].map(dword => view.getUint32(dword * 4, true)),
  }
}

/** Command dword 10 and up, by its number in the book. */
export function dword(command: Command, number: 10 | 11 | 12 | 13 | 14 | 15): number {
  return command.dwords[number - 10] as number
}

/** How a command ended. */
export interface Outcome {
  readonly status: number
  /** Dword 0 of the completion. */
  readonly result: number
}

export const DONE: Outcome = { status: STATUS.SUCCESS, result: 0 }

export function failed(status: number): Outcome {
  return { status, result: 0 }
}
