/**
 * The private protocol of QEMU's `x-pci-proxy-dev` (versions 5.2 to 10.x), described in QEMU's
 * docs/devel/multi-process.rst: header of 16 bytes (command, size), then the command's structure. Read with QEMU
 * 7.2's include/hw/remote/mpqemu-link.h for the numbers. File descriptors that come along are dropped by the kernel:
 * the guest's RAM is a file that we open ourselves, and interrupts are messages.
 */
import type { Duplex } from "node:stream"
import type { PciFunction } from "../pci/function.ts"
import { Frames, type Framing } from "./frames.ts"
import { guarded, pipeFrames } from "./serve.ts"

const SYNC_SYSMEM = 0
const RET = 1
const PCI_CFGWRITE = 2
const PCI_CFGREAD = 3
const BAR_WRITE = 4
const BAR_READ = 5
const SET_IRQFD = 6
const DEVICE_RESET = 7

const HEADER_BYTES = 16
/** Bytes that follow the header, by command. */
const BODY_BYTES: Readonly<Record<number, number>> = {
  [SYNC_SYSMEM]: 192,
  [PCI_CFGWRITE]: 12,
  [PCI_CFGREAD]: 12,
  [BAR_WRITE]: 24,
  [BAR_READ]: 24,
  [SET_IRQFD]: 0,
  [DEVICE_RESET]: 0,
}

const FRAMING: Framing = {
  headerBytes: HEADER_BYTES,
  maxBytes: HEADER_BYTES + 192,
  lengthOf: header => {
    const body = BODY_BYTES[header.getInt32(0, true)]
    return body !== undefined && header.getBigUint64(8, true) === BigInt(body) ? HEADER_BYTES + body : null
  },
}

/**
 * Serves a function to a QEMU until the stream ends.
 * @param complain told of an error of ours, which is answered with zero, and of a stream that makes no sense, which is
 * closed after it
 */
export function serveProxy(stream: Duplex, fn: PciFunction, complain: (what: string) => void): void {
  const reply = new DataView(new ArrayBuffer(HEADER_BYTES + 8))
  reply.setInt32(0, RET, true)
  reply.setBigUint64(8, 8n, true)
  const frames = new Frames(FRAMING, message => {
    const view = new DataView(message.buffer, message.byteOffset, message.length)
    const answer = guarded(complain, 0n, () => answerOf(fn, view))
    if (answer === null) return
    reply.setBigUint64(HEADER_BYTES, BigInt.asUintN(64, answer), true)
    stream.write(new Uint8Array(reply.buffer).slice())
  })
  pipeFrames(stream, frames, what => complain(`${fn.name}: x-pci-proxy-dev: ${what}`))
}

/** @returns the value that QEMU waits for, or null for a message without an answer */
function answerOf(fn: PciFunction, message: DataView): bigint | null {
  const command = message.getInt32(0, true)
  switch (command) {
    case PCI_CFGREAD:
    case PCI_CFGWRITE:
      return configAccess(fn, command, message)
    case BAR_READ:
    case BAR_WRITE:
      return barAccess(fn, command, message)
    case DEVICE_RESET:
      fn.reset()
      return 0n
    default:
      return null
  }
}

function configAccess(fn: PciFunction, command: number, message: DataView): bigint {
  const offset = message.getUint32(HEADER_BYTES, true)
  const value = message.getUint32(HEADER_BYTES + 4, true)
  const bytes = message.getInt32(HEADER_BYTES + 8, true)
  if (bytes !== 1 && bytes !== 2 && bytes !== 4) return 0n
  if (command === PCI_CFGREAD) return BigInt(fn.readConfig(offset, bytes))
  fn.writeConfig(offset, bytes, value)
  return 0n
}

/** Addresses are the machine's, and a BAR is aligned to its size. */
function barAccess(fn: PciFunction, command: number, message: DataView): bigint {
  const address = message.getBigUint64(HEADER_BYTES, true)
  const value = message.getBigUint64(HEADER_BYTES + 8, true)
  const bytes = message.getUint32(HEADER_BYTES + 16, true)
  if (fn.barBytes === 0 || (bytes !== 1 && bytes !== 2 && bytes !== 4 && bytes !== 8)) return 0n
  const offset = Number(address & BigInt(fn.barBytes - 1))
  if (command === BAR_READ) return fn.readBar(offset, bytes)
  fn.writeBar(offset, bytes, value)
  return 0n
}
