/** The bytes of a namespace, and what was done with them. */
import { createHash } from "node:crypto"
import { NVM, STATUS } from "./spec.ts"

export const BLOCK_BYTES = 512

export class Disk {
  readonly bytes: Uint8Array
  readonly counts = { bytesRead: 0, bytesWritten: 0, flushes: 0 }

  /** @param size bytes, whole blocks */
  constructor(size: number) {
    this.bytes = new Uint8Array(size)
  }

  get blocks(): number {
    return this.bytes.length / BLOCK_BYTES
  }

  /** A stretch of blocks, or null when it does not lie on the disk. */
  stretch(firstBlock: bigint, blocks: number): Uint8Array | null {
    if (firstBlock + BigInt(blocks) > BigInt(this.blocks)) return null
    const start = Number(firstBlock) * BLOCK_BYTES
    return this.bytes.subarray(start, start + blocks * BLOCK_BYTES)
  }

  /** SHA-256 of a stretch of bytes, in hex. */
  digest(offset: number, bytes: number): string {
    return createHash("sha256")
      .update(this.bytes.subarray(offset, offset + bytes))
      .digest("hex")
  }

  /** Counts a command that ended. */
  note(opcode: number, status: number, bytes: number): void {
    if (status !== STATUS.SUCCESS) return
    if (opcode === NVM.READ) this.counts.bytesRead += bytes
    else if (opcode === NVM.FLUSH) this.counts.flushes++
    else this.counts.bytesWritten += bytes
  }
}
