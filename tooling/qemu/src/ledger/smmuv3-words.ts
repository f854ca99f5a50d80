/**
 * SMMUv3's records, in 64-bit words. Arm IHI 0070 G.b §7.3.13: word 1 has RnW in bit 35, S2 in 39, CLASS in 41:40,
 * TTRnW in 44; word 2 is InputAddr; word 3 has IPA in 55:12. All records have the event's number in word 0 bits 7:0 and
 * the StreamID in 63:32; F_CD_FETCH (§7.3.10) has the address of the CD in word 3.
 */
export const RNW: bigint = 1n << 35n
export const S2: bigint = 1n << 39n
export const TTRNW: bigint = 1n << 44n
export const CLASS: bigint = 3n << 40n
export const CLASS_TT: bigint = 1n << 40n
const CLASS_IN: bigint = 2n << 40n
export const PAGE_OFFSET: bigint = 0xfffn
export const EVENT: bigint = 0xffn
export const EVENT_C_BAD_STE: bigint = 0x04n
export const EVENT_F_CD_FETCH: bigint = 0x09n
export const EVENT_F_WALK_EABT: bigint = 0x0bn
export const EVENT_F_TRANSLATION: bigint = 0x10n
export const EVENT_F_ADDR_SIZE: bigint = 0x11n
export const EVENT_F_PERMISSION: bigint = 0x13n
export const WHOLE_WORD: bigint = (1n << 64n) - 1n
/** Which 4 KiB page of the largest table, one of 64 KiB. */
export const TABLE_PAGES: bigint = 0xf000n
/** Alignment of a CD, the smallest structure that stage 1 fetches (§5.4). */
export const CD_BYTES: bigint = 64n

export function isTableFetch(record: readonly bigint[]): boolean {
  return isStage2(record) && (record[1] & CLASS) === CLASS_TT
}

export function isInput(record: readonly bigint[]): boolean {
  return (record[1] & CLASS) === CLASS_IN
}

export function isStage2(record: readonly bigint[]): boolean {
  return (record[1] & S2) !== 0n
}
