/** Files that give records to read: fault queues and event queues. They have no position. */
import { IommuError, isIommuError } from "@iommu/core"
import type { UserMemory } from "../memory/user-memory.ts"
import type { UserFile } from "../process/file-table.ts"

export interface Readiness {
  readonly readable: boolean
  readonly writable: boolean
}

export interface QueueFile extends UserFile {
  /**
   * Takes as many whole records as fit.
   * @param count bytes of the reader's buffer
   */
  read(count: number): Uint8Array
  /**
   * Linux's `read` into memory of a process.
   * @param position of a `pread`
   * @returns bytes written
   * @throws ESPIPE; EFAULT when not even the first record could be written
   */
  readTo(memory: UserMemory, va: bigint, count: number, position?: bigint): number
  poll(): Readiness
  close(): void
}

/** @throws ESPIPE */
export function checkPosition(position: bigint): void {
  if (position !== 0n) throw new IommuError("ESPIPE", "the file of a queue has no position")
}

/** A record that can be put back when it does not reach the reader. */
export interface Fetched {
  readonly bytes: Uint8Array
  /** The reader has it. */
  taken(): void
}

/**
 * Moves records from a queue into a buffer, whole ones and in order.
 * @param fetch the next record, if it fits into the given bytes
 * @param store throws EFAULT when the buffer cannot be written
 * @returns bytes stored
 */
export function drain(
  count: number,
  fetch: (room: number) => Fetched | null,
  store: (offset: number, bytes: Uint8Array) => void,
): number {
  let done = 0
  for (let next = fetch(count); next !== null; next = fetch(count - done)) {
    try {
      store(done, next.bytes)
    } catch (error) {
      if (!isIommuError(error) || done === 0) throw error
      return done
    }
    next.taken()
    done += next.bytes.length
  }
  return done
}

/** {@link drain} into bytes of its own. */
export function drainToBytes(count: number, fetch: (room: number) => Fetched | null): Uint8Array {
  const pieces: Uint8Array[] = []
  const length = drain(count, fetch, (_, bytes) => pieces.push(bytes))
  const all = new Uint8Array(length)
  let at = 0
  for (const piece of pieces) {
    all.set(piece, at)
    at += piece.length
  }
  return all
}
