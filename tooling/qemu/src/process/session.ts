/** A QEMU with its qtest and QMP connections open, and everything of it gone when it is closed. */
import type { QemuBinary } from "../binary/qemu-binary.ts"
import { type QemuProcess, startQemu } from "./qemu-process.ts"
import { openQmp, type Qmp } from "./qmp.ts"
import { Qtest } from "./qtest.ts"
import { connectionOf, listenOnce } from "./socket.ts"
import { makeWorkFolder, type WorkFolder } from "./work-folder.ts"

export interface QemuSession {
  readonly process: QemuProcess
  readonly qtest: Qtest
  readonly qmp: Qmp
  readonly folder: WorkFolder
  /** Ends QEMU and removes the folder. */
  close(): Promise<void>
}

export interface SessionOptions {
  /** Killed when it still runs after so long; default two minutes. */
  readonly timeoutMs?: number
  /** Where the session's folder is made; default the system's temporary folder. */
  readonly parent?: string
  /** As {@link startQemu}'s. */
  readonly links?: number
  /** Called with the process before its sockets connect: links have to be served from the start. */
  readonly onStart?: (process: QemuProcess) => void
}

const TIMEOUT_MS = 120_000

/**
 * Starts a machine.
 * @param args QEMU's arguments without those for qtest and QMP; given the folder, for files that they name
 * @throws Error with QEMU's own words when it ends before it connects; nothing is left running then
 */
export async function startSession(
  binary: QemuBinary,
  args: (folder: WorkFolder) => readonly string[],
  options: SessionOptions = {},
): Promise<QemuSession> {
  const folder = makeWorkFolder(options.parent)
  let qemu: QemuProcess | null = null
  try {
    const paths = { qtest: folder.file("qtest"), qmp: folder.file("qmp") }
    const sockets = { qtest: await listenOnce(paths.qtest), qmp: await listenOnce(paths.qmp) }
    qemu = await startQemu(
      binary,
      [
        ...args(folder),
        "-qtest",
        `unix:${paths.qtest}`,
        "-qtest-log",
        "none",
        "-chardev",
        `socket,id=qmp,path=${paths.qmp}`,
        "-mon",
        "chardev=qmp,mode=control",
      ],
      { timeoutMs: options.timeoutMs ?? TIMEOUT_MS, links: options.links ?? 0 },
    )
    const started = qemu
    options.onStart?.(started)
    const connect = async (name: "qtest" | "qmp") =>
      connectionOf(sockets[name], started.ended, () => started.describe())
    const [qtestSocket, qmpSocket] = await Promise.all([connect("qtest"), connect("qmp")])
    const qtest = new Qtest(qtestSocket)
    const qmp = await openQmp(qmpSocket)
    return {
      process: started,
      qtest,
      qmp,
      folder,
      close: async () => {
        qmp.close()
        await started.stop()
        qtest.close()
        folder.remove()
      },
    }
  } catch (error) {
    await qemu?.stop()
    folder.remove()
    throw error
  }
}
