/** Records of these models and the lines that Debian's kernels printed of them in boots, and lines that differ. */
import type { DecodedRecord, Fault, FaultDecoder } from "@iommu/core"
import { describe, expect, it } from "vitest"
import { PLATFORMS } from "../../src/boot/platforms.ts"
import { compareTexts, releasesOf } from "../../src/boot/watch/fault-texts.ts"

const names = (iommu: string | null) => ({ iommu, devices: new Map([[0x18, "nvme 0000:00:03.0"]]) })

function faultOf(decoder: FaultDecoder<DecodedRecord>, record: readonly bigint[]): Fault {
  const { name: reason, address } = decoder.decode(record)
  return {
    reason,
    code: 0,
    device: 0x18,
    pasid: null,
    address: address ?? 0n,
    access: 2,
    stage: 2,
    record,
    detail: "",
  }
}

const BOOTS = [
  {
    vendor: "vtd",
    version: "6.12.48-cloud-amd64",
    words: [0x1234_5000n, 0x8000_0005_0000_0018n],
    lines: [
      "DMAR: [DMA Write NO_PASID] Request device [00:03.0] fault addr 0x12345000 [fault reason 0x05] PTE Write access is not set",
    ],
  },
  {
    vendor: "amd",
    version: "6.1.0-50-amd64",
    words: [0x2020_0001_0000_0018n, 0x1234_5000n],
    lines: [
      "nvme 0000:00:03.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0001 address=0x12345000 flags=0x0020]",
    ],
  },
  {
    vendor: "smmuv3",
    version: "6.1.0-50-cloud-arm64",
    words: [0x18_0000_0010n, 0x208_0000_0000n, 0x2_3456_7000n, 0n],
    lines: [
      "arm-smmu-v3 3e000000.iommu: event 0x10 received:",
      "arm-smmu-v3 3e000000.iommu: \t0x0000001800000010",
      "arm-smmu-v3 3e000000.iommu: \t0x0000020800000000",
      "arm-smmu-v3 3e000000.iommu: \t0x0000000234567000",
      "arm-smmu-v3 3e000000.iommu: \t0x0000000000000000",
    ],
  },
]

describe.each(BOOTS)("what Linux prints on $vendor", ({ vendor, version, words, lines }) => {
  const platform = PLATFORMS[vendor]
  if (platform === undefined) throw new Error(`no ${vendor}`)
  const { decoder, iommuName } = platform
  const fault = faultOf(decoder, words)
  const compare = (faults: readonly Fault[], kernelLines: readonly string[]) =>
    compareTexts(faults, kernelLines, decoder, releasesOf(version), names(iommuName))

  it("is the text of the record, whatever stands between its lines", () => {
    const between = lines.flatMap(line => ["random: crng init done", line])
    const { faults, unexplained } = compare([fault], between)
    expect(faults).toEqual([{ fault, text: lines, isTold: true }])
    expect(unexplained).toEqual([])
  })

  it("belongs to one fault only", () => {
    const { faults } = compare([fault, fault], lines)
    expect(faults.map(({ isTold }) => isTold)).toEqual([true, false])
    expect(compare([fault, fault], [...lines, ...lines]).faults.map(({ isTold }) => isTold)).toEqual([
      true,
      true,
    ])
  })

  it("differs in one character: neither told, nor explained", () => {
    const changed = lines.map(line => line.replace(/(.*)5/, "$16"))
    const { faults, unexplained } = compare([fault], changed)
    expect(faults[0]?.isTold).toBe(false)
    expect(faults[0]?.text).toEqual(lines)
    expect(unexplained).toHaveLength(1)
  })

  it("is missing, or came without a record", () => {
    expect(compare([fault], []).faults[0]?.isTold).toBe(false)
    expect(compare([{ ...fault, record: null }], lines)).toMatchObject({
      faults: [{ text: [], isTold: false }],
      unexplained: [lines[0]],
    })
  })
})

describe("a kernel's release", () => {
  it.each([
    ["6.1.0-50-cloud-amd64", ["6.1"]],
    ["6.12.48+deb13-cloud-arm64", ["6.12"]],
    ["6.16.3+deb13-cloud-arm64", ["6.18"]],
    ["6.14", ["7.2", "6.18", "6.12", "6.1"]],
    ["", ["7.2", "6.18", "6.12", "6.1"]],
  ])("%s may print as in %s", (version, releases) => {
    expect(releasesOf(version)).toEqual(releases)
  })
})
