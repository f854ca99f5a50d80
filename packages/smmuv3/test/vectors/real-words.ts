/**
 * Words that others wrote: Linux 6.12's STEs and CDs, and event records of QEMU 10.0, all from real runs, with
 * their fields read off the Linux sources that built them.
 */
export interface RealWords {
  readonly what: string
  readonly layout: "STE" | "CD" | "F_TRANSLATION" | "F_PERMISSION" | "C_BAD_STREAMID"
  readonly words: readonly bigint[]
  readonly fields: Readonly<Record<string, bigint>>
}

export const REAL_WORDS: readonly RealWords[] = [
  {
    what: "arm_smmu_make_cdtable_ste: one CD, write-back inner shareable",
    layout: "STE",
    words: [0x43e9600bn, 0xd6n, 0n, 0n, 0n, 0n, 0n, 0n],
    fields: {
      V: 1n,
      Config: 5n,
      S1ContextPtr: 0x43e96000n >> 6n,
      S1DSS: 2n,
      S1CIR: 1n,
      S1COR: 1n,
      S1CSH: 3n,
    },
  },
  {
    what: "arm_smmu_make_s2_domain_ste: 44 bits, 4 KiB, root at level 0",
    layout: "STE",
    words: [0xdn, 0n, 0x44c359400000005n, 0x43e67000n, 0n, 0n, 0n, 0n],
    fields: {
      V: 1n,
      Config: 6n,
      S2VMID: 5n,
      S2T0SZ: 20n,
      S2SL0: 2n,
      S2IR0: 1n,
      S2OR0: 1n,
      S2SH0: 3n,
      S2TG: 0n,
      S2PS: 4n,
      S2AA64: 1n,
      S2PTW: 1n,
      S2R: 1n,
      S2TTB: 0x43e67000n >> 4n,
    },
  },
  {
    what: "arm_smmu_make_nested_cd_table_ste: both stages, merged events",
    layout: "STE",
    words: [0x43e9600fn, 0x800d6n, 0x44c35940000000bn, 0x1018a8000n, 0n, 0n, 0n, 0n],
    fields: {
      V: 1n,
      Config: 7n,
      S1ContextPtr: 0x43e96000n >> 6n,
      S1DSS: 2n,
      MEV: 1n,
      S2VMID: 11n,
      S2TTB: 0x1018a800n,
    },
  },
  {
    what: "arm_smmu_make_abort_ste",
    layout: "STE",
    words: [0x1n, 0n, 0n, 0n, 0n, 0n, 0n, 0n],
    fields: { V: 1n, Config: 0n },
  },
  {
    what: "arm_smmu_make_s1_cd: 48 bits, 4 KiB, ASID 4, MAIR of io-pgtable",
    layout: "CD",
    words: [0x4e204c0003510n, 0x43e7d000n, 0n, 0xfffffffff404ff44n, 0n, 0n, 0n, 0n],
    fields: {
      T0SZ: 16n,
      TG0: 0n,
      IR0: 1n,
      OR0: 1n,
      SH0: 3n,
      EPD1: 1n,
      V: 1n,
      IPS: 4n,
      AA64: 1n,
      R: 1n,
      A: 1n,
      ASET: 1n,
      ASID: 4n,
      TTB0: 0x43e7d000n >> 4n,
      MAIR0: 0xf404ff44n,
      MAIR1: 0xffffffffn,
    },
  },
  {
    what: "the same with the 16 KiB granule",
    layout: "CD",
    words: [0x5e204c0003590n, 0x48890000n, 0n, 0xfffffffff404ff44n, 0n, 0n, 0n, 0n],
    fields: { T0SZ: 16n, TG0: 2n, EPD1: 1n, V: 1n, ASID: 5n, TTB0: 0x4889000n, MAIR0: 0xf404ff44n },
  },
  {
    what: "a read of an unmapped address, stage 1",
    layout: "F_TRANSLATION",
    words: [0x1000000010n, 0x20800000000n, 0x62ac0b23ee70n, 0n],
    fields: { EventNumber: 0x10n, StreamID: 16n, RnW: 1n, CLASS: 2n, InputAddr: 0x62ac0b23ee70n },
  },
  {
    what: "stage 2 refuses the page of a CD",
    layout: "F_TRANSLATION",
    words: [0x4000000010n, 0x8800000000n, 0x1001080128n, 0x44f79000n],
    fields: {
      EventNumber: 0x10n,
      StreamID: 64n,
      RnW: 1n,
      S2: 1n,
      CLASS: 0n,
      InputAddr: 0x1001080128n,
      IPA: 0x44f79n,
    },
  },
  {
    what: "a write to a read-only page, stage 1",
    layout: "F_PERMISSION",
    words: [0x8000000013n, 0x20000000000n, 0xfff6ae80n, 0n],
    fields: { EventNumber: 0x13n, StreamID: 128n, CLASS: 2n, InputAddr: 0xfff6ae80n },
  },
  {
    what: "a stream without Level 2 table",
    layout: "C_BAD_STREAMID",
    words: [0x30000000002n, 0n, 0n, 0n],
    fields: { EventNumber: 2n, StreamID: 0x300n },
  },
]
