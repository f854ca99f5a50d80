/**
 * The server's side of the vfio-user protocol, version 0.0, as QEMU 10.1 and later speak it: QEMU's
 * docs/interop/vfio-user.rst, structures of <linux/vfio.h> behind a header of 16 bytes. File descriptors that come
 * along are dropped by the kernel: the guest's RAM is a file that we open ourselves, and interrupts are messages.
 */
import type { Duplex } from "node:stream"
import type { PciFunction } from "../pci/function.ts"
import { Frames, type Framing } from "./frames.ts"
import { guarded, pipeFrames } from "./serve.ts"

const COMMAND = {
  VERSION: 1,
  DMA_MAP: 2,
  DMA_UNMAP: 3,
  GET_INFO: 4,
  GET_REGION_INFO: 5,
  GET_IRQ_INFO: 7,
  SET_IRQS: 8,
  REGION_READ: 9,
  REGION_WRITE: 10,
  RESET: 13,
} as const

const HEADER_BYTES = 16
/** Beyond what any message here needs; a write of a region carries its data. */
const MAX_BYTES = 65_536
const FLAG_REPLY = 1
const TYPE_MASK = 0xf
const FLAG_NO_REPLY = 1 << 4
const FLAG_ERROR = 1 << 5
const EINVAL = 22
const EOPNOTSUPP = 95

/** VFIO_PCI_*_REGION_INDEX. */
const REGION_BAR0 = 0
const REGION_CONFIG = 7
const REGIONS = 9
/** VFIO_PCI_*_IRQ_INDEX. */
const IRQ_MSI = 1
const IRQS = 5
const DEVICE_FLAGS_RESET_PCI = 3
const REGION_FLAGS_READ_WRITE = 3
/** VFIO_IRQ_INFO_EVENTFD and _NORESIZE. */
const IRQ_FLAGS = 9
const CONFIG_BYTES = 256
/** Offset, region and count, before the data. */
const REGION_HEADER_BYTES = 16

const CAPABILITIES = JSON.stringify({ capabilities: { max_msg_fds: 8, max_data_xfer_size: 4096 } })

const FRAMING: Framing = {
  headerBytes: HEADER_BYTES,
  maxBytes: MAX_BYTES,
  lengthOf: header => header.getUint32(4, true),
}

/** A reply's payload, or an errno. */
type Answer = Uint8Array | number

/** Serves a function to a QEMU until the stream ends. @param complain as {@link pipeFrames} and {@link guarded} have it */
export function serveVfioUser(stream: Duplex, fn: PciFunction, complain: (what: string) => void): void {
  const tell = (what: string): void => complain(`${fn.name}: vfio-user: ${what}`)
  const frames = new Frames(FRAMING, message => {
    const header = new DataView(message.buffer, message.byteOffset, message.length)
    const flags = header.getUint32(8, true)
    // Replies would be to commands that we never send.
    if ((flags & TYPE_MASK) !== 0) return
    const body = new DataView(
      message.buffer,
      message.byteOffset + HEADER_BYTES,
      message.length - HEADER_BYTES,
    )
    const answer = guarded<Answer>(tell, EINVAL, () => answerOf(fn, header.getUint16(2, true), body))
    if ((flags & FLAG_NO_REPLY) === 0) stream.write(replyTo(header, answer))
  })
  pipeFrames(stream, frames, tell)
}

function replyTo(header: DataView, answer: Answer): Uint8Array {
  const payload = typeof answer === "number" ? new Uint8Array(0) : answer
  const reply = new Uint8Array(HEADER_BYTES + payload.length)
  const view = new DataView(reply.buffer)
  view.setUint32(0, header.getUint32(0, true), true)
  view.setUint32(4, reply.length, true)
  view.setUint32(8, FLAG_REPLY | (typeof answer === "number" ? FLAG_ERROR : 0), true)
  view.setUint32(12, typeof answer === "number" ? answer : 0, true)
  reply.set(payload, HEADER_BYTES)
  return reply
}

const EMPTY = new Uint8Array(0)

function answerOf(fn: PciFunction, command: number, body: DataView): Answer {
  switch (command) {
    case COMMAND.VERSION:
      return version(body)
    case COMMAND.DMA_MAP:
    case COMMAND.SET_IRQS:
      return EMPTY
    case COMMAND.DMA_UNMAP:
      return body.byteLength < 24 ? EINVAL : bytesOf(body, 24)
    case COMMAND.GET_INFO:
      return words([16, DEVICE_FLAGS_RESET_PCI, REGIONS, IRQS])
    case COMMAND.GET_REGION_INFO:
      return body.byteLength < 32 ? EINVAL : regionInfo(fn, body.getUint32(8, true))
    case COMMAND.GET_IRQ_INFO:
      return body.byteLength < 16 ? EINVAL : irqInfo(body.getUint32(8, true))
    case COMMAND.REGION_READ:
    case COMMAND.REGION_WRITE:
      return body.byteLength < 16 ? EINVAL : regionAccess(fn, command, body)
    case COMMAND.RESET:
      fn.reset()
      return EMPTY
    default:
      return EOPNOTSUPP
  }
}

/** Major version as proposed, minor 0; the capabilities end with a zero byte. */
function version(body: DataView): Answer {
  if (body.byteLength < 4 || body.getUint16(0, true) !== 0) return EINVAL
  return new Uint8Array([0, 0, 0, 0, ...new TextEncoder().encode(CAPABILITIES), 0])
}

function regionInfo(fn: PciFunction, index: number): Answer {
  if (index >= REGIONS) return EINVAL
  const bytes = index === REGION_BAR0 ? fn.barBytes : index === REGION_CONFIG ? CONFIG_BYTES : 0
  return words([32, bytes === 0 ? 0 : REGION_FLAGS_READ_WRITE, index, 0, bytes, 0, 0, 0])
}

function irqInfo(index: number): Answer {
  if (index >= IRQS) return EINVAL
  return words(index === IRQ_MSI ? [16, IRQ_FLAGS, index, 1] : [16, 0, index, 0])
}

function regionAccess(fn: PciFunction, command: number, body: DataView): Answer {
  const offset = body.getBigUint64(0, true)
  const region = body.getUint32(8, true)
  const count = body.getUint32(12, true)
  const size = region === REGION_CONFIG ? CONFIG_BYTES : region === REGION_BAR0 ? fn.barBytes : 0
  if (count === 0 || count > CONFIG_BYTES || offset + BigInt(count) > BigInt(size)) return EINVAL
  const pieces = piecesOf(Number(offset), count)
  const access = region === REGION_CONFIG ? configAccess(fn) : barAccess(fn)
  const answer = bytesOf(body, REGION_HEADER_BYTES)
  if (command === COMMAND.REGION_WRITE) {
    if (body.byteLength < REGION_HEADER_BYTES + count) return EINVAL
    for (const { from, bytes, at } of pieces) access.write(from, bytes, getValue(body, at, bytes))
    return answer
  }
  const reply = new Uint8Array(REGION_HEADER_BYTES + count)
  reply.set(answer)
  const view = new DataView(reply.buffer)
  for (const { from, bytes, at } of pieces) setValue(view, at, bytes, access.read(from, bytes))
  return reply
}

interface RegionAccess {
  read(offset: number, bytes: number): bigint
  write(offset: number, bytes: number, value: bigint): void
}

function configAccess(fn: PciFunction): RegionAccess {
  return {
    read: (offset, bytes) => BigInt(fn.readConfig(offset, bytes)),
    write: (offset, bytes, value) => fn.writeConfig(offset, bytes, Number(value)),
  }
}

function barAccess(fn: PciFunction): RegionAccess {
  return {
    read: (offset, bytes) => fn.readBar(offset, bytes),
    write: (offset, bytes, value) => fn.writeBar(offset, bytes, value),
  }
}

/** An access of a processor's width is one access; QEMU reads the whole configuration space in one message. */
function piecesOf(offset: number, count: number): { from: number; bytes: number; at: number }[] {
  const isOneAccess = count === 1 || count === 2 || count === 4 || (count === 8 && offset % 8 === 0)
  const bytes = isOneAccess ? count : 1
  return Array.from({ length: count / bytes }, (_, n) => ({
    from: offset + n * bytes,
    bytes,
    at: REGION_HEADER_BYTES + n * bytes,
  }))
}

function getValue(data: DataView, at: number, bytes: number): bigint {
  let value = 0n
  for (let n = bytes - 1; n >= 0; n--) value = (value << 8n) | BigInt(data.getUint8(at + n))
  return value
}

function setValue(data: DataView, at: number, bytes: number, value: bigint): void {
  for (let n = 0; n < bytes; n++) data.setUint8(at + n, Number((value >> BigInt(8 * n)) & 0xffn))
}

function bytesOf(body: DataView, count: number): Uint8Array {
  return new Uint8Array(body.buffer, body.byteOffset, count).slice()
}

function words(values: readonly number[]): Uint8Array {
  return new Uint8Array(Uint32Array.from(values).buffer)
}
