/** C structs of the Linux uAPI as data: sizes and offsets are what a C compiler gives on every 64-bit machine. */
import { IommuError } from "../errno.ts"

/** `[C type, byte offset]`; `__aligned_le64` counts as u64, arrays as `u64[4]`. */
export type MemberSpec = readonly [
  type: "u8" | "u16" | "u32" | "s32" | "u64" | "u8[3]" | "u64[2]" | "u64[4]" | "u32[6]",
  offset: number,
]
export type MemberSpecs = Readonly<Record<string, MemberSpec>>

type MemberValue<T> = T extends "u64"
  ? bigint
  : T extends "u64[2]"
    ? readonly [bigint, bigint]
    : T extends "u64[4]"
      ? readonly [bigint, bigint, bigint, bigint]
      : T extends "u32[6]"
        ? readonly [number, number, number, number, number, number]
        : T extends "u8[3]"
          ? readonly [number, number, number]
          : number

/** The TypeScript form of a struct. Reserved members are numbers like any other: drivers check them. */
export type StructValue<M extends MemberSpecs> = { [K in keyof M]: MemberValue<M[K][0]> }

export interface StructLayout<M extends MemberSpecs> {
  /** The C tag: `iommu_hwpt_vtd_s1`. */
  readonly name: string
  readonly size: number
  readonly members: M
  /** @throws EINVAL when a value does not fit its member */
  encode(value: StructValue<M>): Uint8Array
  /** @throws EINVAL when the bytes are not exactly one struct */
  decode(bytes: Uint8Array): StructValue<M>
  /** Overwrites some members of one struct's bytes. @throws EINVAL when a value does not fit its member */
  patch(bytes: Uint8Array, value: Partial<StructValue<M>>): void
}

/** A member taken apart, once per struct: decoding one then costs a fraction of a microsecond. */
interface Member {
  readonly name: string
  readonly offset: number
  /** Bytes of one element. */
  readonly unit: number
  readonly count: number
  readonly isArray: boolean
  readonly isSigned: boolean
}

export function structLayout<const M extends MemberSpecs>(
  name: string,
  size: number,
  members: M,
): StructLayout<M> {
  const plan = Object.entries(members).map(([member, spec]) => memberOf(member, spec))
  return {
    name,
    size,
    members,
    encode: value => {
      const bytes = new Uint8Array(size)
      const view = new DataView(bytes.buffer)
      for (const member of plan) putMember(view, name, member, value[member.name as keyof M])
      return bytes
    },
    patch: (bytes, value) => {
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      for (const member of plan) {
        const given: unknown = value[member.name as keyof M]
        if (given !== undefined) putMember(view, name, member, given)
      }
    },
    decode: bytes => {
      if (bytes.length !== size) {
        throw new IommuError("EINVAL", `struct ${name} has ${size} bytes, got ${bytes.length}`)
      }
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      const value: Record<string, unknown> = {}
      for (const member of plan) {
        value[member.name] = member.isArray
          ? Array.from({ length: member.count }, (_, i) => take(view, member, i))
          : take(view, member, 0)
      }
      return value as StructValue<M>
    },
  }
}

function memberOf(name: string, [type, offset]: MemberSpec): Member {
  const [scalar, count] = type.split(/[[\]]/) as [string, string | undefined]
  return {
    name,
    offset,
    unit: Number(scalar.slice(1)) / 8,
    count: Number(count ?? 1),
    isArray: count !== undefined,
    isSigned: scalar.startsWith("s"),
  }
}

function putMember(view: DataView, struct: string, member: Member, given: unknown): void {
  if (!member.isArray) {
    put(view, struct, member, 0, given)
    return
  }
  const items: readonly unknown[] = Array.isArray(given) ? given : [given]
  if (items.length !== member.count) {
    throw new IommuError("EINVAL", `${struct}.${member.name} has ${member.count} elements`)
  }
  for (let i = 0; i < member.count; i++) put(view, struct, member, i, items[i])
}

function put(view: DataView, struct: string, member: Member, index: number, item: unknown): void {
  const { unit, offset } = member
  const at = offset + index * unit
  // Numbers need no bigint on their way: a third of the price.
  if (unit < 8 && typeof item === "number" && fits(item, member)) putNumber(view, at, unit, item)
  else if (!putBigint(view, at, member, item)) {
    const what = `${member.isSigned ? "a signed" : "an unsigned"} ${unit * 8}-bit value`
    throw new IommuError("EINVAL", `${struct}.${member.name} is ${what}, got ${String(item)}`)
  }
}

function fits(item: number, { unit, isSigned }: Member): boolean {
  const end = 2 ** (unit * 8)
  return Number.isInteger(item) && (isSigned ? item >= -end / 2 && item < end / 2 : item >= 0 && item < end)
}

function putNumber(view: DataView, at: number, unit: number, item: number): void {
  if (unit === 4) view.setUint32(at, item, true)
  else if (unit === 2) view.setUint16(at, item, true)
  else view.setUint8(at, item)
}

/** @returns false when the item is no integer, or does not fit */
function putBigint(view: DataView, at: number, { unit, isSigned }: Member, item: unknown): boolean {
  const bits = typeof item === "number" && Number.isSafeInteger(item) ? BigInt(item) : item
  if (typeof bits !== "bigint") return false
  const width = unit * 8
  if ((isSigned ? BigInt.asIntN(width, bits) : BigInt.asUintN(width, bits)) !== bits) return false
  if (unit === 8) view.setBigUint64(at, bits, true)
  else putNumber(view, at, unit, Number(bits))
  return true
}

function take(view: DataView, { unit, offset, isSigned }: Member, index: number): bigint | number {
  const at = offset + index * unit
  if (unit === 8) return view.getBigUint64(at, true)
  if (unit === 4) return isSigned ? view.getInt32(at, true) : view.getUint32(at, true)
  return unit === 2 ? view.getUint16(at, true) : view.getUint8(at)
}
