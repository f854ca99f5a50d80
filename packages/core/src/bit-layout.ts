/**
 * Bit layouts as data: one declaration serves encoding, decoding, reserved-bit checks and generated documents.
 * Hot code uses plain masks; tests hold those against the layout.
 */
import { IommuError } from "./errno.ts"

/** `[msb, lsb, meaning]`, as the books write a field: `[51, 12, "table address"]`. Bits count through all words. */
export type FieldSpec = readonly [msb: number, lsb: number, meaning: string]
export type FieldSpecs = Readonly<Record<string, FieldSpec>>
export type FieldValues<F extends FieldSpecs> = { [K in keyof F]: bigint }

/** A structure of one or more little-endian 64-bit words. */
export interface BitLayout<F extends FieldSpecs> {
  readonly name: string
  /** Where the book defines it: "VT-d 4.1 §9.6". */
  readonly source: string
  readonly bits: number
  readonly fields: F
  /** Value of a field, shifted down to bit 0. */
  get(words: readonly bigint[], field: keyof F): bigint
  /** Value of a field left in place within its word: an address field gives the address. */
  getInPlace(words: readonly bigint[], field: keyof F): bigint
  /** All fields. */
  decode(words: readonly bigint[]): FieldValues<F>
  /**
   * Words with the given fields; the others are zero.
   * @throws EINVAL when a value does not fit its field
   */
  encode(values: Partial<FieldValues<F>>): bigint[]
  /** Per word, the bits that no field covers. */
  readonly reserved: readonly bigint[]
}

/** @throws Error (a bug of the caller) when fields overlap, or cross a 64-bit word */
export function bitLayout<const F extends FieldSpecs>(
  name: string,
  source: string,
  bits: number,
  fields: F,
): BitLayout<F> {
  const reserved = reservedBits(name, bits, fields)
  const at = (field: keyof F): Position => position(fields[field] as FieldSpec)
  const get = (words: readonly bigint[], field: keyof F): bigint => {
    const { word, shift, mask } = at(field)
    return ((words[word] ?? 0n) >> shift) & mask
  }
  return {
    name,
    source,
    bits,
    fields,
    reserved,
    get,
    getInPlace: (words, field) => get(words, field) << at(field).shift,
    decode: words => {
      const entries = Object.keys(fields).map(field => [field, get(words, field)])
      return Object.fromEntries(entries) as FieldValues<F>
    },
    encode: values => {
      const words = reserved.map(() => 0n)
      for (const [field, value] of Object.entries(values) as [keyof F & string, bigint | undefined][]) {
        if (value === undefined) continue
        const { word, shift, mask } = at(field)
        if (value < 0n || value > mask) {
          throw new IommuError(
            "EINVAL",
            `${name}.${field} takes at most 0x${mask.toString(16)}, got ${value}`,
          )
        }
        words[word] = (words[word] as bigint) | (value << shift)
      }
      return words
    },
  }
}

interface Position {
  readonly word: number
  readonly shift: bigint
  readonly mask: bigint
}

function position([msb, lsb]: FieldSpec): Position {
  return { word: lsb >> 6, shift: BigInt(lsb & 63), mask: (1n << BigInt(msb - lsb + 1)) - 1n }
}

function reservedBits(name: string, bits: number, fields: FieldSpecs): bigint[] {
  const full = bits % 64 === 0 ? (1n << 64n) - 1n : (1n << BigInt(bits)) - 1n
  const free = Array.from({ length: Math.ceil(bits / 64) }, () => full)
  for (const [field, spec] of Object.entries(fields)) {
    const [msb, lsb] = spec
    const { word, shift, mask } = position(spec)
    const taken = mask << shift
    const crosses = msb < lsb || msb >> 6 !== lsb >> 6 || msb >= bits
    if (crosses || ((free[word] as bigint) & taken) !== taken) {
      throw new Error(`bug: ${name}.${field} [${msb}:${lsb}] overlaps, crosses a word or lies outside`)
    }
    free[word] = (free[word] as bigint) & ~taken
  }
  return free
}
