/** A running QEMU: its own pid and no other is ever signalled, and what it complained about is kept. */
import { type ChildProcess, spawn } from "node:child_process"
import { existsSync } from "node:fs"
import { Duplex, type Readable } from "node:stream"
import { describeBinary, type QemuBinary } from "../binary/qemu-binary.ts"

export interface QemuEnd {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

export interface QemuStartOptions {
  /** Killed when it still runs after so long. Absent: it may run as long as this process. */
  readonly timeoutMs?: number
  /** Connected UNIX sockets that QEMU gets as file descriptors from {@link FIRST_LINK} on; default none. */
  readonly links?: number
}

/** File descriptor of the first link in QEMU: those below are its standard streams. */
export const FIRST_LINK = 3

/** Kept of standard error: its last part, where the reason of an exit stands. */
const STDERR_CHARACTERS = 16_384
/** From SIGTERM, on which QEMU shuts down in order, to SIGKILL. */
const GRACE_MS = 2_000

const running = new Set<ChildProcess>()
process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL")
})

/**
 * A machine never outlives the process that started it, not even one that is killed: Linux then kills it, too.
 * setpriv is part of every Debian; where there is none, only an orderly end of this process ends its machines.
 */
const SETPRIV = "/usr/bin/setpriv"
const DIES_WITH_PARENT = existsSync(SETPRIV) ? [SETPRIV, "--pdeathsig", "KILL", "--"] : []

export class QemuProcess {
  readonly binary: QemuBinary
  readonly pid: number
  /** Settles when the process is gone, with how it ended. Never rejects. */
  readonly ended: Promise<QemuEnd>
  /** The guest's console with `-serial stdio`, else empty. */
  readonly stdout: Readable
  /** Our ends of the links. */
  readonly links: readonly Duplex[]
  readonly #child: ChildProcess
  #stderr = ""
  #end: QemuEnd | null = null

  /** Use {@link startQemu}. */
  constructor(binary: QemuBinary, child: ChildProcess, stdout: Readable, stderr: Readable, pid: number) {
    this.binary = binary
    this.pid = pid
    this.stdout = stdout
    // Node makes a "pipe" a pair of UNIX sockets.
    this.links = child.stdio.slice(FIRST_LINK).filter(stream => stream instanceof Duplex)
    this.#child = child
    running.add(child)
    stderr.setEncoding("utf8")
    stderr.on("data", (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-STDERR_CHARACTERS)
    })
    this.ended = new Promise(resolve => {
      child.once("close", (code, signal) => {
        running.delete(child)
        this.#end = { code, signal }
        resolve(this.#end)
      })
    })
  }

  /** How it ended, or null while it runs. */
  get end(): QemuEnd | null {
    return this.#end
  }

  /** The last 16 KiB of standard error. */
  get stderr(): string {
    return this.#stderr
  }

  /** One sentence for an error message: which QEMU, how it ended, what it said. */
  describe(): string {
    const state = this.#end === null ? "runs" : `ended with ${this.#end.signal ?? this.#end.code}`
    const said = this.#stderr.trim()
    return `${describeBinary(this.binary)} ${state}${said === "" ? "" : `: ${said}`}`
  }

  /** Ends this process: SIGTERM, then SIGKILL. Settles when it is gone. */
  async stop(): Promise<QemuEnd> {
    if (this.#end !== null) return this.#end
    this.#child.kill("SIGTERM")
    const kill = setTimeout(() => this.#child.kill("SIGKILL"), GRACE_MS)
    try {
      return await this.ended
    } finally {
      clearTimeout(kill)
    }
  }

  /** Ends this process at once, its state lost. */
  kill(): void {
    this.#child.kill("SIGKILL")
  }
}

/**
 * Starts a QEMU with these arguments, not through a shell.
 * @throws Error when the program cannot be started
 */
export async function startQemu(
  binary: QemuBinary,
  args: readonly string[],
  options: QemuStartOptions = {},
): Promise<QemuProcess> {
  const [program, ...before] = [...DIES_WITH_PARENT, ...binary.command]
  const child = spawn(program, [...before, ...args], {
    env: { ...process.env, ...binary.environment },
    stdio: ["ignore", "pipe", "pipe", ...Array.from({ length: options.links ?? 0 }, () => "pipe" as const)],
  })
  await new Promise<void>((resolve, reject) => {
    child.once("spawn", resolve)
    child.once("error", reject)
  })
  const { pid, stdout, stderr } = child
  if (pid === undefined || stdout === null || stderr === null)
    throw new Error(`${describeBinary(binary)} did not start`)
  const qemu = new QemuProcess(binary, child, stdout, stderr, pid)
  if (options.timeoutMs !== undefined) {
    const timer = setTimeout(() => qemu.kill(), options.timeoutMs)
    void qemu.ended.then(() => clearTimeout(timer))
  }
  return qemu
}
