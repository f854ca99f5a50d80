/** C structs of the Linux uAPI as data: sizes and offsets are what a C compiler gives on every 64-bit machine. */
import { IommuError } from "../errno.ts"

/** `[C type, byte offset]`; `__aligned_le64` counts as u64, arrays as `u64[4]`. */
export type MemberSpec = readonly [
  type: "u8" | "u16" | "u32" | "u64" | "u64[2]" | "u64[4]" | "u32[6]",
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
}

export function structLayout<const M extends MemberSpecs>(
  name: string,
  size: number,
  members: M,
): StructLayout<M> {
  return {
    name,
    size,
    members,
    encode: value => {
      const view = new DataView(new ArrayBuffer(size))
      for (const [member, [type, offset]] of Object.entries(members)) {
        const { unit, count } = elements(type)
        const given: unknown = value[member as keyof M]
        const items: readonly unknown[] = Array.isArray(given) ? given : [given]
        if (items.length !== count) throw new IommuError("EINVAL", `${name}.${member} has ${count} elements`)
        items.forEach((item, i) => {
          put(view, `${name}.${member}`, unit, offset + i * unit, item)
        })
      }
      return new Uint8Array(view.buffer)
    },
    decode: bytes => {
      if (bytes.length !== size) {
        throw new IommuError("EINVAL", `struct ${name} has ${size} bytes, got ${bytes.length}`)
      }
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      const entries = Object.entries(members).map(([member, [type, offset]]) => {
        const { unit, count } = elements(type)
        const items = Array.from({ length: count }, (_, i) => take(view, unit, offset + i * unit))
        return [member, type.endsWith("]") ? items : items[0]]
      })
      return Object.fromEntries(entries) as StructValue<M>
    },
  }
}

/** Bytes of one element, and how many there are. */
function elements(type: MemberSpec[0]): { unit: number; count: number } {
  const [scalar, count] = type.split(/[[\]]/)
  return { unit: Number(scalar?.slice(1)) / 8, count: Number(count ?? 1) }
}

function put(view: DataView, what: string, unit: number, offset: number, item: unknown): void {
  const bits = typeof item === "number" && Number.isSafeInteger(item) ? BigInt(item) : item
  if (typeof bits !== "bigint" || bits < 0n || bits >> BigInt(unit * 8) !== 0n) {
    throw new IommuError("EINVAL", `${what} is an unsigned ${unit * 8}-bit value, got ${String(item)}`)
  }
  for (let byte = 0; byte < unit; byte++)
    view.setUint8(offset + byte, Number((bits >> BigInt(byte * 8)) & 0xffn))
}

function take(view: DataView, unit: number, offset: number): bigint | number {
  if (unit === 8) return view.getBigUint64(offset, true)
  if (unit === 4) return view.getUint32(offset, true)
  return unit === 2 ? view.getUint16(offset, true) : view.getUint8(offset)
}
