/**
 * QEMU's qtest protocol: reads and writes of a machine's address space and ports, one line each, answered in order.
 * Lines may be sent before earlier ones are answered, so a sequence costs one round trip.
 */
import type { Socket } from "node:net"
import { LineReader } from "./line-reader.ts"

interface Waiting {
  readonly line: string
  resolve(answer: string): void
  reject(error: Error): void
}

export class Qtest {
  readonly #socket: Socket
  readonly #waiting: Waiting[] = []
  #next = 0
  #outgoing: string[] = []
  #failure: Error | null = null
  /** Called for `IRQ raise N` and `IRQ lower N`, which come without being asked for, while set. */
  onInterrupt: ((line: string) => void) | null = null

  constructor(socket: Socket) {
    this.#socket = socket
    const lines = new LineReader(line => this.#answer(line))
    socket.setEncoding("utf8")
    socket.on("data", (text: string) => lines.push(text))
    socket.on("error", error => this.#fail(error))
    socket.on("close", () => this.#fail(new Error("QEMU closed the qtest connection")))
  }

  /**
   * Sends one line; lines of the same turn of the event loop leave together.
   * @returns what follows `OK` in the answer, without the space between
   * @throws Error when QEMU refuses the line or is gone
   */
  command(line: string): Promise<string> {
    if (this.#failure !== null) return Promise.reject(this.#failure)
    if (this.#outgoing.length === 0) queueMicrotask(() => this.#flush())
    this.#outgoing.push(line)
    return new Promise((resolve, reject) => this.#waiting.push({ line, resolve, reject }))
  }

  /** @param address physical address; @returns an unsigned value of the width asked for */
  async readb(address: bigint | number): Promise<number> {
    return Number(await this.command(`readb ${hex(address)}`))
  }

  async readw(address: bigint | number): Promise<number> {
    return Number(await this.command(`readw ${hex(address)}`))
  }

  async readl(address: bigint | number): Promise<number> {
    return Number(await this.command(`readl ${hex(address)}`))
  }

  async readq(address: bigint | number): Promise<bigint> {
    return BigInt(await this.command(`readq ${hex(address)}`))
  }

  async writeb(address: bigint | number, value: number): Promise<void> {
    await this.command(`writeb ${hex(address)} ${hex(value)}`)
  }

  async writew(address: bigint | number, value: number): Promise<void> {
    await this.command(`writew ${hex(address)} ${hex(value)}`)
  }

  async writel(address: bigint | number, value: number): Promise<void> {
    await this.command(`writel ${hex(address)} ${hex(value)}`)
  }

  async writeq(address: bigint | number, value: bigint): Promise<void> {
    await this.command(`writeq ${hex(address)} ${hex(value)}`)
  }

  /** Reads bytes of memory. */
  async read(address: bigint | number, bytes: number): Promise<Uint8Array> {
    const answer = await this.command(`read ${hex(address)} ${hex(bytes)}`)
    return Uint8Array.from(Buffer.from(answer.slice(2), "hex"))
  }

  /** Writes bytes of memory. */
  async write(address: bigint | number, data: Uint8Array): Promise<void> {
    const digits = Buffer.from(data.buffer, data.byteOffset, data.length).toString("hex")
    await this.command(`write ${hex(address)} ${hex(data.length)} 0x${digits}`)
  }

  /** Reads a 32-bit port. */
  async inl(port: number): Promise<number> {
    return Number(await this.command(`inl ${hex(port)}`))
  }

  /** Writes a 32-bit port. */
  async outl(port: number, value: number): Promise<void> {
    await this.command(`outl ${hex(port)} ${hex(value)}`)
  }

  close(): void {
    this.#socket.destroy()
  }

  #flush(): void {
    const lines = this.#outgoing
    this.#outgoing = []
    if (this.#failure === null) this.#socket.write(`${lines.join("\n")}\n`)
  }

  #answer(line: string): void {
    if (line.startsWith("IRQ ")) {
      this.onInterrupt?.(line)
      return
    }
    const waiting = this.#waiting[this.#next++]
    if (waiting === undefined) {
      this.#fail(new Error(`qtest answered what was not asked: ${line}`))
      return
    }
    if (line === "OK" || line.startsWith("OK ")) waiting.resolve(line.slice(3))
    else waiting.reject(new Error(`qtest: ${waiting.line}: ${line}`))
    if (this.#next < this.#waiting.length) return
    this.#waiting.length = 0
    this.#next = 0
  }

  #fail(error: Error): void {
    this.#failure ??= error
    for (const waiting of this.#waiting.splice(0).slice(this.#next)) waiting.reject(this.#failure)
    this.#next = 0
  }
}

/** A value as the protocol takes it; negative numbers are 32-bit halves. */
export function hex(value: bigint | number): string {
  return `0x${(typeof value === "number" && value < 0 ? value >>> 0 : value).toString(16)}`
}
