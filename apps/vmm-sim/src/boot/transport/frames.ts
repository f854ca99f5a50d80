/** Cuts a stream of bytes into messages that say in a header how long they are. */

export interface Framing {
  readonly headerBytes: number
  /** Bytes of the whole message, header included, or null when the header is none. */
  lengthOf(header: DataView): number | null
  readonly maxBytes: number
}

/** The stream makes no sense from here on. */
export class FramingError extends Error {}

export class Frames {
  readonly #framing: Framing
  readonly #onMessage: (message: Uint8Array) => void
  #pending: Uint8Array = new Uint8Array(0)

  /** @param onMessage gets each whole message; the bytes are the caller's to keep */
  constructor(framing: Framing, onMessage: (message: Uint8Array) => void) {
    this.#framing = framing
    this.#onMessage = onMessage
  }

  /** @throws FramingError when a header is none, or asks for more than there may be */
  push(chunk: Uint8Array): void {
    const { headerBytes, maxBytes } = this.#framing
    let bytes = this.#pending.length === 0 ? chunk : joined(this.#pending, chunk)
    while (bytes.length >= headerBytes) {
      const length = this.#framing.lengthOf(new DataView(bytes.buffer, bytes.byteOffset, headerBytes))
      if (length === null || length < headerBytes || length > maxBytes) {
        this.#pending = new Uint8Array(0)
        throw new FramingError(`a message of ${length ?? "unknown"} bytes`)
      }
      if (bytes.length < length) break
      this.#onMessage(bytes.subarray(0, length))
      bytes = bytes.subarray(length)
    }
    this.#pending = bytes.slice()
  }
}

function joined(a: Uint8Array, b: Uint8Array): Uint8Array {
  const both = new Uint8Array(a.length + b.length)
  both.set(a)
  both.set(b, a.length)
  return both
}
