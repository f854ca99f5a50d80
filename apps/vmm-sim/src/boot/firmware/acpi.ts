/** ACPI tables as bytes. ACPI 6.5 §5.2.6: the header that all of them share. */

const HEADER_BYTES = 36
const CHECKSUM = 9

/** Little-endian fields in the order of the book's tables. */
export class Fields {
  readonly #bytes: number[] = []

  u8(...values: readonly number[]): this {
    this.#bytes.push(...values)
    return this
  }

  u16(value: number): this {
    return this.u8(value & 0xff, value >>> 8)
  }

  u32(value: number): this {
    return this.u16(value & 0xffff).u16(value >>> 16)
  }

  u64(value: bigint): this {
    return this.u32(Number(value & 0xffff_ffffn)).u32(Number(value >> 32n))
  }

  /** ASCII, padded with zeros to `bytes`. */
  text(value: string, bytes: number): this {
    return this.u8(...Array.from({ length: bytes }, (_, n) => (n < value.length ? value.charCodeAt(n) : 0)))
  }

  get bytes(): readonly number[] {
    return this.#bytes
  }
}

/**
 * A table with its header and checksum.
 * @param signature four characters
 * @param body what follows the header
 */
export function acpiTable(signature: string, revision: number, body: readonly number[]): Uint8Array {
  const table = Uint8Array.from([
    ...new Fields()
      .text(signature, 4)
      .u32(HEADER_BYTES + body.length)
      .u8(revision, 0)
      .text("IOMMU", 6)
      .text("VMMSIM", 8)
      .u32(1)
      .text("VSIM", 4)
      .u32(1).bytes,
    ...body,
  ])
  table[CHECKSUM] = -table.reduce((sum, byte) => sum + byte, 0) & 0xff
  return table
}
