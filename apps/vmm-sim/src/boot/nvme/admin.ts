/** Admin commands. NVM Express 1.4c §5. */
import type { Dma } from "../pci/dma.ts"
import type { Disk } from "./disk.ts"
import { ASYNC_EVENT_LIMIT, identify, logPage } from "./identify.ts"
import { toHost } from "./prp.ts"
import { CompletionQueue, SubmissionQueue } from "./queues.ts"
import { ADMIN, type Command, DONE, dword, failed, type Outcome, STATUS } from "./spec.ts"

/** Largest number of a queue; queue 0 is the admin queue. */
const MAX_QUEUE = 16
/** Entries of a queue, as CAP.MQES says. */
export const MAX_ENTRIES = 256

const FEATURE_NUMBER_OF_QUEUES = 0x07
/** Power management, temperature threshold, error recovery, write cache, interrupts, atomicity, asynchronous events. */
const FEATURES: ReadonlySet<number> = new Set([0x02, 0x04, 0x05, 0x06, 0x08, 0x09, 0x0a, 0x0b])
const CONTIGUOUS = 1
const INTERRUPTS_ENABLED = 2

/** What admin commands change. */
export interface AdminState {
  readonly dma: Dma
  readonly disk: Disk
  readonly submissions: Map<number, SubmissionQueue>
  readonly completions: Map<number, CompletionQueue>
  readonly features: Map<number, number>
  /** Command identifiers of asynchronous event requests that wait. */
  readonly eventRequests: number[]
}

/** @returns null for a command that stays open: an asynchronous event request */
export function executeAdmin(state: AdminState, command: Command): Outcome | null {
  switch (command.opcode) {
    case ADMIN.IDENTIFY:
      return send(state, command, identify(state.disk, dword(command, 10) & 0xff, command.namespace))
    case ADMIN.GET_LOG_PAGE:
      return sendLogPage(state, command)
    case ADMIN.SET_FEATURES:
      return setFeature(state, command)
    case ADMIN.GET_FEATURES:
      return getFeature(state, command)
    case ADMIN.CREATE_IO_CQ:
      return createCompletionQueue(state, command)
    case ADMIN.CREATE_IO_SQ:
      return createSubmissionQueue(state, command)
    case ADMIN.DELETE_IO_SQ:
      return deleteSubmissionQueue(state, command)
    case ADMIN.DELETE_IO_CQ:
      return deleteCompletionQueue(state, command)
    case ADMIN.ABORT:
      // Commands are done before the next one is fetched: there is never one left to abort.
      return { status: STATUS.SUCCESS, result: 1 }
    case ADMIN.ASYNC_EVENT_REQUEST:
      if (state.eventRequests.length === ASYNC_EVENT_LIMIT) return failed(STATUS.ASYNC_EVENT_LIMIT)
      state.eventRequests.push(command.id)
      return null
    default:
      return failed(STATUS.INVALID_OPCODE)
  }
}

function send(state: AdminState, command: Command, data: Uint8Array | null): Outcome {
  if (data === null) return failed(STATUS.INVALID_FIELD)
  const status = toHost(state.dma, command.prp1, command.prp2, data)
  return status === STATUS.SUCCESS ? DONE : failed(status)
}

/** Number of dwords (0's based) in dwords 10 and 11, offset in 12; what lies beyond the page is zero. */
function sendLogPage(state: AdminState, command: Command): Outcome {
  const page = logPage(dword(command, 10) & 0xff, state.disk)
  if (page === null) return failed(STATUS.INVALID_LOG_PAGE)
  const bytes = ((dword(command, 10) >>> 16) + (dword(command, 11) & 0xffff) * 65_536 + 1) * 4
  const offset = dword(command, 12)
  if (bytes > 4096 || dword(command, 13) !== 0 || offset % 4 !== 0) return failed(STATUS.INVALID_FIELD)
  const data = new Uint8Array(bytes)
  data.set(page.subarray(Math.min(offset, page.length), Math.min(offset + bytes, page.length)))
  return send(state, command, data)
}

function setFeature(state: AdminState, command: Command): Outcome {
  const feature = dword(command, 10) & 0xff
  if (feature === FEATURE_NUMBER_OF_QUEUES) {
    const asked = dword(command, 11)
    if ((asked & 0xffff) === 0xffff || asked >>> 16 === 0xffff) return failed(STATUS.INVALID_FIELD)
    const granted = (count: number): number => Math.min(count, MAX_QUEUE - 1)
    const result = granted(asked & 0xffff) | (granted(asked >>> 16) << 16)
    state.features.set(feature, result)
    return { status: STATUS.SUCCESS, result }
  }
  if (!FEATURES.has(feature)) return failed(STATUS.INVALID_FIELD)
  state.features.set(feature, dword(command, 11))
  return DONE
}

function getFeature(state: AdminState, command: Command): Outcome {
  const feature = dword(command, 10) & 0xff
  if (feature !== FEATURE_NUMBER_OF_QUEUES && !FEATURES.has(feature)) return failed(STATUS.INVALID_FIELD)
  return { status: STATUS.SUCCESS, result: state.features.get(feature) ?? 0 }
}

/** Number and size in dword 10, size 0's based. */
function newQueue(
  command: Command,
  taken: ReadonlyMap<number, unknown>,
): { id: number; size: number } | number {
  const id = dword(command, 10) & 0xffff
  const size = (dword(command, 10) >>> 16) + 1
  if (id === 0 || id > MAX_QUEUE || taken.has(id)) return STATUS.QID_INVALID
  if (size < 2 || size > MAX_ENTRIES) return STATUS.QUEUE_SIZE_INVALID
  if ((dword(command, 11) & CONTIGUOUS) === 0) return STATUS.INVALID_FIELD
  return (command.prp1 & 0xfffn) === 0n ? { id, size } : STATUS.PRP_OFFSET_INVALID
}

function createCompletionQueue(state: AdminState, command: Command): Outcome {
  const queue = newQueue(command, state.completions)
  if (typeof queue === "number") return failed(queue)
  // One message: vector 0 alone.
  if (dword(command, 11) >>> 16 !== 0) return failed(STATUS.INTERRUPT_VECTOR_INVALID)
  const interrupts = (dword(command, 11) & INTERRUPTS_ENABLED) !== 0
  state.completions.set(queue.id, new CompletionQueue({ base: command.prp1, size: queue.size }, interrupts))
  return DONE
}

function createSubmissionQueue(state: AdminState, command: Command): Outcome {
  const queue = newQueue(command, state.submissions)
  if (typeof queue === "number") return failed(queue)
  const completions = dword(command, 11) >>> 16
  if (completions === 0 || !state.completions.has(completions)) return failed(STATUS.CQ_INVALID)
  const shape = { base: command.prp1, size: queue.size }
  state.submissions.set(queue.id, new SubmissionQueue(queue.id, shape, completions))
  return DONE
}

function deleteSubmissionQueue(state: AdminState, command: Command): Outcome {
  const id = dword(command, 10) & 0xffff
  return id !== 0 && state.submissions.delete(id) ? DONE : failed(STATUS.QID_INVALID)
}

function deleteCompletionQueue(state: AdminState, command: Command): Outcome {
  const id = dword(command, 10) & 0xffff
  if (id === 0 || !state.completions.has(id)) return failed(STATUS.QID_INVALID)
  const isInUse = [...state.submissions.values()].some(queue => queue.completions === id)
  if (isInUse) return failed(STATUS.QUEUE_DELETION_INVALID)
  state.completions.delete(id)
  return DONE
}
