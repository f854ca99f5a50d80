/** Rows of AMD-Vi and VT-d: each explains what its text says, and not what is near it. */

import { deviceTable } from "@iommu/amd"
import { ACCESS_WRITE } from "@iommu/core"
import { pasidTable } from "@iommu/vtd"
import { describe, expect, test } from "vitest"
import { DEVICE_TABLE } from "../../src/diff/vendors/amd-layout.ts"
import { PASID_TABLE } from "../../src/diff/vendors/vtd-layout.ts"
import { explainAccess } from "../../src/index.ts"
import { disputeOf, faultOf, settingOf, wordsAt, worldOf } from "./setting.ts"

const world = worldOf("x86_64", "10.0")

describe("amd-silent", () => {
  const silent = disputeOf(faultOf("IO_PAGE_FAULT"))

  test("is a fault that the model logs and QEMU does not", () => {
    expect(explainAccess("amd", silent, settingOf(world))).toEqual(["amd-silent"])
  })

  test("is in a release that logs no slip but where TV is 0", () => {
    const newer = worldOf("x86_64", "11.1")
    const at = newer.places.structures + DEVICE_TABLE + 0x20 * deviceTable.DTE_BYTES
    const withEntry = (word0: bigint) => settingOf(newer, new Map([[at, word0]]))
    expect(explainAccess("amd", silent, withEntry(1n))).toEqual(["amd-untranslated-silent"])
    for (const word0 of [0n, 2n, 3n]) expect(explainAccess("amd", silent, withEntry(word0))).toBeNull()
  })

  test("is no access that passes, and none that the model has nothing to log of", () => {
    expect(explainAccess("amd", { ...silent, theyRefused: false }, settingOf(world))).toBeNull()
    expect(explainAccess("amd", { ...silent, ourRecord: null }, settingOf(world))).toBeNull()
  })
})

describe("amd-iotlb-key", () => {
  /** DeviceID 20h with bit 51 of the address is DeviceID 28h. */
  const far = (1n << 51n) | 0x5000n
  const fault = faultOf("IO_PAGE_FAULT", { address: far })
  const passed = disputeOf(fault, { theyRefused: false })
  const mine = { device: 0, iova: far, write: false, asks: "place" } as const
  const theirs = { device: 1, iova: 0x5000n, write: false, asks: "place" } as const

  test("is an access that meets another device's entry", () => {
    expect(explainAccess("amd", passed, settingOf(world, new Map(), [theirs, mine]))).toEqual([
      "amd-iotlb-key",
    ])
  })

  test("takes the other device's access to the same page, bit by bit", () => {
    for (const other of [
      { ...theirs, iova: 0x6000n },
      { ...theirs, device: 0 },
    ]) {
      expect(explainAccess("amd", passed, settingOf(world, new Map(), [other, mine]))).toBeNull()
    }
    expect(explainAccess("amd", passed, settingOf(world, new Map(), [mine]))).toBeNull()
    // Bit 52 makes DeviceID 30h of it, which nobody is.
    const further = { ...fault, address: (1n << 52n) | 0x5000n }
    const dispute = disputeOf(further, { theyRefused: false })
    expect(explainAccess("amd", dispute, settingOf(world, new Map(), [theirs, mine]))).toBeNull()
  })
})

describe("amd-suppression", () => {
  const event = [(2n << 60n) | 0x20n, 0n]
  const dispute = disputeOf(faultOf("IO_PAGE_FAULT"), { ourRecord: null, theirRecord: event })
  const newer = worldOf("x86_64", "11.1")
  const withEntry = (word1: bigint): ReturnType<typeof settingOf> => {
    const at = world.places.structures + DEVICE_TABLE + 0x20 * deviceTable.DTE_BYTES
    return settingOf(newer, new Map(wordsAt(at, [3n, word1, 0n, 0n])))
  }

  test("is an event of a device whose entry says that there is to be none", () => {
    const [, sa] = deviceTable.DTE.encode({ SA: 1n })
    const [, se] = deviceTable.DTE.encode({ SE: 1n })
    for (const word1 of [sa, se]) {
      expect(explainAccess("amd", dispute, withEntry(word1))).toEqual(["amd-suppression"])
    }
  })

  test("is no event of another device", () => {
    expect(explainAccess("amd", dispute, withEntry(5n))).toBeNull()
  })
})

describe("vtd-first-stage-width", () => {
  /** SGN.1 of requester 20h, F set. */
  const record = (address: bigint): readonly bigint[] => [
    BigInt.asUintN(64, address),
    (1n << 63n) | (0x80n << 32n) | 0x20n,
  ]
  const withWidth = (AW: bigint): ReturnType<typeof settingOf> => {
    const entry = pasidTable.PASID_ENTRY.encode({ P: 1n, PGTT: 1n, AW })
    return settingOf(world, new Map(wordsAt(world.places.structures + PASID_TABLE, entry)))
  }
  const explained = (address: bigint, AW: bigint): readonly string[] | null =>
    explainAccess("vtd", disputeOf(null, { theirRecord: record(address) }), withWidth(AW))

  test("is an address that the width of AW does not have", () => {
    expect(explained(1n << 38n, 1n)).toEqual(["vtd-first-stage-width"])
    expect(explained(1n << 47n, 2n)).toEqual(["vtd-first-stage-width"])
    // QEMU is set up for no more than 48 bits.
    expect(explained(1n << 50n, 3n)).toEqual(["vtd-first-stage-width"])
  })

  test("is no address that is canonical in that width", () => {
    expect(explained(1n << 37n, 1n)).toBeNull()
    expect(explained(1n << 38n, 2n)).toBeNull()
    expect(explained(-0x1000n, 1n)).toBeNull()
  })

  test("is no other reason, and no access that passes", () => {
    const other = [1n << 38n, (1n << 63n) | (0x81n << 32n) | 0x20n]
    expect(explainAccess("vtd", disputeOf(null, { theirRecord: other }), withWidth(1n))).toBeNull()
    const passed = disputeOf(null, { theirRecord: record(1n << 38n), theyRefused: false })
    expect(explainAccess("vtd", passed, withWidth(1n))).toBeNull()
  })
})

test("a release that nobody looked at may have any slip", () => {
  const bare = disputeOf(faultOf("IO_PAGE_FAULT", { access: ACCESS_WRITE }))
  expect(explainAccess("amd", bare, settingOf(worldOf("x86_64", "9.2")))).toEqual(["amd-silent"])
})
