/** Both transports: the messages as QEMU's sources and documents have them, and streams that no QEMU sends. */
import { Duplex } from "node:stream"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import type { PciFunction } from "../../src/boot/pci/function.ts"
import { serveProxy } from "../../src/boot/transport/proxy-link.ts"
import { serveVfioUser } from "../../src/boot/transport/vfio-user-link.ts"

/** A function that notes what it was asked. */
class Noted implements PciFunction {
  readonly name = "noted"
  readonly barBytes = 0x1000
  readonly calls: string[] = []
  isBroken = false

  readConfig(offset: number, bytes: number): number {
    return Number(this.#note(`config read ${offset} ${bytes}`, 0x1234n))
  }

  writeConfig(offset: number, bytes: number, value: number): void {
    this.#note(`config write ${offset} ${bytes} ${value}`, 0n)
  }

  readBar(offset: number, bytes: number): bigint {
    return this.#note(`bar read ${offset} ${bytes}`, 0x1122_3344_5566_7788n)
  }

  writeBar(offset: number, bytes: number, value: bigint): void {
    this.#note(`bar write ${offset} ${bytes} ${value}`, 0n)
  }

  reset(): void {
    this.#note("reset", 0n)
  }

  #note(call: string, answer: bigint): bigint {
    if (this.isBroken) throw new Error("a mistake of ours")
    this.calls.push(call)
    return answer
  }
}

type Serve = typeof serveProxy

interface Session {
  readonly fn: Noted
  readonly complaints: string[]
  readonly stream: Duplex
  /** Sends bytes. @returns what came back */
  send(bytes: Uint8Array): Uint8Array
}

function session(serve: Serve): Session {
  const fn = new Noted()
  const complaints: string[] = []
  let answers: Uint8Array[] = []
  const stream = new Duplex({
    read: () => undefined,
    write: (chunk: Uint8Array, _encoding, done) => {
      answers.push(new Uint8Array(chunk))
      done()
    },
  })
  serve(stream, fn, what => complaints.push(what))
  return {
    fn,
    complaints,
    stream,
    send: bytes => {
      answers = []
      stream.emit("data", Buffer.from(bytes))
      return new Uint8Array(Buffer.concat(answers))
    },
  }
}

/** Header of 16 bytes, command and size, then the body: include/hw/remote/mpqemu-link.h of QEMU 7.2. */
function proxyMessage(command: number, body: readonly number[]): Uint8Array {
  const header = new DataView(new ArrayBuffer(16))
  header.setInt32(0, command, true)
  header.setBigUint64(8, BigInt(body.length), true)
  return Uint8Array.from([...new Uint8Array(header.buffer), ...body])
}

const u16 = (value: number): number[] => [value & 0xff, value >> 8]
const u32 = (value: number): number[] => [...u16(value & 0xffff), ...u16(value >>> 16)]
const u64 = (value: number): number[] => [...u32(value), ...u32(0)]
/** RET, 8 bytes. */
const ret = (value: bigint): number[] => {
  const bytes = new DataView(new ArrayBuffer(24))
  bytes.setInt32(0, 1, true)
  bytes.setBigUint64(8, 8n, true)
  bytes.setBigUint64(16, value, true)
  return [...new Uint8Array(bytes.buffer)]
}

describe("x-pci-proxy-dev", () => {
  it("answers configuration and BAR accesses with a 64-bit value", () => {
    const { send, fn, complaints } = session(serveProxy)
    expect([...send(proxyMessage(3, [...u32(0x10), ...u32(0), ...u32(4)]))]).toEqual(ret(0x1234n))
    expect([...send(proxyMessage(2, [...u32(0x04), ...u32(7), ...u32(2)]))]).toEqual(ret(0n))
    const bar = (value: number, size: number): number[] => [
      ...u64(0xfed9_0018),
      ...u64(value),
      ...u32(size),
      1,
      0,
      0,
      0,
    ]
    expect([...send(proxyMessage(5, bar(0, 8)))]).toEqual(ret(0x1122_3344_5566_7788n))
    expect([...send(proxyMessage(4, bar(0x8000_0000, 4)))]).toEqual(ret(0n))
    expect([...send(proxyMessage(7, []))]).toEqual(ret(0n))
    expect(fn.calls).toEqual([
      "config read 16 4",
      "config write 4 2 7",
      "bar read 24 8",
      "bar write 24 4 2147483648",
      "reset",
    ])
    expect(complaints).toEqual([])
  })

  it("does not answer what QEMU does not wait for", () => {
    const { send } = session(serveProxy)
    expect(send(proxyMessage(0, new Array(192).fill(0)))).toHaveLength(0)
    expect(send(proxyMessage(6, []))).toHaveLength(0)
  })

  it("takes messages in any pieces", () => {
    const { send, fn } = session(serveProxy)
    const message = proxyMessage(3, [...u32(0), ...u32(0), ...u32(2)])
    for (const byte of message.subarray(0, -1)) expect(send(Uint8Array.of(byte))).toHaveLength(0)
    expect(send(message.subarray(-1))).toHaveLength(24)
    expect(send(Uint8Array.from([...message, ...message]))).toHaveLength(48)
    expect(fn.calls).toHaveLength(3)
  })

  it("closes a stream that makes no sense, and says so", () => {
    const { send, stream, complaints } = session(serveProxy)
    send(proxyMessage(99, []))
    expect(stream.destroyed).toBe(true)
    expect(complaints).toEqual(["noted: x-pci-proxy-dev: a message of unknown bytes"])
  })
})

/** docs/interop/vfio-user.rst, Header. */
function userMessage(command: number, body: readonly number[], flags = 0): Uint8Array {
  return Uint8Array.from([
    ...u16(7),
    ...u16(command),
    ...u32(16 + body.length),
    ...u32(flags),
    ...u32(0),
    ...body,
  ])
}

const replyHeader = (command: number, bytes: number): number[] => [
  ...u16(7),
  ...u16(command),
  ...u32(16 + bytes),
  ...u32(1),
  ...u32(0),
]

describe("vfio-user", () => {
  it("agrees on version 0.0 with capabilities in JSON", () => {
    const reply = session(serveVfioUser).send(userMessage(1, [...u16(0), ...u16(1)]))
    expect([...reply.subarray(16, 20)]).toEqual([0, 0, 0, 0])
    expect(reply.at(-1)).toBe(0)
    expect(JSON.parse(new TextDecoder().decode(reply.subarray(20, -1)))).toHaveProperty("capabilities")
  })

  it("describes a PCI device with one BAR, configuration space and one MSI", () => {
    const { send } = session(serveVfioUser)
    expect([...send(userMessage(4, [...u32(16), ...new Array(12).fill(0)]))]).toEqual([
      ...replyHeader(4, 16),
      ...[16, 3, 9, 5].flatMap(u32),
    ])
    const region = (index: number): number[] =>
      [...send(userMessage(5, [32, 0, index, 0, 0, 0, 0, 0].flatMap(u32)))].slice(16)
    expect(region(0)).toEqual([32, 3, 0, 0, 0x1000, 0, 0, 0].flatMap(u32))
    expect(region(1)).toEqual([32, 0, 1, 0, 0, 0, 0, 0].flatMap(u32))
    expect(region(7)).toEqual([32, 3, 7, 0, 256, 0, 0, 0].flatMap(u32))
    const irq = (index: number): number[] =>
      [...send(userMessage(7, [16, 0, index, 0].flatMap(u32)))].slice(16)
    expect(irq(1)).toEqual([16, 9, 1, 1].flatMap(u32))
    expect(irq(2)).toEqual([16, 0, 2, 0].flatMap(u32))
  })

  it("reads and writes regions in accesses of the width asked for", () => {
    const { send, fn } = session(serveVfioUser)
    const head = [...u64(0x20), ...u32(0), ...u32(8)]
    expect([...send(userMessage(9, head))]).toEqual([
      ...replyHeader(9, 24),
      ...head,
      ...[0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11],
    ])
    const write = [...u64(0x24), ...u32(0), ...u32(4)]
    expect([...send(userMessage(10, [...write, ...u32(5)]))]).toEqual([...replyHeader(10, 16), ...write])
    expect(send(userMessage(10, [...write, ...u32(6)], 1 << 4)), "no reply asked for").toHaveLength(0)
    send(userMessage(9, [...u64(0), ...u32(7), ...u32(3)]))
    expect(fn.calls).toEqual([
      "bar read 32 8",
      "bar write 36 4 5",
      "bar write 36 4 6",
      "config read 0 1",
      "config read 1 1",
      "config read 2 1",
    ])
  })

  it.each([
    ["beyond the region", 9, [...u64(0xffe), ...u32(0), ...u32(4)]],
    ["of a region that is not there", 9, [...u64(0), ...u32(2), ...u32(4)]],
    ["of nothing", 9, [...u64(0), ...u32(0), ...u32(0)]],
    ["with less data than it says", 10, [...u64(0), ...u32(0), ...u32(4), 1]],
    ["cut short", 9, u32(0)],
  ] as const)("refuses an access %s", (_what, command, body) => {
    const { send, fn } = session(serveVfioUser)
    const reply = new DataView(send(userMessage(command, [...body])).buffer)
    expect(reply.byteLength).toBe(16)
    expect(reply.getUint32(8, true)).toBe(0x21)
    expect(reply.getUint32(12, true)).toBe(22)
    expect(fn.calls).toEqual([])
  })
})

describe.each([
  ["x-pci-proxy-dev", serveProxy, proxyMessage],
  ["vfio-user", serveVfioUser, userMessage],
] as const)("%s against hostile streams", (_name, serve, message) => {
  const body = fc.array(fc.nat({ max: 255 }), { maxLength: 40 })
  const wellFormed = fc
    .tuple(fc.nat({ max: 20 }), body)
    .map(([command, bytes]) => [...message(command, bytes)])
  const piece = fc.oneof(wellFormed, body)

  it("survives, and never answers without a message", () => {
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 20 }), pieces => {
        const { send, stream } = session(serve)
        for (const bytes of pieces) {
          if (stream.destroyed) return
          expect(send(Uint8Array.from(bytes)).length).toBeLessThan(2000)
        }
      }),
      { seed: 20_26, numRuns: 500 },
    )
  })

  it("survives a mistake of ours, and tells of it", () => {
    const { send, fn, complaints, stream } = session(serve)
    fn.isBroken = true
    const read = serve === serveProxy ? [...u32(0), ...u32(0), ...u32(4)] : [...u64(0), ...u32(7), ...u32(4)]
    send(message(serve === serveProxy ? 3 : 9, read))
    expect(complaints.join()).toContain("a mistake of ours")
    expect(stream.destroyed).toBe(false)
  })
})
