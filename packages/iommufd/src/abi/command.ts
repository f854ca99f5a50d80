/** One ioctl: its number, its struct, and what is called with the decoded struct. */
import { IommuError, type MemberSpecs, type StructLayout, type StructValue } from "@iommu/core"
import type { Iommufd } from "../context.ts"
import type { Draft } from "../objects/object-table.ts"
import type { Argument } from "./argument.ts"

export interface Command {
  /** `_IO(';', nr)`. */
  readonly number: number
  /** Bytes of the struct, and of its first version. */
  readonly size: number
  readonly minSize: number
  /** @param userSize bytes that the caller's struct has */
  run(iommufd: Iommufd, argument: Argument, userSize: number): void
}

export interface Call<M extends MemberSpecs> {
  readonly iommufd: Iommufd
  readonly args: StructValue<M>
  /** Writes the struct back with some members replaced. @throws EFAULT */
  respond(out: Partial<StructValue<M>>): void
}

/** @param minSize bytes of the struct's first version */
export function command<M extends MemberSpecs>(
  number: number,
  layout: StructLayout<M>,
  minSize: number,
  handle: (call: Call<M>) => void,
): Command {
  return {
    number,
    size: layout.size,
    minSize,
    run: (iommufd, argument, userSize) => {
      const known = Math.min(userSize, layout.size)
      if (userSize > layout.size) argument.checkZero(layout.size, userSize)
      const bytes = new Uint8Array(layout.size)
      bytes.set(argument.read(known))
      const respond = (out: Partial<StructValue<M>>): void => {
        layout.patch(bytes, out)
        argument.write(bytes.subarray(0, known))
      }
      handle({ iommufd, args: layout.decode(bytes), respond })
    },
  }
}

/** @throws EOPNOTSUPP when a reserved member is used */
export function checkReserved(...values: readonly number[]): void {
  if (values.some(value => value !== 0)) throw new IommuError("EOPNOTSUPP", "reserved members must be 0")
}

/** @throws EOPNOTSUPP for a flag that is not among the known ones */
export function checkFlags(flags: number, known: number): void {
  if ((flags & ~known) !== 0)
    throw new IommuError("EOPNOTSUPP", `flags 0x${(flags & ~known).toString(16)} are unknown`)
}

/** Makes an object known once its id has reached the caller; without that, it never existed. */
export function publishAfter<T>(draft: Draft<T>, respond: () => void): void {
  try {
    respond()
  } catch (error) {
    draft.abort()
    throw error
  }
  draft.publish()
}
