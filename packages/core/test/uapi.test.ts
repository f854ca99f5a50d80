import { execFileSync } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import {
  AMD_GUEST_INVALIDATE,
  HW_INFO_AMD,
  HW_INFO_ARM_SMMUV3,
  HW_INFO_VTD,
  HW_INFO_VTD_ERRATA_772415_SPR17,
  HWPT_AMD_GUEST,
  HWPT_ARM_SMMUV3,
  HWPT_PAGING,
  HWPT_VTD_S1,
  HWPT_VTD_S1_INVALIDATE,
  HwInfoType,
  HwptDataType,
  HwptInvalidateDataType,
  PAGING_DIRTY_TRACKING,
  PAGING_NEST_PARENT,
  PAGING_PASID,
  VIOMMU_ARM_SMMUV3_INVALIDATE,
  VTD_INV_FLAGS_LEAF,
  VTD_S1_EAFE,
  VTD_S1_SRE,
  VTD_S1_WPE,
} from "@iommu/core"
import { afterAll, describe, expect, it } from "vitest"
import { compiler } from "./c-compiler.ts"

const LAYOUTS = [
  HWPT_VTD_S1,
  HWPT_ARM_SMMUV3,
  HWPT_AMD_GUEST,
  HWPT_VTD_S1_INVALIDATE,
  VIOMMU_ARM_SMMUV3_INVALIDATE,
  HW_INFO_VTD,
  HW_INFO_ARM_SMMUV3,
  HW_INFO_AMD,
]

const CONSTANTS: Record<string, number | bigint> = {
  IOMMU_HWPT_DATA_NONE: HwptDataType.NONE,
  IOMMU_HWPT_DATA_VTD_S1: HwptDataType.VTD_S1,
  IOMMU_HWPT_DATA_ARM_SMMUV3: HwptDataType.ARM_SMMUV3,
  IOMMU_HWPT_DATA_AMD_GUEST: HwptDataType.AMD_GUEST,
  IOMMU_HWPT_INVALIDATE_DATA_VTD_S1: HwptInvalidateDataType.VTD_S1,
  IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3: HwptInvalidateDataType.ARM_SMMUV3,
  IOMMU_HW_INFO_TYPE_NONE: HwInfoType.NONE,
  IOMMU_HW_INFO_TYPE_INTEL_VTD: HwInfoType.INTEL_VTD,
  IOMMU_HW_INFO_TYPE_ARM_SMMUV3: HwInfoType.ARM_SMMUV3,
  IOMMU_HW_INFO_TYPE_AMD: HwInfoType.AMD,
  IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17: HW_INFO_VTD_ERRATA_772415_SPR17,
  IOMMU_VTD_S1_SRE: VTD_S1_SRE,
  IOMMU_VTD_S1_EAFE: VTD_S1_EAFE,
  IOMMU_VTD_S1_WPE: VTD_S1_WPE,
  IOMMU_VTD_INV_FLAGS_LEAF: VTD_INV_FLAGS_LEAF,
  IOMMU_HWPT_ALLOC_NEST_PARENT: PAGING_NEST_PARENT,
  IOMMU_HWPT_ALLOC_DIRTY_TRACKING: PAGING_DIRTY_TRACKING,
  IOMMU_HWPT_ALLOC_PASID: PAGING_PASID,
}

const headers = [join(import.meta.dirname, "../../../.cache/linux-headers/usr/include"), "/usr/include"].find(
  hasAmd,
)
if (headers === undefined) {
  console.warn(
    "skipped: no linux/iommufd.h with AMD's structs (Linux 7.0 and later); " +
      "tooling/debian/fetch-package.sh trixie-backports linux-libc-dev .cache/linux-headers gets it",
  )
}

const folder = mkdtempSync(join(tmpdir(), "iommu-uapi-"))
afterAll(() => rmSync(folder, { recursive: true }))

describe("uAPI structs", () => {
  it.skipIf(compiler === null || headers === undefined)("lie in memory as Linux's header says", () => {
    expect(measure(headers as string)).toEqual(ours())
  })

  it("cover their bytes without gaps and round-trip", () => {
    for (const layout of [...LAYOUTS, HWPT_PAGING, AMD_GUEST_INVALIDATE]) {
      const bytes = Uint8Array.from({ length: layout.size }, (_, i) => i + 1)
      expect(encodeDecoded(layout, bytes), layout.name).toEqual(bytes)
      expect(() => layout.decode(bytes.subarray(1)), layout.name).toThrow(/EINVAL/)
    }
  })

  it("refuse values that do not fit: EINVAL", () => {
    const right = { flags: 0n, pgtblAddr: 0n, addrWidth: 48, __reserved: 0 }
    expect(() => HWPT_VTD_S1.encode({ ...right, addrWidth: 2 ** 32 })).toThrow(
      /EINVAL: iommu_hwpt_vtd_s1.addrWidth/,
    )
    expect(() => HWPT_VTD_S1.encode({ ...right, pgtblAddr: 1n << 64n })).toThrow(/EINVAL/)
    expect(() => HWPT_VTD_S1.encode({ ...right, flags: -1n })).toThrow(/EINVAL/)
  })
})

function encodeDecoded(
  layout: { decode(bytes: Uint8Array): object; encode(value: never): Uint8Array },
  bytes: Uint8Array,
) {
  return layout.encode(layout.decode(bytes) as never)
}

function hasAmd(folder: string): boolean {
  const header = join(folder, "linux/iommufd.h")
  return existsSync(header) && readFileSync(header, "utf8").includes("iommu_hwpt_amd_guest")
}

/** Sizes, offsets and constants as this package has them, under C's names. */
function ours(): Record<string, number> {
  const facts: [string, number][] = Object.entries(CONSTANTS).map(([name, value]) => [name, Number(value)])
  for (const { name, size, members } of LAYOUTS) {
    facts.push([`sizeof ${name}`, size])
    for (const [member, [, offset]] of Object.entries(members))
      facts.push([`${name}.${snake(member)}`, offset])
  }
  return Object.fromEntries(facts)
}

/** The same facts from the C compiler. */
function measure(include: string): Record<string, number> {
  const lines = Object.keys(CONSTANTS).map(name => `FACT("${name}", ${name})`)
  for (const { name, members } of LAYOUTS) {
    lines.push(`FACT("sizeof ${name}", sizeof(struct ${name}))`)
    for (const member of Object.keys(members).map(snake)) {
      lines.push(`FACT("${name}.${member}", offsetof(struct ${name}, ${member}))`)
    }
  }
  const source = `#include <stddef.h>
#include <stdio.h>
#include <linux/iommufd.h>
#define FACT(name, value) printf("%s=%lld\\n", name, (long long)(value));
int main(void) { ${lines.join("\n")} return 0; }
`
  const program = join(folder, "facts")
  execFileSync(compiler as string, ["-I", include, "-x", "c", "-o", program, "-"], { input: source })
  const text = execFileSync(program, { encoding: "utf8" })
  return Object.fromEntries(text.trim().split("\n").map(parseFact))
}

function parseFact(line: string): [string, number] {
  const at = line.lastIndexOf("=")
  return [line.slice(0, at), Number(line.slice(at + 1))]
}

function snake(name: string): string {
  return name.startsWith("__") ? name : name.replace(/[A-Z]/g, letter => `_${letter.toLowerCase()}`)
}
