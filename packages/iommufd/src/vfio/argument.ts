/** The third argument of VFIO's ioctls: a number, or a struct that begins with its own size and flags. */
import { IommuError } from "@iommu/core"

export interface VfioArgument {
  readonly value: bigint
  /** First bytes of the struct. @throws EFAULT */
  read(length: number): Uint8Array
  /** @throws E2BIG when a byte from `offset` up to `end` is not zero, EFAULT */
  checkZero(offset: number, end: number): void
  /** Overwrites the first bytes. @throws EFAULT */
  write(bytes: Uint8Array): void
}

/** The caller's `argsz`. @throws EINVAL when it is less than the command needs, EFAULT */
export function readArgsz(argument: VfioArgument, least: number): number {
  const word = argument.read(4)
  const argsz = new DataView(word.buffer, word.byteOffset, 4).getUint32(0, true)
  checkArgsz(argsz, least)
  return argsz
}

export function checkArgsz(argsz: number, least: number): void {
  if (argsz < least) throw new IommuError("EINVAL", `argsz is at least ${least} for this command`)
}

export function checkFlags(flags: number, known: number): void {
  if ((flags & ~known) !== 0) throw new IommuError("EINVAL", `flags 0x${flags.toString(16)} are unknown here`)
}
