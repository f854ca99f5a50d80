/**
 * qtest for callers that cannot wait for a promise: a driver's register access returns its value. A worker thread
 * owns the socket; the caller sleeps until it has the answers.
 */
import { once } from "node:events"
import { Worker } from "node:worker_threads"

/** Bytes of the longest answer. */
const ANSWER_BYTES = 1 << 16
const DEFAULT_TIMEOUT_MS = 10_000

/** Shared words: whether there is an answer, and its bytes; negative for a failure. */
const READY = 0
const LENGTH = 1
const HEADER_BYTES = 8

/** What the worker gets at its start. */
export interface BlockingQtestStart {
  readonly path: string
  readonly shared: SharedArrayBuffer
}

export class BlockingQtest {
  readonly #worker: Worker
  readonly #state: Int32Array
  readonly #bytes: Uint8Array
  readonly #timeoutMs: number
  readonly #connected: Promise<unknown>

  private constructor(worker: Worker, shared: SharedArrayBuffer, timeoutMs: number) {
    this.#worker = worker
    this.#state = new Int32Array(shared, 0, HEADER_BYTES / 4)
    this.#bytes = new Uint8Array(shared, HEADER_BYTES)
    this.#timeoutMs = timeoutMs
    this.#connected = once(worker, "message")
    this.#connected.catch(() => undefined)
  }

  /** Listens at a path; QEMU is to be started after that. */
  static async listen(path: string, timeoutMs: number = DEFAULT_TIMEOUT_MS): Promise<BlockingQtest> {
    const shared = new SharedArrayBuffer(HEADER_BYTES + ANSWER_BYTES)
    const start: BlockingQtestStart = { path, shared }
    const worker = new Worker(new URL("./blocking-qtest-worker.ts", import.meta.url), { workerData: start })
    worker.unref()
    await once(worker, "message")
    return new BlockingQtest(worker, shared, timeoutMs)
  }

  /** Settles when QEMU has connected, rejects when `ended` settles before that. */
  async connected(ended: Promise<unknown>, why: () => string): Promise<void> {
    const gone = ended.then((): never => {
      throw new Error(why())
    })
    gone.catch(() => undefined)
    await Promise.race([this.#connected, gone])
  }

  /**
   * Sends lines at once and sleeps until all are answered.
   * @returns what follows `OK` in each answer
   * @throws Error when QEMU refuses a line, is gone, or does not answer in time
   */
  exchange(lines: readonly string[]): string[] {
    Atomics.store(this.#state, READY, 0)
    this.#worker.postMessage(lines)
    if (Atomics.wait(this.#state, READY, 0, this.#timeoutMs) === "timed-out") {
      throw new Error(`QEMU did not answer ${lines.length} lines of qtest in ${this.#timeoutMs} ms`)
    }
    const length = this.#state[LENGTH]
    const text = Buffer.from(this.#bytes.slice(0, Math.abs(length))).toString()
    if (length < 0) throw new Error(text)
    return text.split("\n")
  }

  async close(): Promise<void> {
    await this.#worker.terminate()
  }
}
