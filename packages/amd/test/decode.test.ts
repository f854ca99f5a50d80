/**
 * Event log entries decoded, and the lines that Linux prints for them. Entries: AMD 48882 §2.5, typed from its figures;
 * lines: logs that people published, and captures of Linux 6.1.
 */
import type { LinuxContext } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { amdDecoder } from "../src/index.ts"
import { EVENTS } from "./vectors/events.ts"

const RELEASES = ["6.1", "6.12", "6.18", "7.2"] as const
const context = (device: string | null = null): LinuxContext => ({
  release: "6.12",
  segment: 0,
  iommu: null,
  device,
})

/** Words, the device as the kernel knows it, and the line of a log. */
const PUBLISHED = [
  {
    from: "github.com/Dasharo/dasharo-issues/issues/1134",
    words: [0x2070_000d_0000_0100n, 0xcff4_9550n],
    device: "ath10k_pci 0000:01:00.0",
    line: "ath10k_pci 0000:01:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000d address=0xcff49550 flags=0x0070]",
  },
  {
    from: "github.com/ggml-org/llama.cpp/issues/21908",
    words: [0x2020_001c_0000_8100n, 0x2be_e031_4000n],
    device: "nvidia 0000:81:00.0",
    line: "nvidia 0000:81:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x001c address=0x2bee0314000 flags=0x0020]",
  },
  {
    from: "github.com/pop-os/pop/issues/853",
    words: [0x2000_0000_0000_0100n, 0xfc18_9000n],
    device: "nvme 0000:01:00.0",
    line: "nvme 0000:01:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0000 address=0xfc189000 flags=0x0000]",
  },
  {
    from: "capture amd-v1, Linux 6.1",
    words: [0x200a_0000_0000_0030n, 0n],
    device: "vfio-pci 0000:00:06.0",
    line: "vfio-pci 0000:00:06.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0000 address=0x0 flags=0x000a]",
  },
]

describe("event log entries in values", () => {
  it("a write without permission", () => {
    expect(amdDecoder.decode([0x2070_0012_0000_0500n, 0xff61_01b0n])).toMatchObject({
      kind: "page fault",
      name: "IO_PAGE_FAULT",
      device: 0x500,
      domain: 0x12,
      pasid: null,
      guest: false,
      access: "write",
      present: true,
      permission: true,
      reservedBit: false,
      interrupt: false,
      address: 0xff61_01b0n,
    })
  })

  it("a fault of guest tables has a PASID in the domain's place", () => {
    expect(amdDecoder.decode([0x2007_bcde_000a_1234n, 0xffff_8000_0000_0000n])).toMatchObject({
      guest: true,
      domain: null,
      pasid: 0xabcde,
      execute: true,
      user: true,
    })
  })

  it.each(EVENTS.filter(({ name }) => name !== "PAGE_SERVICE_REQUEST"))(
    "$name has its name",
    ({ name, words }) => {
      expect(amdDecoder.decode(words).name).toBe(name)
    },
  )

  it.each([
    [
      [0x3200_0000_0000_ffffn, 0xf_ffff_ffe0n],
      { device: 0xffff, type: "master abort", address: 0xf_ffff_ffe0n },
    ],
    [[0x5000_0000_0000_0000n, 0x1_401f_e6e0n], { device: null, address: 0x1_401f_e6e0n }],
    [[0x8a00_0000_0000_0010n, 0xfee0_0000n], { device: 0x10, type: 5, translationRequest: false }],
    [[0xa000_0000_0000_0000n, 3n], { kind: "other", name: "EVENT_COUNTER_ZERO", device: null }],
    [[0xf000_0000_0000_0010n, 3n], { kind: "other", name: "event 15" }],
  ])("%s", (words, expected) => {
    expect(amdDecoder.decode(words)).toMatchObject(expected)
  })

  it("a page request that was refused is the request", () => {
    expect(amdDecoder.decode([0x9164_2b55_bcde_0142n, 0x7fff_1234_5678n])).toMatchObject({
      kind: "invalid page request",
      pasid: 0xabcde,
      request: { device: 0x142, group: 0x155, read: true, write: true, execute: false, last: true },
    })
  })
})

describe("Linux's lines", () => {
  it.each(PUBLISHED)("$from", ({ words, device, line }) => {
    for (const release of RELEASES) {
      expect(amdDecoder.linuxLines(amdDecoder.decode(words), { ...context(device), release })).toEqual([line])
    }
  })

  it("name the device in the line where the kernel knows none", () => {
    const words = [0x2070_0012_0000_0500n, 0xff61_01b0n]
    expect(amdDecoder.linuxLines(amdDecoder.decode(words), { ...context(), segment: 1 })).toEqual([
      "AMD-Vi: Event logged [IO_PAGE_FAULT device=0001:05:00.0 domain=0x0012 address=0xff6101b0 flags=0x0070]",
    ])
  })

  it.each([
    // Formats of iommu_print_event, Linux 6.12. Flags as in github.com/pcengines/apu2-documentation/issues/240.
    [
      [0x8a00_0000_0000_0001n, 0xfd_f800_0020n],
      "INVALID_DEVICE_REQUEST device=0000:00:00.1 pasid=0x00000 address=0xfdf8000020 flags=0x0a00]",
    ],
    [
      [0x10a0_0000_0000_0030n, 0x1000n],
      "ILLEGAL_DEV_TABLE_ENTRY device=0000:00:06.0 pasid=0x00000 address=0x1000 flags=0x00a0]",
    ],
    [
      [0x9164_2b55_bcde_0142n, 0x7fff_1234_5678n],
      "INVALID_PPR_REQUEST device=0000:01:08.2 pasid=0xabcde address=0x7fff12345678 flags=0x0164 tag=0x355]",
    ],
    [
      [0x4420_0007_0000_0001n, 0x8_0000_0ff8n],
      "PAGE_TAB_HARDWARE_ERROR device=0000:00:00.1 pasid=0x0007 address=0x800000ff8 flags=0x0420]",
    ],
    [[0x5000_0000_0000_0000n, 0x1_401f_e6e0n], "ILLEGAL_COMMAND_ERROR address=0x1401fe6e0]"],
    [[0x7000_0000_0000_0042n, 0x2010n], "IOTLB_INV_TIMEOUT device=0000:00:08.2 address=0x2010]"],
    // Linux forgets the bracket.
    [
      [0xf123_4567_89ab_cdefn, 0x1n],
      "UNKNOWN event[0]=0x89abcdef event[1]=0xf1234567 event[2]=0x00000001 event[3]=0x00000000",
    ],
  ])("of other events begin with the IOMMU: %s", (words, line) => {
    expect(amdDecoder.linuxLines(amdDecoder.decode(words), context("nvme 0000:00:03.0"))).toEqual([
      `iommu ivhd0: AMD-Vi: Event logged [${line}`,
    ])
  })

  it("of memory that belongs to somebody else (amd_iommu_report_rmp_fault, Linux 6.12)", () => {
    const record = amdDecoder.decode([0xd020_0007_0003_0100n, 0x1234_5000n])
    expect(amdDecoder.linuxLines(record, context("nvme 0000:01:00.0"))).toEqual([
      "nvme 0000:01:00.0: AMD-Vi: Event logged [RMP_PAGE_FAULT vmg_tag=0x0007, gpa=0x12345000, flags_rmp=0x0003, flags=0x0020]",
    ])
  })
})

describe("a kernel's log", () => {
  it.each(PUBLISHED)("gives the entry back: $from", ({ words, device, line }) => {
    expect(amdDecoder.readLinuxLog([`kernel: [   40.182570] ${line}`])).toEqual([
      { words, untold: [], segment: 0, iommu: null, device, line: 0 },
    ])
  })

  it("broken after the bracket, and without segment (github.com/pcengines/apu2-documentation/issues/240)", () => {
    const lines = [
      "kernel: [   13.134460] AMD-Vi: Event logged [",
      "kernel: [   13.137925] INVALID_DEVICE_REQUEST device=00:00.1 address=0x000000fdf8000020 flags=0x0a00]",
      "kernel: [  221.562629] AMD-Vi: Event logged [",
      "kernel: [  221.565929] IO_PAGE_FAULT device=05:00.0 domain=0x0012 address=0x00000000ff6101b0 flags=0x0070]",
    ]
    expect(amdDecoder.readLinuxLog(lines)).toEqual([
      {
        words: [0x8a00_0000_0000_0001n, 0xfd_f800_0020n],
        untold: ["PASID"],
        segment: 0,
        iommu: null,
        device: null,
        line: 1,
      },
      {
        words: [0x2070_0012_0000_0500n, 0xff61_01b0n],
        untold: [],
        segment: 0,
        iommu: null,
        device: null,
        line: 3,
      },
    ])
  })

  it.each([
    "AMD-Vi: Event logged [IO_PAGE_FAULT device=05:00.9 domain=0x0012 address=0x1 flags=0x0070]",
    "AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0012 address=0x1 flags=0x0070]",
    "AMD-Vi: Event logged [IO_PAGE_FAULT device=05:00.0 domain=0x0012 flags=0x0070]",
    "AMD-Vi: Event logged [IO_PAGE_FAULT device=05:00.0 domain=0x10012 address=0x1 flags=0x0070]",
    "AMD-Vi: Event logged [IO_PAGE_FAULT device=05:00.0 domain=0x0012 address=0x1 flags=0x1070]",
    "amd_iommu_report_page_fault: 96 callbacks suppressed",
    "AMD-Vi: Completion-Wait loop timed out",
  ])("has lines that are no entry: %s", line => {
    expect(amdDecoder.readLinuxLog([line])).toEqual([])
  })
})

describe("explanations", () => {
  it("are the README's", () => {
    expect(amdDecoder.explain(amdDecoder.decode([0x2070_000d_0000_0100n, 0xcff4_9550n]))).toMatchObject({
      happened:
        "A write by device 01:00.0 at 0xcff49550 was refused: the page is there, the permission is not.",
      section: "AMD 48882 §2.5.3",
    })
  })
})

describe("whatever the words are", () => {
  const anything = fc.bigInt(0n, (1n << 64n) - 1n)
  const words = fc.oneof(
    fc.tuple(anything, anything),
    fc.array(fc.bigInt(-(1n << 70n), 1n << 70n), { maxLength: 3 }),
  )

  it("they are explained, and Linux's lines read back are the same lines", () => {
    fc.assert(
      fc.property(words, fc.boolean(), (given, isKnown) => {
        const record = amdDecoder.decode(given)
        const { happened, where, causes, section } = amdDecoder.explain(record)
        expect(`${happened}${where}${section}${causes.join()}`).not.toMatch(/undefined|null|NaN/)
        const id = Number(BigInt.asUintN(16, given[0] ?? 0n))
        const name = `0000:${(id >> 8).toString(16).padStart(2, "0")}:${((id >> 3) & 31).toString(16).padStart(2, "0")}.${id & 7}`
        const names = context(isKnown ? `nvme ${name}` : null)
        const lines = amdDecoder.linuxLines(record, names)
        if (record.code === 0) {
          expect(lines).toEqual(["AMD-Vi: No event written to event log"])
          return
        }
        const [read] = amdDecoder.readLinuxLog(lines)
        expect(amdDecoder.linuxLines(amdDecoder.decode(read?.words ?? []), names)).toEqual(lines)
      }),
      { seed: 20263, numRuns: 3000 },
    )
  })

  it("a line cut, doubled or broken gives an entry that can be decoded, or none", () => {
    const line = fc.constantFrom(...PUBLISHED.map(({ line }) => line))
    const place = fc.nat(130)
    fc.assert(
      fc.property(line, place, place, fc.string({ maxLength: 8 }), (text, from, to, noise) => {
        const broken = [`${text.slice(0, from)}${noise}${text.slice(to)}`, text.slice(from), text.slice(to)]
        for (const { words } of amdDecoder.readLinuxLog(broken)) {
          expect(amdDecoder.decode(words).name).not.toMatch(/^event/)
          for (const word of words) expect(BigInt.asUintN(64, word)).toBe(word)
        }
      }),
      { seed: 20264, numRuns: 2000 },
    )
  })
})

describe("page requests", () => {
  it("are those of the log; other codes are none", () => {
    const [, request] = [...EVENTS].reverse()
    expect(request?.name).toBe("INVALID_PPR_REQUEST")
    expect(amdDecoder.decodePageRequest(request?.words ?? [])).toBeNull()
    expect(amdDecoder.decodePageRequest([0x1124_0205_0002_0030n, 0x7000n])).toEqual({
      device: 0x30,
      pasid: 2,
      address: 0x7000n,
      read: true,
      write: true,
      execute: false,
      privileged: true,
      last: true,
      group: 5,
    })
  })
})
