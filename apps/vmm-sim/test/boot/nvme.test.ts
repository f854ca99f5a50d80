/** The NVMe controller as a host's driver meets it: NVM Express 1.4c, and hosts that keep to no rule. */
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { NvmeController } from "../../src/boot/nvme/controller.ts"
import { Disk } from "../../src/boot/nvme/disk.ts"
import type { Dma } from "../../src/boot/pci/dma.ts"

const MEMORY = 1 << 20
/** Where the test's host has its things. */
const ADMIN_SQ = 0x1000
const ADMIN_CQ = 0x2000
const IO_SQ = 0x3000
const IO_CQ = 0x4000
const LISTS = 0x8000
const BUFFERS = 0x40000

class Host implements Dma {
  readonly memory = new Uint8Array(MEMORY)
  readonly view = new DataView(this.memory.buffer)
  readonly messages: [bigint, number][] = []
  readonly disk = new Disk(1 << 20)
  readonly nvme = new NvmeController(this, this.disk)
  readonly tails = new Map<number, number>()
  readonly heads = new Map<number, number>()

  read(iova: bigint, into: Uint8Array): boolean {
    if (iova + BigInt(into.length) > BigInt(MEMORY)) return false
    into.set(this.memory.subarray(Number(iova), Number(iova) + into.length))
    return true
  }

  write(iova: bigint, bytes: Uint8Array): boolean {
    if (iova + BigInt(bytes.length) > BigInt(MEMORY)) return false
    this.memory.set(bytes, Number(iova))
    return true
  }

  message(address: bigint, data: number): boolean {
    this.messages.push([address, data])
    return true
  }

  register(offset: number): number {
    return Number(this.nvme.readBar(offset, 4))
  }

  start(): void {
    this.nvme.writeBar(0x24, 4, 0x000f_000fn)
    this.nvme.writeBar(0x28, 8, BigInt(ADMIN_SQ))
    this.nvme.writeBar(0x30, 8, BigInt(ADMIN_CQ))
    this.nvme.writeBar(0x14, 4, 0x0046_0001n)
  }

  /** One command on a queue of 16 entries. @returns status and result of its completion, or null when there is none */
  command(queue: number, opcode: number, fields: CommandFields): { status: number; result: number } | null {
    const [sq, cq] = queue === 0 ? [ADMIN_SQ, ADMIN_CQ] : [IO_SQ, IO_CQ]
    const tail = this.tails.get(queue) ?? 0
    const at = sq + tail * 64
    this.memory.fill(0, at, at + 64)
    this.view.setUint32(at, opcode | (0x55 << 16), true)
    this.view.setUint32(at + 4, fields.namespace ?? 0, true)
    this.view.setBigUint64(at + 24, BigInt(fields.prp1 ?? 0), true)
    this.view.setBigUint64(at + 32, BigInt(fields.prp2 ?? 0), true)
    fields.dwords?.forEach((value, n) => {
      this.view.setUint32(at + 40 + n * 4, value, true)
    })
    this.tails.set(queue, (tail + 1) % 16)
    this.nvme.writeBar(0x1000 + queue * 8, 4, BigInt((tail + 1) % 16))
    const seen = this.heads.get(queue) ?? 0
    const entry = cq + (seen % 16) * 16
    const phase = seen < 16 || Math.floor(seen / 16) % 2 === 0 ? 1 : 0
    if ((this.view.getUint16(entry + 14, true) & 1) !== phase) return null
    this.heads.set(queue, seen + 1)
    this.nvme.writeBar(0x1004 + queue * 8, 4, BigInt((seen + 1) % 16))
    expect(this.view.getUint16(entry + 12, true), "command identifier").toBe(0x55)
    return { status: this.view.getUint16(entry + 14, true) >> 1, result: this.view.getUint32(entry, true) }
  }

  /** Queue pair 1 of 16 entries, with interrupts. */
  createQueues(): void {
    expect(this.command(0, 0x05, { prp1: IO_CQ, dwords: [0x000f_0001, 3] })?.status).toBe(0)
    expect(this.command(0, 0x01, { prp1: IO_SQ, dwords: [0x000f_0001, 0x0001_0001] })?.status).toBe(0)
  }
}

interface CommandFields {
  readonly namespace?: number
  readonly prp1?: number
  readonly prp2?: number
  /** From dword 10 on. */
  readonly dwords?: readonly number[]
}

function started(): Host {
  const host = new Host()
  host.start()
  return host
}

describe("the NVMe controller", () => {
  it("is an NVM Express controller with one MSI", () => {
    const { nvme } = new Host()
    expect(nvme.readConfig(0x09, 2)).toBe(0x0802)
    expect(nvme.readConfig(0x0b, 1)).toBe(0x01)
    nvme.writeConfig(0x10, 4, 0xffff_ffff)
    expect(nvme.readConfig(0x10, 4), "BAR 0 of 16 KiB").toBe(0xffff_c000)
    const msi = nvme.readConfig(0x34, 1)
    expect(nvme.readConfig(msi, 1)).toBe(5)
    expect(nvme.readConfig(msi + 2, 2), "64-bit address, one message, off").toBe(0x80)
  })

  it("becomes ready, and not with pages that it does not have", () => {
    const host = started()
    expect(host.register(0x1c)).toBe(1)
    host.nvme.writeBar(0x14, 4, 0x0046_0000n)
    expect(host.register(0x1c)).toBe(0)
    host.nvme.writeBar(0x14, 4, 0x0046_0081n)
    expect(host.register(0x1c), "CSTS.CFS").toBe(2)
  })

  it("completes a shutdown", () => {
    const host = started()
    host.nvme.writeBar(0x14, 4, 0x0046_4001n)
    expect((host.register(0x1c) >> 2) & 3).toBe(2)
  })

  it("identifies itself: Figures 245 and 247", () => {
    const host = started()
    expect(host.command(0, 0x06, { prp1: BUFFERS, dwords: [1] })?.status).toBe(0)
    const text = (at: number, bytes: number): string =>
      new TextDecoder().decode(host.memory.subarray(BUFFERS + at, BUFFERS + at + bytes))
    expect(text(4, 20).trimEnd()).not.toBe("")
    expect(text(768, 4)).toBe("nqn.")
    expect(host.view.getUint32(BUFFERS + 80, true), "VER").toBe(0x0001_0400)
    expect(host.memory[BUFFERS + 512], "SQES").toBe(0x66)
    expect(host.memory[BUFFERS + 513], "CQES").toBe(0x44)
    expect(host.command(0, 0x06, { namespace: 1, prp1: BUFFERS, dwords: [0] })?.status).toBe(0)
    expect(host.view.getBigUint64(BUFFERS, true), "NSZE").toBe(2048n)
    expect(host.memory[BUFFERS + 130], "LBADS").toBe(9)
  })

  it("splits data over PRP1, PRP2 and lists: §4.3", () => {
    const host = started()
    host.createQueues()
    const sizes = [1, 7, 8, 9, 16, 17, 200, 256]
    const data = Uint8Array.from({ length: 256 * 512 }, (_, n) => (n * 7 + (n >> 9)) & 0xff)
    for (const blocks of sizes) {
      for (const offset of [0, 0x200, 0xe00]) {
        const bytes = blocks * 512
        // Pages scattered backwards, the first with an offset.
        const pages = Array.from({ length: 34 }, (_, n) => BUFFERS + (40 - n) * 4096)
        const room = 4096 - offset
        const place = (at: number): number =>
          at < room
            ? (pages[0] as number) + offset + at
            : (pages[1 + Math.floor((at - room) / 4096)] as number) + ((at - room) % 4096)
        for (let at = 0; at < bytes; at++) host.memory[place(at)] = data[at] as number
        // Two pointers before the end of their page: the second one leads on.
        const list = LISTS + 0xff0
        const rest = pages.slice(1, 1 + Math.ceil(Math.max(0, bytes - room) / 4096))
        const isChained = rest.length > 2
        rest.forEach((page, n) => {
          const at = isChained && n > 0 ? LISTS + 0x2000 + (n - 1) * 8 : list + n * 8
          host.view.setBigUint64(at, BigInt(page), true)
        })
        if (isChained) host.view.setBigUint64(list + 8, BigInt(LISTS + 0x2000), true)
        const fields: CommandFields = {
          namespace: 1,
          prp1: (pages[0] as number) + offset,
          prp2: rest.length > 1 ? list : (rest[0] ?? 0),
          dwords: [16, 0, blocks - 1],
        }
        const what = `${blocks} blocks at offset ${offset}`
        expect(host.command(1, 0x01, fields)?.status, what).toBe(0)
        expect(host.disk.bytes.subarray(16 * 512, 16 * 512 + bytes), what).toEqual(data.subarray(0, bytes))
        host.memory.fill(0, BUFFERS)
        expect(host.command(1, 0x02, fields)?.status, what).toBe(0)
        for (let at = 0; at < bytes; at += 97) expect(host.memory[place(at)], what).toBe(data[at])
      }
    }
  })

  it.each([
    ["an unknown opcode", 1, 0x7f, { namespace: 1 }, 0x001],
    ["a namespace that is not there", 1, 0x02, { namespace: 2 }, 0x00b],
    ["blocks beyond the end", 1, 0x02, { namespace: 1, prp1: BUFFERS, dwords: [2048, 0, 0] }, 0x080],
    ["block numbers beyond 2^32", 1, 0x02, { namespace: 1, prp1: BUFFERS, dwords: [0, 1, 0] }, 0x080],
    ["more than MDTS", 1, 0x02, { namespace: 1, prp1: BUFFERS, dwords: [0, 0, 256] }, 0x002],
    [
      "a second PRP with an offset",
      1,
      0x02,
      { namespace: 1, prp1: BUFFERS, prp2: BUFFERS + 8, dwords: [0, 0, 15] },
      0x013,
    ],
    ["memory that does not answer", 1, 0x02, { namespace: 1, prp1: MEMORY, dwords: [0, 0, 0] }, 0x004],
    ["an unknown admin command", 0, 0x7f, {}, 0x001],
    ["unknown data to identify", 0, 0x06, { prp1: BUFFERS, dwords: [0x7f] }, 0x002],
    ["a log page that is not there", 0, 0x02, { prp1: BUFFERS, dwords: [0x7f] }, 0x109],
    ["a feature that is not there", 0, 0x0a, { dwords: [0x7f] }, 0x002],
    ["queue 0 once more", 0, 0x05, { prp1: IO_CQ, dwords: [0x000f_0000, 3] }, 0x101],
    ["a queue of one entry", 0, 0x05, { prp1: IO_CQ, dwords: [0x0000_0002, 3] }, 0x102],
    [
      "a submission queue without completions",
      0,
      0x01,
      { prp1: IO_SQ, dwords: [0x000f_0002, 0x0005_0001] },
      0x100,
    ],
    ["deletion of a completion queue in use", 0, 0x04, { dwords: [1] }, 0x10c],
    ["a vector that is not there", 0, 0x05, { prp1: IO_CQ, dwords: [0x000f_0002, 0x0001_0003] }, 0x108],
  ] as const)("refuses %s", (_what, queue, opcode, fields, status) => {
    const host = started()
    host.createQueues()
    expect(host.command(queue, opcode, fields)?.status).toBe(status)
  })

  it("keeps four asynchronous event requests open, and refuses a fifth", () => {
    const host = started()
    for (let n = 0; n < 4; n++) expect(host.command(0, 0x0c, {})).toBeNull()
    expect(host.command(0, 0x0c, {})?.status).toBe(0x105)
  })

  it("sends a message when MSI is on and not masked", () => {
    const host = started()
    const msi = host.nvme.readConfig(0x34, 1)
    host.command(0, 0x06, { prp1: BUFFERS, dwords: [1] })
    expect(host.messages).toEqual([])
    host.nvme.writeConfig(msi + 4, 4, 0xfee0_1000)
    host.nvme.writeConfig(msi + 12, 2, 0x41)
    host.nvme.writeConfig(msi + 2, 2, 1)
    host.command(0, 0x06, { prp1: BUFFERS, dwords: [1] })
    expect(host.messages).toEqual([[0xfee0_1000n, 0x41]])
    host.nvme.writeBar(0x0c, 4, 1n)
    host.command(0, 0x06, { prp1: BUFFERS, dwords: [1] })
    expect(host.messages).toHaveLength(1)
    host.nvme.writeBar(0x10, 4, 1n)
    expect(host.messages).toHaveLength(2)
  })

  it("waits while the completion queue is full", () => {
    const host = started()
    host.createQueues()
    const read = { namespace: 1, prp1: BUFFERS, dwords: [0, 0, 0] }
    expect(host.command(1, 0x02, read)?.status).toBe(0)
    // Fifteen commands at once: as many as the queue has room for; none is lost when the host takes entries late.
    for (let n = 0; n < 15; n++) host.memory.copyWithin(IO_SQ + ((n + 1) % 16) * 64, IO_SQ, IO_SQ + 64)
    host.nvme.writeBar(0x1008, 4, 0n)
    const before = host.nvme.commands.get("io 0x02")
    host.nvme.writeBar(0x1008, 4, 2n)
    expect(host.nvme.commands.get("io 0x02"), "no room").toBe(before)
    host.nvme.writeBar(0x100c, 4, 3n)
    expect(host.nvme.commands.get("io 0x02")).toBe((before ?? 0) + 2)
  })

  it("sends rogue DMA on command", () => {
    const host = new Host()
    const at = host.nvme.rogueOffset
    host.nvme.writeConfig(at + 4, 4, BUFFERS)
    host.nvme.writeConfig(at + 12, 4, 2)
    expect(new TextDecoder().decode(host.memory.subarray(BUFFERS, BUFFERS + 4))).toBe("ROGU")
    expect(host.nvme.readConfig(at + 16, 4)).toBe(1)
    host.nvme.writeConfig(at + 8, 4, 1)
    host.nvme.writeConfig(at + 12, 4, 1)
    expect(host.nvme.readConfig(at + 16, 4), "refused").toBe(2)
  })

  it("survives hosts that keep to no rule", () => {
    const access = fc.record({
      offset: fc.oneof(
        fc.constantFrom(0x14, 0x24, 0x28, 0x30, 0x1000, 0x1004, 0x1008, 0x100c),
        fc.nat({ max: 0x3fff }),
      ),
      bytes: fc.constantFrom(1, 2, 4, 8),
      value: fc.oneof(
        fc.constantFrom(0x46_0001n, 0x1fn, BigInt(ADMIN_SQ)),
        fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
      ),
    })
    const memory = fc.array(fc.tuple(fc.nat({ max: 0x7fff }), fc.nat({ max: 255 })), { maxLength: 40 })
    fc.assert(
      fc.property(fc.array(fc.tuple(access, memory), { maxLength: 40 }), steps => {
        const host = started()
        for (const [{ offset, bytes, value }, stores] of steps) {
          for (const [at, byte] of stores) host.memory[at] = byte
          host.nvme.writeBar(offset, bytes, value)
          host.nvme.readBar(offset, bytes)
          host.nvme.writeConfig(offset & 0xff, bytes === 8 ? 4 : bytes, Number(value & 0xffff_ffffn))
        }
        host.nvme.reset()
        host.start()
        expect(host.register(0x1c), "it starts again after a reset").toBe(1)
      }),
      { seed: 20_26, numRuns: 300 },
    )
  })
})
