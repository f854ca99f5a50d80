/** QEMU's slips in SMMUv3. Book: Arm IHI 0070 G.b. */
import { deviceTable } from "@iommu/smmuv3"
import type { Dispute, LedgerEntry, Setting } from "./entry.ts"
import {
  withBothHalves,
  withDoubledSpan,
  withMoreIllegalEntries,
  withOneRootTable,
  withoutAccessFaults,
  withoutPrivilege,
  withoutStage2Updates,
  withPointersOf48Bits,
  withWideStage1Output,
} from "./smmuv3-readings.ts"
import { SMMUV3_RECORD_SLIPS } from "./smmuv3-records.ts"
import { oasBits, stage1Entries, steOf } from "./smmuv3-structures.ts"
import {
  CLASS,
  CLASS_TT,
  EVENT,
  EVENT_C_BAD_STE,
  EVENT_F_ADDR_SIZE,
  EVENT_F_CD_FETCH,
  EVENT_F_TRANSLATION,
  EVENT_F_WALK_EABT,
  isInput,
  isStage2,
  isTableFetch,
} from "./smmuv3-words.ts"

export const SMMUV3_SLIPS: readonly LedgerEntry[] = [
  ...SMMUV3_RECORD_SLIPS,
  {
    id: "smmuv3-illegal-entries",
    vendor: "smmuv3",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "An STE whose stage 2 input is wider than S2PS, or one with S1CDMax or S1STALLD, is C_BAD_STE.",
    book: "S2T0SZ is bounded by the IAS, not by the output size; without SubstreamIDs S1CDMax is IGNORED, without stage 1 S1STALLD.",
    section: "IHI 0070 G.b §5.2 (S2T0SZ, S1CDMax, S1STALLD)",
    recognised: "the model agrees once such an STE is not valid",
    slip: { kind: "reading", reads: withMoreIllegalEntries },
  },
  {
    id: "smmuv3-stage1-output",
    vendor: "smmuv3",
    versions: ["7.2"],
    qemu: "IPS bounds TTB0 and TTB1, and nothing that tables say.",
    book: "An address beyond IPS that stage 1 gives, for a table or for the access, is an Address Size fault.",
    section: "IHI 0070 G.b §3.4 (stage 1 checks, 2), §3.4.3, §5.4 (IPS)",
    recognised: "the model agrees once IPS is the OAS",
    slip: { kind: "reading", reads: withWideStage1Output },
  },
  {
    id: "smmuv3-output-silent",
    vendor: "smmuv3",
    versions: ["7.2"],
    qemu: "What stage 1 gives beyond the OAS is sent on, to where there is no memory.",
    book: "It is an Address Size fault: F_ADDR_SIZE is recorded.",
    section: "IHI 0070 G.b §3.4 (stage 1 checks, 2), §7.3.14",
    recognised:
      "no record where the model has F_ADDR_SIZE with CLASS = IN and S2 = 0, of a stream with stage 1",
    slip: {
      kind: "answer",
      explains: (dispute, setting) =>
        isSilent(dispute, "F_ADDR_SIZE", record => !isStage2(record)) &&
        hasConfig(dispute, setting, [deviceTable.CONFIG_S1]),
    },
  },
  {
    id: "smmuv3-bypass-silent",
    vendor: "smmuv3",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "An access that bypasses all stages is sent on, whatever its address.",
    book: "Beyond the OAS it is an Address Size fault of stage 1: F_ADDR_SIZE is recorded.",
    section: "IHI 0070 G.b §3.4 (STE.Config == 0b100)",
    recognised:
      "no record where the model has F_ADDR_SIZE with CLASS = IN and S2 = 0, of a stream that bypasses",
    slip: {
      kind: "answer",
      explains: (dispute, setting) =>
        isSilent(dispute, "F_ADDR_SIZE", record => !isStage2(record)) &&
        hasConfig(dispute, setting, [deviceTable.CONFIG_BYPASS]),
    },
  },
  {
    id: "smmuv3-pointers",
    vendor: "smmuv3",
    versions: ["7.2", "10.0"],
    qemu: "Address bits 55:48 of S1ContextPtr, TTB0, TTB1 and S2TTB are dropped.",
    book: "They are part of the address, which is then beyond the address size: C_BAD_STE, C_BAD_CD; SMMUv3.0 alone may drop those of S1ContextPtr, and TTBs may lack 55:52.",
    section: "IHI 0070 G.b §3.4.3, §5.2 (S1ContextPtr, S2TTB), §5.4 (TTB0)",
    recognised: "the model agrees once they are clear",
    slip: { kind: "reading", reads: withPointersOf48Bits },
  },
  {
    id: "smmuv3-disabled-walks",
    vendor: "smmuv3",
    versions: ["7.2"],
    qemu: "EPD0 and EPD1 do not keep walks from being done.",
    book: "With EPD0 = 1 an address of the lower half is F_TRANSLATION, and so for EPD1.",
    section: "IHI 0070 G.b §5.4 (EPD0, EPD1)",
    recognised: "the model agrees once both are clear",
    slip: { kind: "reading", reads: withBothHalves },
  },
  {
    id: "smmuv3-roots-first",
    vendor: "smmuv3",
    versions: ["10.0", "11.1"],
    qemu: "With both stages, TTB0 and TTB1 are translated before it is known whether the address uses either.",
    book: "A root is fetched for an address that it translates.",
    section: "IHI 0070 G.b §3.4, §7.3.13",
    recognised: "a fault of stage 2 with CLASS = TT where the model has F_TRANSLATION of stage 1",
    slip: {
      kind: "answer",
      explains: ({ fault, theirRecord }) =>
        fault?.reason === "F_TRANSLATION" &&
        fault.stage === 1 &&
        theirRecord !== null &&
        isTableFetch(theirRecord),
    },
  },
  {
    id: "smmuv3-concatenated",
    vendor: "smmuv3",
    versions: ["10.0", "11.1"],
    qemu: "The first of the concatenated tables of a stage 2 root stands for all of them.",
    book: "Address bits above those that one table resolves choose the table.",
    section:
      "DDI 0487 J.a §D8.2.2 (HRSBS, JKZFY: up to four more bits of the address select one of 2^n tables)",
    recognised: "the model agrees once all tables of the root are as the first",
    slip: { kind: "reading", reads: withOneRootTable },
  },
  {
    id: "smmuv3-stage2-updates",
    vendor: "smmuv3",
    versions: ["10.0", "11.1"],
    qemu: "S2HA or S2HD alone is accepted.",
    book: "Without HTTU an STE with either is ILLEGAL.",
    section: "IHI 0070 G.b §5.2 (S2HA)",
    recognised: "the model agrees once both are 0",
    slip: { kind: "reading", reads: withoutStage2Updates },
  },
  {
    id: "smmuv3-tlb-reads",
    vendor: "smmuv3",
    versions: ["10.0", "11.1"],
    qemu: "With both stages, a read of a page that may only be written passes once the TLB holds the page.",
    book: "The fault does not depend on what is cached: F_PERMISSION.",
    section: "IHI 0070 G.b §7.3.16; DDI 0487 J.a §D8.4.2",
    recognised: "a read that passes where the model has F_PERMISSION of stage 2",
    slip: {
      kind: "answer",
      explains: ({ fault, write, theyRefused }) =>
        fault?.reason === "F_PERMISSION" && fault.stage === 2 && !write && !theyRefused,
    },
  },
  {
    id: "smmuv3-context-size",
    vendor: "smmuv3",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "An S1ContextPtr beyond the address size is followed: F_CD_FETCH, with stage 2 a fault of stage 2 for the CD, or none.",
    book: "From SMMUv3.1 on such an STE is ILLEGAL: C_BAD_STE. With stage 2 a Translation fault of stage 2 may take its place.",
    section: "IHI 0070 G.b §3.4.3 (notes 1 and 2), §5.2 (S1ContextPtr)",
    recognised:
      "F_CD_FETCH of such an S1ContextPtr, with stage 2 an event with CLASS = CD of it or none, where the model has C_BAD_STE",
    slip: { kind: "answer", explains: isContextBeyondSize },
  },
  {
    id: "smmuv3-access-flag",
    vendor: "smmuv3",
    versions: ["7.2"],
    qemu: "The Access flag is not looked at.",
    book: "With AFFD = 0, AF = 0 is F_ACCESS.",
    section: "IHI 0070 G.b §5.4 (AFFD), §7.3.15",
    recognised: "the model agrees once AFFD = 1",
    slip: { kind: "reading", reads: withoutAccessFaults },
  },
  {
    id: "smmuv3-privilege",
    vendor: "smmuv3",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "AP[1] = 0 and APTable[0] = 1, which keep unprivileged accesses out, are not looked at.",
    book: "A device's access is unprivileged unless it says otherwise: F_PERMISSION.",
    section: "DDI 0487 J.a §D8.4.1; IHI 0070 G.b §13.7 (PRIV of a transaction without PASID)",
    recognised: "the model agrees once AP[1] is set and APTable[0] clear in stage 1",
    slip: { kind: "reading", reads: withoutPrivilege },
  },
  {
    id: "smmuv3-table-size",
    vendor: "smmuv3",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "Tables are fetched from addresses beyond the output size: F_WALK_EABT, with both stages F_ADDR_SIZE of the fetch.",
    book: "A table's address beyond the output size is an Address Size fault.",
    section: "IHI 0070 G.b §3.4.3 (last-stage walks), §7.3.14",
    recognised: "F_WALK_EABT, or CLASS = TT, with the same InputAddr where the model has F_ADDR_SIZE",
    slip: { kind: "answer", explains: isFetchBeyondOutput },
  },
  {
    id: "smmuv3-aborts",
    vendor: "smmuv3",
    versions: ["10.0", "11.1"],
    qemu: "CD.IPS or S2PS of 6 or 7, and S2AA64 = 0, end QEMU in an assertion.",
    book: "Sizes beyond the OAS count as the OAS; a table format that is not there makes the STE ILLEGAL.",
    section: "IHI 0070 G.b §5.2 (S2AA64, S2PS), §5.4 (IPS)",
    recognised: "QEMU's last words: oas2bits or decode_ste_s2_cfg: code should not be reached",
    slip: {
      kind: "state",
      explains: difference =>
        difference.kind === "died" &&
        /(oas2bits|decode_ste_s2_cfg).*code should not be reached/.test(difference.words),
    },
  },
  {
    id: "smmuv3-ias-silent",
    vendor: "smmuv3",
    versions: ["10.0", "11.1"],
    qemu: "A stage 2 only stream whose input address is beyond the IAS gets an abort and no event.",
    book: "That is a stage 1 Address Size fault: F_ADDR_SIZE with CLASS = IN and S2 = 0 is recorded.",
    section: "IHI 0070 G.b §3.4 (bypassing stage 1), §7.3.14",
    recognised:
      "no record where the model has F_ADDR_SIZE with CLASS = IN and S2 = 0, of a stream without stage 1",
    slip: {
      kind: "answer",
      explains: (dispute, setting) =>
        isSilent(dispute, "F_ADDR_SIZE", record => !isStage2(record)) &&
        // Captures do not say what the STE was.
        (setting === null || hasConfig(dispute, setting, [deviceTable.CONFIG_S2])),
    },
  },
  {
    id: "smmuv3-48-bits",
    vendor: "smmuv3",
    versions: ["7.2"],
    qemu: "Addresses of more than 48 bits do not reach the SMMU: an abort, and no event whatever is wrong.",
    book: "An address in neither range of the CD is F_TRANSLATION.",
    section: "IHI 0070 G.b §3.4 (stage 1 checks, 1), §3.4.1",
    recognised: "no record of an access beyond 48 bits",
    slip: {
      kind: "answer",
      explains: ({ fault, theirRecord, theyRefused }) =>
        fault !== null && fault.address >> 48n !== 0n && theirRecord === null && theyRefused,
    },
  },
  {
    id: "smmuv3-s2-tlb-silent",
    vendor: "smmuv3",
    versions: ["10.0", "11.1"],
    qemu: "A stage 2 only access without permission to a page that the TLB holds gets an abort and no event.",
    book: "The fault does not depend on what is cached: with S2R, F_PERMISSION is recorded.",
    section: "IHI 0070 G.b §7.3.16, §5.2 (STE.S2R)",
    recognised: "no record where the model has F_PERMISSION with CLASS = IN and S2 = 1",
    slip: {
      kind: "answer",
      explains: dispute => isSilent(dispute, "F_PERMISSION", isStage2),
    },
  },
  {
    id: "smmuv3-tlb-table-permission",
    vendor: "smmuv3",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "The TLB has the permissions of the page alone: once it holds the page, APTable[1] of the tables above is forgotten.",
    book: "APTable limits the permissions of all that is below, cached or not: F_PERMISSION.",
    section: "DDI 0487 J.a §D8.4.1 (YTXKB, YQWJF)",
    recognised:
      "a write without a record where the model has F_PERMISSION of stage 1, and a table entry with APTable[1]",
    slip: {
      kind: "answer",
      explains: ({ fault, write, theirRecord }, setting) =>
        fault?.reason === "F_PERMISSION" &&
        fault.stage === 1 &&
        write &&
        // Let through, it may have gone where nobody looks.
        theirRecord === null &&
        setting !== null &&
        stage1Entries(setting.world, setting.script.memory).some(([, entry]) => (entry & AP_TABLE_1) !== 0n),
    },
  },
  {
    id: "smmuv3-span-doubled",
    vendor: "smmuv3",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "The array of an L1STD counts as one of 2^Span STEs.",
    book: "It has 2^(Span - 1) STEs.",
    section: "IHI 0070 G.b §5.1 (Span)",
    recognised: "the model agrees once Span is one more",
    slip: { kind: "reading", reads: withDoubledSpan },
  },
  {
    id: "smmuv3-span",
    vendor: "smmuv3",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "A StreamID beyond the Span of its L1STD is C_BAD_STE.",
    book: "It is outside of the Stream table: C_BAD_STREAMID, recorded where CR2.RECINVSID says so.",
    section: "IHI 0070 G.b §5.1 (Span), §7.3.3",
    recognised: "C_BAD_STE where the model has C_BAD_STREAMID",
    slip: { kind: "answer", explains: isBadSteForStreamId },
  },
]

/** APTable[1] of a table's entry. */
const AP_TABLE_1 = 1n << 62n
/** Before 11 QEMU takes no more bits of an S1ContextPtr than these. */
const POINTER_BITS = 0xffff_ffff_ffc0n

/** True when the device's STE has one of these values of Config. */
function hasConfig({ fault }: Dispute, setting: Setting | null, configs: readonly number[]): boolean {
  if (setting === null || fault === null) return false
  const ste = steOf(setting.world, setting.script.memory, fault.device)
  return configs.includes(Number(deviceTable.STE.get(ste, "Config")))
}

/** The model found an S1ContextPtr that cannot be; QEMU went there, and there was nothing. */
function isContextBeyondSize(dispute: Dispute, setting: Setting | null): boolean {
  const { fault, theirRecord, theyRefused } = dispute
  if (fault?.reason !== "C_BAD_STE" || !theyRefused || setting === null) return false
  const ste = steOf(setting.world, setting.script.memory, fault.device)
  const pointer = deviceTable.STE.getInPlace(ste, "S1ContextPtr")
  if (pointer >> BigInt(oasBits(setting.world)) === 0n) return false
  const followed = [pointer, pointer & POINTER_BITS]
  if (!hasConfig(dispute, setting, [deviceTable.CONFIG_NESTED])) {
    return theirRecord !== null && isContextFetch(theirRecord, followed)
  }
  return (
    theirRecord === null || isContextFetch(theirRecord, followed) || isContextFault(theirRecord, followed)
  )
}

/** QEMU has FetchAddr in word 2. */
function isContextFetch(record: readonly bigint[], pointers: readonly bigint[]): boolean {
  return (record[0] & EVENT) === EVENT_F_CD_FETCH && pointers.includes(record[2])
}

/** A fault of stage 2 with CLASS = CD, which is 0, of one of these addresses. */
function isContextFault(record: readonly bigint[], pointers: readonly bigint[]): boolean {
  const isFault = (record[0] & EVENT) >= EVENT_F_TRANSLATION && (record[1] & CLASS) === 0n
  return isFault && isStage2(record) && pointers.includes(record[3])
}

/** The model refused an address of a table; QEMU went there. */
function isFetchBeyondOutput({ fault, ourRecord, theirRecord }: Dispute): boolean {
  if (fault?.reason !== "F_ADDR_SIZE" || theirRecord === null || ourRecord?.[2] !== theirRecord[2])
    return false
  const event = theirRecord[0] & EVENT
  return event === EVENT_F_WALK_EABT || (event === EVENT_F_ADDR_SIZE && (theirRecord[1] & CLASS) === CLASS_TT)
}

/** QEMU recorded C_BAD_STE, which has nothing but the StreamID, where the model has no STE to look at. */
function isBadSteForStreamId({ fault, theirRecord }: Dispute): boolean {
  return (
    fault?.reason === "C_BAD_STREAMID" &&
    theirRecord?.[0] === ((BigInt(fault.device) << 32n) | EVENT_C_BAD_STE) &&
    theirRecord.slice(1).every(word => word === 0n)
  )
}

/** QEMU refused without a record where the model recorded a fault of the input address. */
function isSilent(
  { fault, ourRecord, theirRecord, theyRefused }: Dispute,
  reason: string,
  matches: (record: readonly bigint[]) => boolean,
): boolean {
  if (theirRecord !== null || !theyRefused || fault?.reason !== reason || ourRecord === null) return false
  return isInput(ourRecord) && matches(ourRecord)
}
