/** The thread of {@link BlockingQtest} that owns the socket: lines come as messages, answers go to shared memory. */
import { parentPort, workerData } from "node:worker_threads"
import type { BlockingQtestStart } from "./blocking-qtest.ts"
import { Qtest } from "./qtest.ts"
import { listenOnce } from "./socket.ts"

const { path, shared }: BlockingQtestStart = workerData
const state = new Int32Array(shared, 0, 2)
const bytes = new Uint8Array(shared, 8)

/** @param sign -1 for a failure */
function answer(text: string, sign: 1 | -1): void {
  const { written } = new TextEncoder().encodeInto(text, bytes)
  state[1] = sign * written
  Atomics.store(state, 0, 1)
  Atomics.notify(state, 0)
}

const port = parentPort
if (port === null) throw new Error("this file is a worker thread")
const socket = await listenOnce(path)
port.postMessage("listening")
const qtest = new Qtest(await socket.connected)
port.on("message", (lines: readonly string[]) => {
  Promise.all(lines.map(line => qtest.command(line))).then(
    answers => answer(answers.join("\n"), 1),
    (error: Error) => answer(error.message, -1),
  )
})
port.postMessage("connected")
