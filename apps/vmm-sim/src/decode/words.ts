/** Words of a record as people type them. */

const WORD = /^(?:0x)?([\da-f]{1,16})$/i

/** The words of a text that consists of hexadecimal numbers alone; null for any other. */
export function wordsOf(text: string): bigint[] | null {
  const parts = text.trim().split(/[\s,]+/)
  const digits = parts.map(part => WORD.exec(part)?.[1])
  return digits.every(digit => digit !== undefined) ? digits.map(digit => BigInt(`0x${digit}`)) : null
}

/**
 * 64-bit words of one record.
 * @param words as many 64-bit ones as a record has, or twice as many of 32 bits, the low one first
 * @returns null when they are neither
 */
export function recordOf(words: readonly bigint[], bytes: number): bigint[] | null {
  const count = bytes / 8
  if (words.length === count) return [...words]
  const are32 = words.length === 2 * count && words.every(word => word < 1n << 32n)
  if (!are32) return null
  return Array.from({ length: count }, (_, n) => ((words[2 * n + 1] ?? 0n) << 32n) | (words[2 * n] ?? 0n))
}

/** How many words a record takes, for a message. */
export function sizeText(bytes: number): string {
  return `${bytes / 8} words of 64 bits or ${bytes / 4} of 32, the low one first`
}
