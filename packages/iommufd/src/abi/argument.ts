/** The third argument of an ioctl: a number, or a struct in bytes at hand or in the caller's memory. */
import { IommuError, U64_MAX } from "@iommu/core"
import type { UserMemory } from "../memory/user-memory.ts"
import { checkZeroTail, copyFromUser, copyToUser } from "../objects/user-copy.ts"

export interface Argument {
  /** The argument as a number: for a struct its address, and 0 for bytes, which have none. */
  readonly value: bigint
  /** The first bytes. @throws EFAULT */
  read(length: number): Uint8Array
  /** @throws E2BIG when a byte from `offset` up to `end` is not zero, EFAULT */
  checkZero(offset: number, end: number): void
  /** Overwrites the first bytes. @throws EFAULT */
  write(bytes: Uint8Array): void
}

/** Bytes of the caller's own. A struct that says it is longer than they are is EFAULT. */
export function bytesArgument(bytes: Uint8Array): Argument {
  const part = (start: number, end: number): Uint8Array => {
    if (end > bytes.length) throw new IommuError("EFAULT", "the struct is longer than the memory given")
    return bytes.subarray(start, end)
  }
  return {
    value: 0n,
    read: length => part(0, length),
    checkZero: (offset, end) => {
      if (part(offset, end).some(byte => byte !== 0)) {
        throw new IommuError("E2BIG", "bytes beyond the known struct must be zero")
      }
    },
    write: written => part(0, written.length).set(written),
  }
}

/** A struct in memory of a process. */
export function memoryArgument(memory: UserMemory, address: bigint): Argument {
  return {
    value: address,
    read: length => copyFromUser(memory, address, length),
    checkZero: (offset, end) => {
      const start = address + BigInt(offset)
      if (start > U64_MAX) throw new IommuError("EFAULT", "the struct wraps around the address space")
      checkZeroTail(memory, start, end - offset)
    },
    write: bytes => copyToUser(memory, address, bytes),
  }
}
