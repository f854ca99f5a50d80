/** A machine's RAM as the file that QEMU maps: reads and writes of it cost no round trip to QEMU. */
import { closeSync, openSync, readSync, writeSync } from "node:fs"
import type { RamPiece } from "./layout.ts"

export class RamFile {
  readonly #fd: number
  readonly #pieces: readonly RamPiece[]

  /** @param path a file that exists */
  constructor(path: string, pieces: readonly RamPiece[]) {
    this.#fd = openSync(path, "r+")
    this.#pieces = pieces
  }

  /** Reads `into.length` bytes at a physical address. @throws RangeError where there is no RAM */
  read(address: number, into: Uint8Array): void {
    const at = this.#offset(address, into.length)
    let done = 0
    while (done < into.length) {
      const got = readSync(this.#fd, into, done, into.length - done, at + done)
      if (got === 0) throw new RangeError(`the RAM file ends before 0x${(address + done).toString(16)}`)
      done += got
    }
  }

  /** Writes bytes at a physical address. @throws RangeError where there is no RAM */
  write(address: number, from: Uint8Array): void {
    const at = this.#offset(address, from.length)
    let done = 0
    while (done < from.length) done += writeSync(this.#fd, from, done, from.length - done, at + done)
  }

  close(): void {
    closeSync(this.#fd)
  }

  #offset(address: number, bytes: number): number {
    const piece = this.#pieces.find(
      ({ base, bytes: size }) => address >= base && address + bytes <= base + size,
    )
    if (piece === undefined) throw new RangeError(`no RAM at 0x${address.toString(16)}+${bytes}`)
    return address - piece.base + piece.fileOffset
  }
}
