/** What both transports do with a stream: nothing that comes out of it ends this process. */
import type { Duplex } from "node:stream"
import { type Frames, FramingError } from "./frames.ts"

/** Cuts the stream into messages until it ends or makes no sense; then it is closed, and `complain` told. */
export function pipeFrames(stream: Duplex, frames: Frames, complain: (what: string) => void): void {
  stream.on("data", (chunk: Uint8Array) => {
    try {
      frames.push(chunk)
    } catch (error) {
      if (!(error instanceof FramingError)) throw error
      complain(error.message)
      stream.destroy()
    }
  })
  stream.on("error", () => stream.destroy())
}

/** The answer, or `otherwise` when the function served has an error of ours in it; `complain` is told which. */
export function guarded<T>(complain: (what: string) => void, otherwise: T, answer: () => T): T {
  try {
    return answer()
  } catch (error) {
    complain(`our own error: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`)
    return otherwise
  }
}
