import type { DmaOutcome, Fault } from "@iommu/core"
import { describe, expect, it } from "vitest"
import type { FaultRow } from "../src/capture/schema.ts"
import { explain } from "../src/verify/explained.ts"
import type { Comparison } from "../src/verify/finding.ts"

/** A stage 2 translation fault of a read: StreamID 8, S2, CLASS, RnW, InputAddr, IPA. */
const RNW = 1n << 35n
const S2 = 1n << 39n
const CLASS_TT = 1n << 40n
const CLASS_IN = 2n << 40n

function refused(record: readonly bigint[] | null, reason = "F_TRANSLATION", code = 0x10): DmaOutcome {
  const fault: Fault = {
    reason,
    code,
    device: 8,
    pasid: null,
    address: 0x1234n,
    access: 1,
    stage: 2,
    record,
    detail: "",
  }
  return { ok: false, fault }
}

function faultRow(changes: Partial<FaultRow>): FaultRow {
  return { device: 8, iova: 0x1234n, access: "read", ...changes }
}

function comparison(row: FaultRow, outcome: DmaOutcome, differences = ["record"]): Comparison {
  return { finding: { table: "faults", row, outcome }, differences }
}

describe("the ledger", () => {
  it("explains a record by all the slips that meet in it", () => {
    const ours = refused([0x8_0000_0010n, S2 | CLASS_TT, 0x1234n, 0x4000_0000n])
    const qemu = [0x8_0000_0010n, RNW | CLASS_TT, 0x1234n, 0x4000_0040n]
    expect(explain("smmuv3", comparison(faultRow({ words: qemu }), ours))).toEqual([
      "smmuv3-ipa-offset",
      "smmuv3-tt-s2",
      "smmuv3-fetch-rnw",
    ])
  })

  it("explains the address of a large table in place of its descriptor's, not another table's", () => {
    const ours = refused([0x8_0000_0010n, S2 | CLASS_TT | RNW, 0x1234n, 0x4000_3000n])
    const at = (ipa: bigint): FaultRow => faultRow({ words: [0x8_0000_0010n, CLASS_TT | RNW, 0x1234n, ipa] })
    expect(explain("smmuv3", comparison(at(0x4000_0000n), ours))).toEqual(["smmuv3-tt-ipa", "smmuv3-tt-s2"])
    expect(explain("smmuv3", comparison(at(0x4000_4000n), ours))).toBeNull()
    expect(explain("smmuv3", comparison(at(0x3fff_0000n), ours))).toBeNull()
    for (const words of [[], [0x8_0000_0010n], [0x8_0000_0010n, 0n, 0n]]) {
      expect(explain("smmuv3", comparison(faultRow({ words }), ours))).toBeNull()
    }
  })

  it.each([
    ["another event", [0x8_0000_0013n, S2 | CLASS_IN | RNW, 0x1234n, 0x4000_0234n]],
    ["another stream", [0x9_0000_0010n, S2 | CLASS_IN | RNW, 0x1234n, 0x4000_0234n]],
    ["another class", [0x8_0000_0010n, S2 | CLASS_TT | RNW, 0x1234n, 0x4000_0234n]],
    ["another page", [0x8_0000_0010n, S2 | CLASS_IN | RNW, 0x1234n, 0x4000_1234n]],
    ["another offset in the page", [0x8_0000_0010n, S2 | CLASS_IN | RNW, 0x1234n, 0x4000_0235n]],
    ["another stage, of a page", [0x8_0000_0010n, CLASS_IN | RNW, 0x1234n, 0x4000_0234n]],
    ["another access, of a page", [0x8_0000_0010n, S2 | CLASS_IN, 0x1234n, 0x4000_0234n]],
    ["a missing word", [0x8_0000_0010n, S2 | CLASS_IN | RNW, 0x1234n]],
  ])("does not explain %s", (_, words) => {
    const ours = refused([0x8_0000_0010n, S2 | CLASS_IN | RNW, 0x1234n, 0x4000_0000n])
    expect(explain("smmuv3", comparison(faultRow({ words }), ours))).toBeNull()
  })

  it("does not explain a record when something else differs too", () => {
    const ours = refused([0x8_0000_0010n, S2 | CLASS_IN | RNW, 0x1234n, 0x4000_0000n])
    const row = faultRow({ words: [0x8_0000_0010n, S2 | CLASS_IN | RNW, 0x1234n, 0x4000_0234n] })
    expect(explain("smmuv3", comparison(row, ours, ["event", "record"]))).toBeNull()
  })

  it("explains a missing event only where QEMU is known to be silent", () => {
    const readOnly = refused([0x8_0000_0013n, S2 | CLASS_IN, 0x1234n, 0x1000n], "F_PERMISSION", 0x13)
    const beyond = refused([0x8_0000_0011n, CLASS_IN | RNW, 0x1234n, 0n], "F_ADDR_SIZE", 0x11)
    const write = faultRow({ access: "write", words: null })
    const read = faultRow({ words: null })
    expect(explain("smmuv3", comparison(write, readOnly))).toEqual(["smmuv3-s2-tlb-silent"])
    expect(explain("smmuv3", comparison(read, readOnly))).toEqual(["smmuv3-s2-tlb-silent"])
    expect(explain("smmuv3", comparison(read, beyond))).toEqual(["smmuv3-ias-silent"])
    expect(explain("smmuv3", comparison(read, refused([0x10n, S2 | CLASS_IN, 0n, 0n])))).toBeNull()
    expect(explain("vtd", comparison(read, beyond))).toBeNull()
  })

  it("explains C_BAD_STE of a StreamID that the Stream table does not have", () => {
    const beyond = refused(null, "C_BAD_STREAMID", 0x02)
    const badSte = [0x8_0000_0004n, 0n, 0n, 0n]
    expect(explain("smmuv3", comparison(faultRow({ words: badSte }), beyond))).toEqual(["smmuv3-span"])
    const recorded = refused([0x8_0000_0002n, 0n, 0n, 0n], "C_BAD_STREAMID", 0x02)
    expect(explain("smmuv3", comparison(faultRow({ words: badSte }), recorded))).toEqual(["smmuv3-span"])
    const illegal = refused([0x8_0000_0004n, 0n, 0n, 0n], "C_BAD_STE", 0x04)
    expect(explain("smmuv3", comparison(faultRow({ words: badSte }), illegal))).toBeNull()
    for (const words of [
      null,
      [],
      [0x9_0000_0004n, 0n, 0n, 0n],
      [0x8_0000_0003n, 0n, 0n, 0n],
      [0x8_0000_0004n, 0n, 0n, 8n],
    ]) {
      expect(explain("smmuv3", comparison(faultRow({ words }), beyond))).toBeNull()
    }
  })

  it("explains the address of a CD in the word before its own", () => {
    const ours = refused([0x8_0000_0009n, 0n, 0n, 0x4000_1000n], "F_CD_FETCH", 0x09)
    const at = (...words: bigint[]): FaultRow => faultRow({ words: [0x8_0000_0009n, ...words] })
    expect(explain("smmuv3", comparison(at(0n, 0x4000_1000n, 0n), ours))).toEqual(["smmuv3-cd-fetch-address"])
    expect(explain("smmuv3", comparison(at(0n, 0x4000_2000n, 0n), ours))).toBeNull()
    expect(explain("smmuv3", comparison(at(0n, 0x4000_1000n, 8n), ours))).toBeNull()
    expect(explain("smmuv3", comparison(at(8n, 0x4000_1000n, 0n), ours))).toBeNull()
    const steFetch = refused([0x8_0000_0003n, 0n, 0n, 0x4000_1000n], "F_STE_FETCH", 0x03)
    expect(
      explain("smmuv3", comparison(faultRow({ words: [0x8_0000_0003n, 0n, 0x4000_1000n, 0n] }), steFetch)),
    ).toBeNull()
  })

  it("explains a legacy VT-d reason by the scalable reason of the same condition alone", () => {
    const missing = refused([0n, 0n], "SSS.2", 0x79)
    expect(explain("vtd", comparison(faultRow({ code: 6n }), missing))).toEqual(["vtd-legacy-reasons"])
    expect(explain("vtd", comparison(faultRow({ code: 6n }), missing, ["code", "record"]))).toBeNull()
    expect(explain("vtd", comparison(faultRow({ code: 5n }), missing))).toBeNull()
    expect(explain("vtd", comparison(faultRow({ code: 5n, access: "write" }), missing))).toEqual([
      "vtd-legacy-reasons",
    ])
    expect(explain("vtd", comparison(faultRow({ code: 6n }), refused([0n, 0n], "SFS.2", 0x71)))).toBeNull()
    expect(explain("vtd", comparison(faultRow({}), missing))).toBeNull()
  })

  it("explains the type of a PASID entry that is not present", () => {
    const absent = refused([0n, 0n], "SPT.2", 0x59)
    expect(explain("vtd", comparison(faultRow({ code: 0x5bn }), absent))).toEqual(["vtd-pasid-entry-present"])
    expect(explain("vtd", comparison(faultRow({ code: 0x5an }), absent))).toBeNull()
  })
})
