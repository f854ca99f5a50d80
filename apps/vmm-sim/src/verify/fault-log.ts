/**
 * An empty fault log for the machine of a capture.
 *
 * A dump's own log may be full, may be stopped after an overflow, and only its used pages are dumped. Every
 * faulting row is to find a log with room, as a driver that reads its log leaves it. Nothing else in the registers
 * is touched.
 */
import type { Vendor } from "../capture/schema.ts"

type Registers = Readonly<Record<string, bigint>>

/** log2 of the log's entries: 32 of 32 bytes on SMMUv3, the book's smallest 256 of 16 bytes on AMD. */
const SMMUV3_ENTRIES_LG2 = 5n
const AMD_EVENT_LEN = 8n << 56n
/** SMMU_GERROR.EVENTQ_ABT_ERR, IHI 0070 G.b §6.3.19: active while GERROR and GERRORN differ. */
const EVENTQ_ABT_ERR = 1n << 2n
/** EventOverflow, AMD 48882 rev 3.10 §3.4, MMIO Offset 2020h. */
const AMD_EVENT_OVERFLOW = 1n << 0n
/** FRCD.F, VT-d 5.10 §11.4.7.6. */
const FRCD_F = 1n << 63n

const EMPTY_LOGS: { readonly [V in Vendor]: (registers: Registers, page: bigint) => Registers } = {
  vtd: registers => {
    const records = Object.entries(registers).filter(([name]) => /^FRCD\d+_HI$/.test(name))
    return { FSTS: 0n, ...Object.fromEntries(records.map(([name, value]) => [name, value & ~FRCD_F])) }
  },
  smmuv3: ({ GERROR = 0n, GERRORN = 0n }, page) => ({
    EVENTQ_BASE: page | SMMUV3_ENTRIES_LG2,
    EVENTQ_PROD: 0n,
    EVENTQ_CONS: 0n,
    GERRORN: (GERRORN & ~EVENTQ_ABT_ERR) | (GERROR & EVENTQ_ABT_ERR),
  }),
  amd: ({ STATUS = 0n }, page) => ({
    EVTLOG_BASE: page | AMD_EVENT_LEN,
    EVT_HEAD: 0n,
    EVT_TAIL: 0n,
    STATUS: STATUS & ~AMD_EVENT_OVERFLOW,
  }),
}

/** The registers of a capture, with an empty log on the page at `page`. */
export function withEmptyLog(vendor: Vendor, registers: Registers, page: bigint): Registers {
  return { ...registers, ...EMPTY_LOGS[vendor](registers, page) }
}
