/**
 * Fault records decoded, and the lines that Linux prints for them. Records: Intel VT-d 5.10 (D51397-018) §11.4.7.6,
 * typed from its figure; lines: logs that people published, and captures of Linux 6.1.
 */
import type { LinuxContext } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { vtdDecoder } from "../src/index.ts"

const on = (release: LinuxContext["release"]): LinuxContext => ({
  release,
  segment: 0,
  iommu: null,
  device: null,
})

/** Words and the line of a log, word for word. */
const PUBLISHED = [
  {
    from: "github.com/tenstorrent/tt-umd/issues/1814",
    words: [0x10_0000n, 0xc000_0071_0000_0300n],
    line: "DMAR: [DMA Read NO_PASID] Request device [03:00.0] fault addr 0x100000 [fault reason 0x71] SM: Present bit in first-level paging entry is clear",
  },
  {
    from: "github.com/intel/dsa-perf-micros/issues/3",
    words: [0x7fe0_c994_3000n, 0xc000_023a_8000_6a08n],
    line: "DMAR: [DMA Read PASID 0x2] Request device [6a:01.0] fault addr 0x7fe0c9943000 [fault reason 0x3a] SM: Non-zero reserved field set in Root Entry",
  },
  {
    from: "github.com/Dasharo/dasharo-issues/issues/641",
    words: [0x7cd8_0000n, 0xc000_0001_0000_0010n],
    line: "DMAR: [DMA Read NO_PASID] Request device [00:02.0] fault addr 0x7cd80000 [fault reason 0x01] Present bit in root entry is clear",
  },
  {
    from: "capture vtd-legacy-39, Linux 6.1",
    words: [0x1000n, 0x8000_0005_0000_0038n],
    line: "DMAR: [DMA Write NO_PASID] Request device [00:07.0] fault addr 0x1000 [fault reason 0x05] PTE Write access is not set",
  },
  {
    from: "capture vtd-scalable-first-48, Linux 6.1",
    words: [0x500_0000n, 0x8000_005b_0000_0030n],
    line: "DMAR: [DMA Write NO_PASID] Request device [00:06.0] fault addr 0x5000000 [fault reason 0x5b] SM: Invalid Scalable-Mode PASID Table Entry",
  },
]

describe("fault records in values", () => {
  it("as another system read its own hardware's (github.com/genodelabs/genode/issues/5066)", () => {
    // "Fault: hi=0xc0000006000000a0, reason=0x6, type=0x1, AT=0x0, EXE=0x0, PRIV=0x0, PP=0x0, Source=0xa0, info=0xcaffe"
    expect(vtdDecoder.decode([0xcaff_e000n, 0xc000_0006_0000_00a0n])).toMatchObject({
      kind: "dma",
      name: "LGN.3",
      reason: 6,
      access: "read",
      addressType: "untranslated",
      execute: false,
      privileged: false,
      pasid: null,
      device: 0xa0,
      address: 0xcaff_e000n,
      pending: true,
    })
  })

  it.each([
    [0x0000_0000_0000_0000n, "write"],
    [0x1000_0000n, "page request"],
    [0x4000_0000_0000_0000n, "read"],
    [0x4000_0000_1000_0000n, "atomic"],
  ])("T1 and T2 in %s are an access: %s", (word1, access) => {
    expect(vtdDecoder.decode([0n, word1 | (5n << 32n)])).toMatchObject({ access })
  })

  it("EXE and PRIV say something in requests with PASID alone", () => {
    const flags = 0x6000_0000n
    expect(vtdDecoder.decode([0n, flags])).toMatchObject({ execute: false, privileged: false, pasid: null })
    expect(vtdDecoder.decode([0n, flags | 0x8000_0000n | (0xabcden << 40n)])).toMatchObject({
      execute: true,
      privileged: true,
      pasid: 0xabcde,
    })
  })

  it("of a remapped interrupt hold its index in bits 63:48", () => {
    expect(vtdDecoder.decode([0x0123_ffff_ffff_f000n, 0x8000_0022_0000_f0f8n])).toMatchObject({
      kind: "interrupt",
      name: "22h",
      index: 0x123,
      device: 0xf0f8,
      address: null,
      access: null,
    })
  })
})

describe("Linux's lines", () => {
  it.each(PUBLISHED)("$from", ({ words, line }) => {
    const record = vtdDecoder.decode(words)
    expect(vtdDecoder.linuxLines(record, on("6.1"))).toEqual([line])
    expect(vtdDecoder.linuxLines(record, on("6.12"))).toEqual([line])
    expect(vtdDecoder.linuxLines(record, on("6.18"))).toEqual([line])
  })

  it("have the segment since 7.2", () => {
    const record = vtdDecoder.decode([0x10_0000n, 0xc000_0071_0000_0300n])
    expect(vtdDecoder.linuxLines(record, { ...on("7.2"), segment: 2 })).toEqual([
      "DMAR: [DMA Read NO_PASID] Request device [0002:03:00.0] fault addr 0x100000 [fault reason 0x71] SM: Present bit in first-level paging entry is clear",
    ])
  })

  it("of interrupts, and of reasons that Linux does not know (dmar_fault_do_one, Linux 6.12)", () => {
    const interrupt = vtdDecoder.decode([0x0019_0000_0000_0000n, 0x8000_0025_0000_f0f8n])
    expect(vtdDecoder.linuxLines(interrupt, on("6.12"))).toEqual([
      "DMAR: [INTR-REMAP] Request device [f0:1f.0] fault index 0x19 [fault reason 0x25] Blocked a compatibility format interrupt request",
    ])
    const unknown = vtdDecoder.decode([0x1000n, 0x8000_00ff_0000_0010n])
    expect(vtdDecoder.linuxLines(unknown, on("6.12"))).toEqual([
      "DMAR: [DMA Write NO_PASID] Request device [00:02.0] fault addr 0x1000 [fault reason 0xff] Unknown",
    ])
  })
})

describe("a kernel's log", () => {
  it.each(PUBLISHED)("gives the record back: $from", ({ words, line }) => {
    const lines = ["[    1.0] DMAR: DRHD: handling fault status reg 2", `[  232.023974] ${line}`]
    expect(vtdDecoder.readLinuxLog(lines)).toEqual([
      { words, untold: ["T2", "PRIV", "EXE", "AT"], segment: 0, iommu: null, device: null, line: 1 },
    ])
  })

  it.each([
    [
      "github.com/opencomputeproject/OpenNetworkLinux/pull/897",
      [
        "[10672.868940] DMAR: [DMA Write] Request device [00:12.0] fault addr 0 [fault reason 05] PTE Write access is not set",
      ],
      [0n, 0x8000_0005_0000_0090n],
      6,
    ],
    [
      "github.com/patmagauran/i915ovmfPkg/issues/23",
      [
        "[  144.480641] DMAR: [DMA Read] Request device [00:02.0] PASID ffffffff fault addr 9c000000 [fault reason 06] PTE Read access is not set",
      ],
      [0x9c00_0000n, 0xc000_0006_0000_0010n],
      4,
    ],
    [
      "github.com/thesofproject/sof-test/issues/744",
      [
        "[    0.938401] kernel: DMAR: [DMA Read NO_PASID] Request device [0x00:0x02.0] fault addr 0x70ad5000 [fault reason 0x07] Next page table ptr is invalid",
      ],
      [0x70ad_5000n, 0xc000_0007_0000_0010n],
      4,
    ],
    [
      "two lines, the form of github.com/tbennun/mgbench/issues/8",
      [
        "DMAR: [DMA Write] Request Device [02:00.0] fault addr ffff0000 ",
        "DMAR: [fault reason 05] PTE Write access is not set",
      ],
      [0xffff_0000n, 0x8000_0005_0000_0200n],
      6,
    ],
    [
      "reasons beyond 9 are decimal before 5.13",
      [
        "DMAR: [DMA Read] Request device [00:02.0] PASID 2 fault addr 1000 [fault reason 12] non-zero reserved fields in PTE",
      ],
      [0x1000n, 0xc000_020c_8000_0010n],
      4,
    ],
  ])("in older forms: %s", (_from, lines, words, untold) => {
    const [record, ...others] = vtdDecoder.readLinuxLog(lines)
    expect(others).toEqual([])
    expect(record?.words).toEqual(words)
    expect(record?.untold).toHaveLength(untold)
  })

  it.each([
    "DMAR: [DMA Read NO_PASID] Request device [00:42.9] fault addr 0x1000 [fault reason 0x06] x",
    "DMAR: [DMA Read NO_PASID] Request device [00:02.0] fault addr 0x10000000000000000 [fault reason 0x06] x",
    "DMAR: [DMA Read NO_PASID] Request device [00:02.0] fault addr 0x1000",
    "DMAR: [INTR-REMAP] Request device [00:02.0] fault index 0x1 [fault reason 0x06] x",
    "DMAR: DRHD: handling fault status reg 3",
    "",
  ])("has lines that are no record: %s", line => {
    expect(vtdDecoder.readLinuxLog([line])).toEqual([])
  })
})

describe("explanations", () => {
  it("are the README's", () => {
    expect(vtdDecoder.explain(vtdDecoder.decode([0x7fe0_c994_3000n, 0xc000_023a_8000_6a08n]))).toMatchObject({
      happened:
        "A read by device 6a:01.0 at page 0x7fe0c9943000, PASID 0x2 was refused: a reserved bit is set in the scalable-mode root entry.",
      section: "VT-d 5.10 §7.1.3, Table 30; §9.2",
    })
  })
})

describe("whatever the words are", () => {
  const word = fc.oneof(fc.bigInt(0n, (1n << 64n) - 1n), fc.bigInt(-(1n << 70n), 1n << 70n))
  const words = fc.oneof(fc.tuple(word, word), fc.array(word, { maxLength: 5 }))

  it("they are explained, and Linux's lines read back are the same lines", () => {
    fc.assert(
      fc.property(words, fc.constantFrom("6.1", "6.12", "6.18", "7.2"), (given, release) => {
        const record = vtdDecoder.decode(given)
        const { happened, where, causes, section } = vtdDecoder.explain(record)
        expect(`${happened}${where}${section}${causes.join()}`).not.toMatch(/undefined|null|NaN/)
        const lines = vtdDecoder.linuxLines(record, on(release as LinuxContext["release"]))
        const [read] = vtdDecoder.readLinuxLog(lines)
        const again = vtdDecoder.decode(read?.words ?? [])
        expect(vtdDecoder.linuxLines(again, on(release as LinuxContext["release"]))).toEqual(lines)
      }),
      { seed: 20260, numRuns: 3000 },
    )
  })

  it("a line cut, doubled or broken gives a record that can be decoded, or none", () => {
    const line = fc.constantFrom(...PUBLISHED.map(({ line }) => line))
    const place = fc.nat(160)
    fc.assert(
      fc.property(line, place, place, fc.string({ maxLength: 8 }), (text, from, to, noise) => {
        const broken = [`${text.slice(0, from)}${noise}${text.slice(to)}`, text.slice(from), text.slice(to)]
        for (const { words } of vtdDecoder.readLinuxLog(broken)) {
          expect(vtdDecoder.decode(words).words).toHaveLength(2)
          for (const word of words) expect(BigInt.asUintN(64, word)).toBe(word)
        }
      }),
      { seed: 20261, numRuns: 2000 },
    )
  })
})

describe("page requests", () => {
  it("are those of the queue; other types are none", () => {
    // Type 1, PP, RID 0310h, PASID 2; address 7000h, group 5, last, write.
    const words = [0x0000_0002_0310_0101n, 0x0000_0000_0000_702en, 0n, 0n]
    expect(vtdDecoder.decodePageRequest(words)).toEqual({
      device: 0x310,
      pasid: 2,
      address: 0x7000n,
      read: false,
      write: true,
      execute: false,
      privileged: false,
      last: true,
      group: 5,
    })
    expect(vtdDecoder.decodePageRequest([0n])).toBeNull()
  })
})
