/** QEMU's slips in single fields of SMMUv3's records. Book: Arm IHI 0070 G.b. */
import type { LedgerEntry } from "./entry.ts"
import {
  CD_BYTES,
  CLASS,
  EVENT,
  EVENT_F_ADDR_SIZE,
  EVENT_F_CD_FETCH,
  EVENT_F_PERMISSION,
  EVENT_F_TRANSLATION,
  isInput,
  isStage2,
  isTableFetch,
  PAGE_OFFSET,
  RNW,
  S2,
  TABLE_PAGES,
  TTRNW,
  WHOLE_WORD,
} from "./smmuv3-words.ts"

export const SMMUV3_RECORD_SLIPS: readonly LedgerEntry[] = [
  {
    id: "smmuv3-class",
    vendor: "smmuv3",
    versions: ["7.2"],
    qemu: "CLASS of faults of the input address is 0.",
    book: "CLASS = IN (2) for a fault of the input address.",
    section: "IHI 0070 G.b §7.3.13",
    recognised: "CLASS = 0 where the model has IN",
    slip: {
      kind: "record",
      mask: [0n, CLASS],
      matches: (ours, qemu) => isInput(ours) && (qemu[1] & CLASS) === 0n,
    },
  },
  {
    id: "smmuv3-table-permission-first",
    vendor: "smmuv3",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "APTable[1] of a table ends a walk at once (F_PERMISSION), though what is below is not there.",
    book: "Permissions are those of the whole walk; what is not there is F_TRANSLATION.",
    section: "DDI 0487 M.a §D8.4.1 (GQYCH: the level of a Permission fault is that of the page), §D8.15.5",
    recognised: "F_PERMISSION in place of the model's F_TRANSLATION, all else the same",
    slip: {
      kind: "record",
      mask: [EVENT],
      matches: (ours, qemu) =>
        (ours[0] & EVENT) === EVENT_F_TRANSLATION &&
        (qemu[0] & EVENT) === EVENT_F_PERMISSION &&
        !isStage2(ours),
    },
  },
  {
    id: "smmuv3-permission-before-size",
    vendor: "smmuv3",
    versions: ["10.0", "11.1"],
    qemu: "What a leaf does not permit is refused (F_PERMISSION) before its address is compared with the output size.",
    book: "An Address Size fault comes before a Permission fault.",
    section: "DDI 0487 M.a §D8.15.5; IHI 0070 G.b §3.4",
    recognised: "F_PERMISSION in place of the model's F_ADDR_SIZE with CLASS = IN, all else the same",
    seldom: "a leaf has to lack the permission and lead beyond a small output size at once",
    slip: {
      kind: "record",
      mask: [EVENT],
      matches: (ours, qemu) =>
        (ours[0] & EVENT) === EVENT_F_ADDR_SIZE && (qemu[0] & EVENT) === EVENT_F_PERMISSION && isInput(ours),
    },
  },
  {
    id: "smmuv3-tlb-ipa",
    vendor: "smmuv3",
    versions: ["10.0", "11.1"],
    qemu: "With both stages, F_PERMISSION of a page that the TLB holds has no IPA.",
    book: "IPA is bits 55:12 of the address that stage 2 was asked for.",
    section: "IHI 0070 G.b §7.3.16",
    recognised: "word 3 = 0 in F_PERMISSION with S2 and CLASS = IN",
    slip: {
      kind: "record",
      mask: [0n, 0n, 0n, WHOLE_WORD],
      matches: (ours, qemu) =>
        (ours[0] & EVENT) === EVENT_F_PERMISSION && isStage2(ours) && isInput(ours) && qemu[3] === 0n,
    },
  },
  {
    id: "smmuv3-ipa-offset",
    vendor: "smmuv3",
    versions: ["10.0", "11.1"],
    qemu: "The record's word of the IPA holds the whole address, its offset in the page in bits 11:0.",
    book: "IPA is bits 55:12 of the address; bits 11:0 of that word are RES0.",
    section: "IHI 0070 G.b §7.3.13 to §7.3.16",
    recognised:
      "bits 11:0 of word 3 of a record with S2, equal to those of InputAddr or of a structure's address",
    slip: {
      kind: "record",
      mask: [0n, 0n, 0n, PAGE_OFFSET],
      matches: (ours, qemu) =>
        isStage2(ours) &&
        (isInput(ours) ? (qemu[3] & PAGE_OFFSET) === (ours[2] & PAGE_OFFSET) : qemu[3] % CD_BYTES === 0n),
    },
  },
  {
    id: "smmuv3-tt-ipa",
    vendor: "smmuv3",
    versions: ["10.0", "11.1"],
    qemu: "IPA is the address of the stage 1 table that stage 2 does not let be read.",
    book: "With CLASS = TT, IPA is the address of the descriptor, which in a table of 16 or 64 KiB may be in another page.",
    section: "IHI 0070 G.b §7.3.13",
    recognised: "bits 15:12 of word 3 of a record with S2 and CLASS = TT, below those of the descriptor",
    slip: {
      kind: "record",
      mask: [0n, 0n, 0n, TABLE_PAGES],
      matches: (ours, qemu) => isTableFetch(ours) && (qemu[3] & TABLE_PAGES) < (ours[3] & TABLE_PAGES),
    },
  },
  {
    id: "smmuv3-tt-s2",
    vendor: "smmuv3",
    versions: ["10.0", "11.1"],
    qemu: "When stage 2 refuses the fetch of a stage 1 table below the root, S2 is 0 as if stage 1 had faulted.",
    book: "A fault of stage 2 has S2 = 1, also with CLASS = TT.",
    section: "IHI 0070 G.b §7.3.13",
    recognised: "S2 of a record with S2 and CLASS = TT",
    slip: { kind: "record", mask: [0n, S2], matches: isTableFetch },
  },
  {
    id: "smmuv3-fetch-rnw",
    vendor: "smmuv3",
    versions: ["10.0", "11.1"],
    qemu: "When stage 2 refuses the fetch of a CD or of the stage 1 root on behalf of a write, RnW is 1.",
    book: "RnW is the access of the input transaction, whatever was fetched on its way.",
    section: "IHI 0070 G.b §7.3, §7.3.13",
    recognised: "RnW = 1 in a record with S2 and CLASS other than IN",
    slip: {
      kind: "record",
      mask: [0n, RNW],
      matches: (ours, qemu) => isStage2(ours) && !isInput(ours) && (qemu[1] & RNW) !== 0n,
    },
  },
  {
    id: "smmuv3-tt-rnw",
    vendor: "smmuv3",
    versions: ["10.0", "11.1"],
    qemu: "TTRnW is 0 when stage 2 does not let a stage 1 table be read.",
    book: "With CLASS = TT, TTRnW says whether reading (1) or writing (0) the descriptor faulted.",
    section: "IHI 0070 G.b §7.3.16",
    recognised: "TTRnW of an F_PERMISSION with S2 and CLASS = TT",
    slip: {
      kind: "record",
      mask: [0n, TTRNW],
      matches: ours => (ours[0] & EVENT) === EVENT_F_PERMISSION && isTableFetch(ours),
    },
  },
  {
    id: "smmuv3-cd-fetch-address",
    vendor: "smmuv3",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "F_CD_FETCH has the address of the CD in word 2, where other records have InputAddr.",
    book: "FetchAddr is in word 3; word 2 is RES0.",
    section: "IHI 0070 G.b §7.3.10",
    recognised: "F_CD_FETCH with the model's word 3 in word 2",
    slip: {
      kind: "record",
      mask: [0n, 0n, WHOLE_WORD, WHOLE_WORD],
      matches: (ours, qemu) =>
        (ours[0] & EVENT) === EVENT_F_CD_FETCH && qemu[2] === ours[3] && qemu[3] === 0n,
    },
  },
]
