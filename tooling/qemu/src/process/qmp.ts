/** QEMU's machine protocol, QMP: one JSON document a line, commands answered by id, events in between. */
import type { Socket } from "node:net"
import { LineReader } from "./line-reader.ts"

export interface QmpEvent {
  /** `SHUTDOWN`, `RESET`, `GUEST_PANICKED`… */
  readonly event: string
  readonly data: unknown
}

interface Waiting {
  readonly command: string
  resolve(answer: unknown): void
  reject(error: Error): void
}

export class Qmp {
  readonly #socket: Socket
  readonly #waiting = new Map<number, Waiting>()
  #nextId = 1
  #failure: Error | null = null
  /** Called for each event, while set. */
  onEvent: ((event: QmpEvent) => void) | null = null

  /** Use {@link openQmp}. */
  constructor(socket: Socket) {
    this.#socket = socket
    const lines = new LineReader(line => this.#receive(line))
    socket.setEncoding("utf8")
    socket.on("data", (text: string) => lines.push(text))
    socket.on("error", error => this.#fail(error))
    socket.on("close", () => this.#fail(new Error("QEMU closed the QMP connection")))
  }

  /**
   * @returns the command's answer, as the JSON holds it
   * @throws Error with QEMU's words when it refuses the command, or when it is gone
   */
  execute(command: string, args: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    if (this.#failure !== null) return Promise.reject(this.#failure)
    const id = this.#nextId++
    this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`)
    return new Promise((resolve, reject) => this.#waiting.set(id, { command, resolve, reject }))
  }

  close(): void {
    this.#socket.destroy()
  }

  #receive(line: string): void {
    const message: unknown = JSON.parse(line)
    if (typeof message !== "object" || message === null) return
    if ("event" in message && typeof message.event === "string") {
      this.onEvent?.({ event: message.event, data: "data" in message ? message.data : undefined })
      return
    }
    // The greeting has no id.
    if (!("id" in message) || typeof message.id !== "number") return
    const waiting = this.#waiting.get(message.id)
    if (waiting === undefined) return
    this.#waiting.delete(message.id)
    if ("error" in message)
      waiting.reject(new Error(`QMP: ${waiting.command}: ${JSON.stringify(message.error)}`))
    else waiting.resolve("return" in message ? message.return : undefined)
  }

  #fail(error: Error): void {
    this.#failure ??= error
    for (const { reject } of this.#waiting.values()) reject(this.#failure)
    this.#waiting.clear()
  }
}

/** Opens a connection for commands. */
export async function openQmp(socket: Socket): Promise<Qmp> {
  const qmp = new Qmp(socket)
  await qmp.execute("qmp_capabilities")
  return qmp
}
