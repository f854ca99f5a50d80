/** Rows of SMMUv3: each explains what its text says, and not what is near it. */
import { ACCESS_WRITE } from "@iommu/core"
import { deviceTable, pasidTable, registers } from "@iommu/smmuv3"
import { describe, expect, test } from "vitest"
import { CD_AT, STREAM_TABLE } from "../../src/diff/vendors/smmuv3-layout.ts"
import { explainAccess } from "../../src/index.ts"
import { disputeOf, faultOf, settingOf, wordsAt, worldOf } from "./setting.ts"

/** 44 bits of output, as QEMU has them. */
const identity = { IDR5: registers.IDR5.encode({ OAS: 4n })[0] }
const { structures, tables } = worldOf("aarch64", "10.0").places
const CLASS_IN = 2n << 40n
const S2 = 1n << 39n

function settingWith(release: string, Config: number, S1ContextPtr = 0n, more: [number, bigint][] = []) {
  const ste = deviceTable.STE.encode({ V: 1n, Config: BigInt(Config), S1ContextPtr: S1ContextPtr >> 6n })
  const at = structures + STREAM_TABLE + 0x20 * deviceTable.STE_BYTES
  return settingOf(worldOf("aarch64", release, { identity }), new Map([...wordsAt(at, ste), ...more]))
}

describe("smmuv3-context-size", () => {
  const pointer = (1n << 44n) | 0x4045_0000n
  const fault = faultOf("C_BAD_STE")
  const fetch = (address: bigint): readonly bigint[] => [(0x20n << 32n) | 9n, 0n, address, 0n]
  const stage2Fault = (word1: bigint, ipa: bigint): readonly bigint[] => [
    (0x20n << 32n) | 0x10n,
    word1,
    0x1000n,
    ipa,
  ]
  const explained = (theirRecord: readonly bigint[] | null, config: number, at: bigint) =>
    explainAccess("smmuv3", disputeOf(fault, { theirRecord }), settingWith("10.0", config, at))

  test("is F_CD_FETCH of an S1ContextPtr that is too large", () => {
    expect(explained(fetch(pointer), 5, pointer)).toEqual(["smmuv3-context-size"])
  })

  test("is no fetch from elsewhere, and none of an S1ContextPtr that fits", () => {
    expect(explained(fetch(0x4045_0000n), 5, pointer)).toBeNull()
    expect(explained(fetch(0x4045_0000n), 5, 0x4045_0000n)).toBeNull()
  })

  test("is silence, or a fault of the CD's fetch, with stage 2 alone", () => {
    expect(explained(null, 7, pointer)).toEqual(["smmuv3-context-size"])
    expect(explained(stage2Fault(S2, pointer), 7, pointer)).toEqual(["smmuv3-context-size"])
    expect(explained(null, 5, pointer)).toBeNull()
    expect(explained(stage2Fault(S2, pointer), 5, pointer)).toBeNull()
    expect(explained(stage2Fault(S2 | CLASS_IN, pointer), 7, pointer)).toBeNull()
    expect(explained(stage2Fault(S2, 0x4045_0000n), 7, pointer)).toBeNull()
  })
})

describe("an address beyond the size, and no record", () => {
  const beyond = disputeOf(faultOf("F_ADDR_SIZE", { stage: 1 }), { ourRecord: [0x11n, CLASS_IN, 0n, 0n] })
  const explained = (release: string, config: number) =>
    explainAccess("smmuv3", beyond, settingWith(release, config))

  test("is of the stages that a stream has, and of the releases that are silent there", () => {
    expect(explained("7.2", 5)).toEqual(["smmuv3-output-silent"])
    expect(explained("10.0", 6)).toEqual(["smmuv3-ias-silent"])
    expect(explained("11.1", 4)).toEqual(["smmuv3-bypass-silent"])
  })

  test("is new where stage 1 has given it in releases that record that", () => {
    expect(explained("10.0", 5)).toBeNull()
    expect(explained("10.0", 7)).toBeNull()
  })
})

describe("smmuv3-tlb-table-permission", () => {
  const cd = pasidTable.CD.encode({ V: 1n, AA64: 1n, TTB0: BigInt(tables[0]) >> 4n })
  const withRoot = (entry: bigint): [number, bigint][] => [
    ...wordsAt(structures + CD_AT, cd),
    [tables[0], entry],
  ]
  const write = disputeOf(faultOf("F_PERMISSION", { stage: 1, access: ACCESS_WRITE }), { theyRefused: false })
  const limited = withRoot((1n << 62n) | 3n)

  test("is a write under a table that is not to be written under", () => {
    expect(explainAccess("smmuv3", write, settingWith("10.0", 5, 0n, limited))).toEqual([
      "smmuv3-tlb-table-permission",
    ])
  })

  test("is no write under other tables, none that QEMU records, no read, and nothing of stage 2", () => {
    const recorded = { ...write, theirRecord: [0x12n, 0n, 0n, 0n], theyRefused: true }
    expect(explainAccess("smmuv3", recorded, settingWith("10.0", 5, 0n, limited))).toBeNull()
    expect(explainAccess("smmuv3", write, settingWith("10.0", 5, 0n, withRoot(3n)))).toBeNull()
    const read = disputeOf(faultOf("F_PERMISSION", { stage: 1 }), { theyRefused: false })
    expect(explainAccess("smmuv3", read, settingWith("10.0", 5, 0n, limited))).toBeNull()
    const stage2 = { ...write, fault: faultOf("F_PERMISSION", { stage: 2, access: ACCESS_WRITE }) }
    expect(explainAccess("smmuv3", stage2, settingWith("10.0", 5, 0n, limited))).toBeNull()
  })
})
