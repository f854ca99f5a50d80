/** The file of a fault queue: page requests to read, responses to write. */
import { IommuError, isIommuError, type PageResponse } from "@iommu/core"
import type { UserMemory } from "../memory/user-memory.ts"
import { type HwptPgfault, IOMMU_HWPT_PAGE_RESPONSE, IOMMU_HWPT_PGFAULT } from "../uapi/records.ts"
import type { FaultQueue } from "./fault-queue.ts"
import { checkPosition, drain, drainToBytes, type QueueFile, type Readiness } from "./queue-file.ts"
import { copyFromUser, copyToUser } from "./user-copy.ts"

export class FaultFile implements QueueFile {
  readonly kind = "iommufd fault queue"
  readonly #queue: FaultQueue
  #isOpen = true

  constructor(queue: FaultQueue) {
    this.#queue = queue
  }

  /** @throws ESPIPE when the count is no multiple of a record's 40 bytes */
  read(count: number): Uint8Array {
    checkCount(count, IOMMU_HWPT_PGFAULT.size)
    return drainToBytes(count, room => this.#queue.fetch(room))
  }

  readTo(memory: UserMemory, va: bigint, count: number, position = 0n): number {
    checkPosition(position)
    checkCount(count, IOMMU_HWPT_PGFAULT.size)
    return drain(
      count,
      room => this.#queue.fetch(room),
      (offset, bytes) => copyToUser(memory, va + BigInt(offset), bytes),
    )
  }

  /** {@link read} as values: all page requests that wait. */
  take(): HwptPgfault[] {
    const { size, decode } = IOMMU_HWPT_PGFAULT
    const bytes = drainToBytes(Number.MAX_SAFE_INTEGER, room => this.#queue.fetch(room))
    return Array.from({ length: bytes.length / size }, (_, i) =>
      decode(bytes.subarray(i * size, (i + 1) * size)),
    )
  }

  /** Answers one group. @throws EINVAL for an unknown cookie */
  respond(cookie: number, code: PageResponse): void {
    this.#queue.answer(cookie, code)
  }

  /**
   * Linux's `write`: responses of 8 bytes each.
   * @returns bytes taken; less than given when one of them is wrong and others came before it
   * @throws ESPIPE, EINVAL for the first response
   */
  write(bytes: Uint8Array): number {
    checkCount(bytes.length, IOMMU_HWPT_PAGE_RESPONSE.size)
    return this.#answerAll(bytes.length, (at, length) => bytes.subarray(at, at + length))
  }

  /** {@link write} from memory of a process. @throws EFAULT, too */
  writeFrom(memory: UserMemory, va: bigint, count: number, position = 0n): number {
    checkPosition(position)
    checkCount(count, IOMMU_HWPT_PAGE_RESPONSE.size)
    return this.#answerAll(count, (at, length) => copyFromUser(memory, va + BigInt(at), length))
  }

  poll(): Readiness {
    return { readable: this.#queue.hasWaiting, writable: true }
  }

  close(): void {
    if (this.#isOpen) this.#queue.fileClosed()
    this.#isOpen = false
  }

  #answerAll(count: number, load: (at: number, length: number) => Uint8Array): number {
    const { size, decode } = IOMMU_HWPT_PAGE_RESPONSE
    for (let done = 0; done < count; done += size) {
      try {
        const { cookie, code } = decode(load(done, size))
        this.#queue.answer(cookie, code)
      } catch (error) {
        if (!isIommuError(error) || done === 0) throw error
        return done
      }
    }
    return count
  }
}

function checkCount(count: number, size: number): void {
  if (count % size !== 0) throw new IommuError("ESPIPE", `the file moves whole records of ${size} bytes`)
}
