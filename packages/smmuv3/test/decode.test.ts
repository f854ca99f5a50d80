/**
 * Event records decoded, and the lines that Linux prints for them. Records: captures of Linux 6.1, and logs that people
 * published; lines of 7.2: its `arm_smmu_dump_event`.
 */
import type { LinuxContext } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { smmuv3Decoder } from "../src/index.ts"

const IOMMU = "arm-smmu-v3 9050000.smmuv3"
const on = (release: LinuxContext["release"], device: string | null = null): LinuxContext => ({
  release,
  segment: 0,
  iommu: IOMMU,
  device,
})
const UNMAPPED = [0x0000_0040_0000_0010n, 0x0000_0208_0000_0000n, 0xdead_0000n, 0n]

describe("event records in values", () => {
  it("a read of an address that nobody mapped (capture smmuv3-s1-4k, Linux 6.1)", () => {
    expect(smmuv3Decoder.decode(UNMAPPED)).toMatchObject({
      kind: "translation",
      name: "F_TRANSLATION",
      device: 0x40,
      pasid: null,
      address: 0xdead_0000n,
      access: "read",
      stage: 1,
      class: "input address",
      stalled: null,
      ipa: null,
      privileged: false,
      instruction: false,
    })
  })

  it("a stream that the table does not have (the same capture)", () => {
    expect(smmuv3Decoder.decode([0x0000_0300_0000_0002n, 0n, 0n, 0n])).toMatchObject({
      kind: "configuration",
      name: "C_BAD_STREAMID",
      device: 0x300,
      address: null,
    })
  })

  it("a translated transaction that is not allowed (github.com/radxa-pkg/edk2-cix/issues/24)", () => {
    expect(smmuv3Decoder.decode([0x0000_0100_0000_0007n, 0n, 0n, 0n])).toMatchObject({
      kind: "refusal",
      name: "F_TRANSL_FORBIDDEN",
      device: 0x100,
      access: "write",
      address: 0n,
    })
  })

  it.each([
    // Bits of IHI 0070 G.b §7.3: SSV 11, SubstreamID 31:12, then from 64 on STAG, Stall 95, PnU 97, InD 98, RnW 99, S2
    // 103, CLASS 105:104, TTRnW 108.
    [
      "a stalled one with SubstreamID",
      [0x40_0001_2810n, 0x0000_0202_8000_0abcn, 0x1000n, 0n],
      { pasid: 0x12, stalled: 0xabc, privileged: true, access: "write" },
    ],
    [
      "stage 2 at a stage 1 table",
      [0x40_0000_0013n, 0x0000_1188_0000_0000n, 0x2000n, 0x0000_0000_8000_3000n],
      {
        name: "F_PERMISSION",
        stage: 2,
        class: "stage 1 table fetch",
        ipa: 0x8000_3000n,
        tableAccess: "read",
      },
    ],
    [
      "a CD that could not be read",
      [0x40_0000_0009n, 0n, 0n, 0x0000_0000_9000_0040n],
      { kind: "fetch", name: "F_CD_FETCH", fetchAddress: 0x9000_0040n },
    ],
    [
      "a SubstreamID that leads nowhere, SSV or not",
      [0x40_0000_5008n, 0n, 0n, 0n],
      { name: "C_BAD_SUBSTREAMID", pasid: 5 },
    ],
    [
      "a number of the implementation's own",
      [0x40_0000_00e1n, 0n, 0n, 0n],
      { kind: "other", name: "event 0xe1" },
    ],
  ])("%s", (_what, words, expected) => {
    expect(smmuv3Decoder.decode(words)).toMatchObject(expected)
  })
})

const RAW = [
  `${IOMMU}: event 0x10 received:`,
  `${IOMMU}: \t0x0000004000000010`,
  `${IOMMU}: \t0x0000020800000000`,
  `${IOMMU}: \t0x00000000dead0000`,
  `${IOMMU}: \t0x0000000000000000`,
]

describe("Linux's lines", () => {
  it("are what 7.3.4 printed in a boot on this model", () => {
    const words = [0x18_0000_0010n, 0x200_0000_0000n, 0x1234_5000n, 0n]
    const context = { ...on("7.2", "nvme 0000:00:03.0"), iommu: "arm-smmu-v3 3e000000.iommu" }
    expect(smmuv3Decoder.linuxLines(smmuv3Decoder.decode(words), context).slice(5)).toEqual([
      "arm-smmu-v3 3e000000.iommu: event: F_TRANSLATION client: 0000:00:03.0 sid: 0x18 ssid: 0x0 iova: 0x12345000 ipa: 0x0",
      'arm-smmu-v3 3e000000.iommu: unpriv data write s1 "Input address caused fault" stag: 0x0',
    ])
  })

  it.each(["6.1", "6.12"] as const)("are the words in %s (capture smmuv3-s1-4k)", release => {
    expect(smmuv3Decoder.linuxLines(smmuv3Decoder.decode(UNMAPPED), on(release))).toEqual(RAW)
  })

  it.each(["6.18", "7.2"] as const)("are the words and what they mean in %s", release => {
    const lines = smmuv3Decoder.linuxLines(smmuv3Decoder.decode(UNMAPPED), on(release, "nvme 0000:00:08.0"))
    expect(lines).toEqual([
      ...RAW,
      `${IOMMU}: event: F_TRANSLATION client: 0000:00:08.0 sid: 0x40 ssid: 0x0 iova: 0xdead0000 ipa: 0x0`,
      `${IOMMU}: unpriv data read s1 "Input address caused fault" stag: 0x0`,
    ])
  })

  it.each([
    [
      [0x40_0000_0013n, 0x0000_1188_0000_0000n, 0x2000n, 0x0000_0000_8000_3000n],
      [
        "event: F_PERMISSION client: (unassigned sid) sid: 0x40 ssid: 0x0 iova: 0x2000 ipa: 0x80003000",
        'unpriv data read s2 "Stage 1 translation table fetch" ttd_read stag: 0x0',
      ],
    ],
    [
      [0x40_0001_2810n, 0x0000_0202_8000_0abcn, 0x1000n, 0n],
      [
        "event: F_TRANSLATION client: (unassigned sid) sid: 0x40 ssid: 0x12 iova: 0x1000 ipa: 0x0",
        'priv data write s1 "Input address caused fault" stall stag: 0xabc',
      ],
    ],
    [
      [0x40_0000_0003n, 0n, 0n, 0x9000_0040n],
      ["event: F_STE_FETCH client: (unassigned sid) sid: 0x40 ssid: 0x0 fetch_addr: 0x90000040"],
    ],
    [[0x100_0000_0007n, 0n, 0n, 0n], ["event: UNKNOWN client: (unassigned sid) sid: 0x100 ssid: 0x0"]],
    [[0x300_0000_0002n, 0n, 0n, 0n], ["event: C_BAD_STREAMID client: (unassigned sid) sid: 0x300 ssid: 0x0"]],
  ])("of other events in 7.2: %s", (words, expected) => {
    const lines = smmuv3Decoder.linuxLines(smmuv3Decoder.decode(words), on("7.2"))
    expect(lines.slice(5)).toEqual(expected.map(line => `${IOMMU}: ${line}`))
  })
})

describe("a kernel's log", () => {
  it("gives records back, though lines of two SMMUs and of others are mixed", () => {
    const other = RAW.map(line =>
      line.replaceAll("9050000.smmuv3", "arm-smmu-v3.1.auto").replace("dead0000", "beef0000"),
    )
    const mixed = RAW.flatMap((line, n) => [
      `[   34.5490] ${line}`,
      "usb 1-1: new device",
      `[   34.5491] ${other[n]}`,
    ])
    expect(smmuv3Decoder.readLinuxLog(mixed)).toMatchObject([
      { words: UNMAPPED, untold: [], iommu: IOMMU, device: null, line: 0 },
      { words: UNMAPPED.with(2, 0xbeef_0000n), iommu: "arm-smmu-v3 arm-smmu-v3.1.auto", line: 2 },
    ])
  })

  it("as a vendor's kernel prints it, with blanks for the tab (github.com/radxa-pkg/edk2-cix/issues/24)", () => {
    const before = "[pid:134,cpu0,irq/13-arm-smmu]arm-smmu-v3 arm-smmu-v3.0.auto:"
    const lines = [
      `[    7.471032] ${before} event 0x07 received:`,
      `[    7.471040] ${before}    0x0000010000000007`,
      ...[43, 45, 47].map(n => `[    7.4710${n}] ${before}    0x0000000000000000`),
    ]
    expect(smmuv3Decoder.readLinuxLog(lines)).toMatchObject([{ words: [0x100_0000_0007n, 0n, 0n, 0n] }])
  })

  it("names the device since 7.2", () => {
    const client = `${IOMMU}: event: F_TRANSLATION client: 0000:00:08.0 sid: 0x40 ssid: 0x0 iova: 0xdead0000 ipa: 0x0`
    expect(smmuv3Decoder.readLinuxLog([...RAW, client])).toMatchObject([{ device: "0000:00:08.0" }])
  })

  it.each([
    ["cut short", RAW.slice(0, 4)],
    ["without its first line", RAW.slice(1)],
    ["another number than in the words", RAW.map(line => line.replace("event 0x10", "event 0x11"))],
  ])("has no record where it is %s", (_what, lines) => {
    expect(smmuv3Decoder.readLinuxLog(lines)).toEqual([])
  })
})

describe("explanations", () => {
  it("are the README's", () => {
    expect(smmuv3Decoder.explain(smmuv3Decoder.decode(UNMAPPED))).toMatchObject({
      happened: "A read at 0xdead0000 by StreamID 0x40 was terminated: no valid translation in stage 1.",
      section: "IHI 0070 G.b §7.3.13",
    })
  })
})

describe("whatever the words are", () => {
  const anything = fc.bigInt(0n, (1n << 64n) - 1n)
  /** Half of them are events that the book has. */
  const first = fc
    .tuple(anything, fc.nat(0x25), fc.boolean())
    .map(([word, event, isKnown]) => (isKnown ? (word & ~0xffn) | BigInt(event) : word))
  const words = fc.oneof(fc.tuple(first, anything, anything, anything), fc.array(anything, { maxLength: 3 }))

  it("they are explained, and Linux's lines read back are the same words", () => {
    fc.assert(
      fc.property(words, fc.constantFrom("6.1", "6.12", "6.18", "7.2"), (given, release) => {
        const record = smmuv3Decoder.decode(given)
        const { happened, where, causes, section } = smmuv3Decoder.explain(record)
        expect(`${happened}${where}${section}${causes.join()}`).not.toMatch(/undefined|null|NaN/)
        const lines = smmuv3Decoder.linuxLines(record, on(release as LinuxContext["release"]))
        expect(smmuv3Decoder.readLinuxLog(lines)).toMatchObject([
          { words: [0, 1, 2, 3].map(n => given[n] ?? 0n) },
        ])
      }),
      { seed: 20262, numRuns: 3000 },
    )
  })

  it("words beyond 64 bits, and below zero, do not get into a line", () => {
    const lines = smmuv3Decoder.linuxLines(smmuv3Decoder.decode([-1n, 1n << 64n, -(1n << 80n)]), on("7.2"))
    expect(lines.slice(1, 5).map(line => line.slice(-18))).toEqual([
      "0xffffffffffffffff",
      "0x0000000000000000",
      "0x0000000000000000",
      "0x0000000000000000",
    ])
  })
})

describe("page requests", () => {
  it("are those of the queue", () => {
    // §8: StreamID 31:0, SubstreamID 51:32, R 60, W 61, Last 62, SSV 63; PRGIndex 72:64, address from 76 on.
    expect(smmuv3Decoder.decodePageRequest([0xd000_0005_0000_0040n, 0x7007n])).toEqual({
      device: 0x40,
      pasid: 5,
      address: 0x7000n,
      read: true,
      write: false,
      execute: false,
      privileged: false,
      last: true,
      group: 7,
    })
  })
})
