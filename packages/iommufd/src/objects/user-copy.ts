/** Memory of a process, as the kernel reaches it: Linux's `copy_from_user`, `copy_to_user` and `copy_struct_from_user`. */
import { IommuError, PAGE_SIZE, U64_MAX } from "@iommu/core"
import type { UserMemory } from "../memory/user-memory.ts"

/** @throws EFAULT */
export function copyFromUser(memory: UserMemory, va: bigint, length: number): Uint8Array {
  checkRange(va, length)
  return memory.read(va, length)
}

/** @throws EFAULT; nothing is written then */
export function copyToUser(memory: UserMemory, va: bigint, bytes: Uint8Array): void {
  checkRange(va, bytes.length)
  memory.write(va, bytes)
}

/** Reads a range page by page, so that a caller's length alone makes nothing large. @throws EFAULT, E2BIG */
export function checkZeroTail(memory: UserMemory, va: bigint, length: number): void {
  for (let at = 0; at < length; at += PAGE_SIZE) {
    const piece = copyFromUser(memory, va + BigInt(at), Math.min(PAGE_SIZE, length - at))
    if (piece.some(byte => byte !== 0)) {
      throw new IommuError("E2BIG", "bytes beyond the known struct must be zero")
    }
  }
}

function checkRange(va: bigint, length: number): void {
  if (va + BigInt(length) - 1n > U64_MAX)
    throw new IommuError("EFAULT", "the range wraps around the address space")
}

/** Linux's `clear_user`, page by page for the same reason. @throws EFAULT; pages before that are cleared */
export function clearUser(memory: UserMemory, va: bigint, length: number): void {
  for (let at = 0; at < length; at += PAGE_SIZE) {
    copyToUser(memory, va + BigInt(at), new Uint8Array(Math.min(PAGE_SIZE, length - at)))
  }
}
