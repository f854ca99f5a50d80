/** What a kernel prints and turns on, against a model's registers. Lines are those of real machines. */
import { amdModel, ZEN } from "@iommu/amd"
import { createMemory } from "@iommu/core"
import { describe, expect, it } from "vitest"
import { amd } from "../../src/boot/platforms/amd.ts"
import {
  AMD_FEATURES,
  misreadRegisters,
  switchProblems,
  switchStates,
  VTD_CAPABILITIES,
} from "../../src/boot/watch/features.ts"
import type { TranscriptEntry } from "../../src/boot/watch/transcript.ts"

const EPH_SUP = 1n << 50n
const EPH_EN = 1n << 45n
const { specs } = amd.registers
const switches = amd.switches ?? []

const modelOf = (extFeatures: bigint) =>
  amdModel({ memory: createMemory([{ base: 0n, size: 0x1000n }]), extFeatures })
const written = (register: string, value: bigint): TranscriptEntry => ({ kind: "write", register, value })

describe("feature registers in the kernel's log", () => {
  it("are those of an AMD IOMMU, one number or two", () => {
    const old = "pci 0000:00:00.2: AMD-Vi: Extended features (0x4f77ef22294ada): PPR NX GT IA GA PC GA_vAPIC"
    expect(AMD_FEATURES.of(old)).toEqual([{ register: "EXT_FEATURES", value: 0x4f_77ef_2229_4adan }])
    const now = "AMD-Vi: Extended features (0xa5bf732fa2295afe, 0x1d): PPR X2APIC NX GT [5] IA GA PC GA_vAPIC"
    expect(AMD_FEATURES.of(now)).toEqual([
      { register: "EXT_FEATURES", value: 0xa5bf_732f_a229_5afen },
      { register: "EXT_FEATURES2", value: 0x1dn },
    ])
    expect(AMD_FEATURES.of("AMD-Vi: Interrupt remapping enabled")).toEqual([])
  })

  it("are those of VT-d", () => {
    const line = "DMAR: dmar0: reg_base_addr fed90000 ver 1:0 cap 1c0000c40660462 ecap 19e2ff0505e"
    expect(VTD_CAPABILITIES.of(line)).toEqual([
      { register: "CAP", value: 0x1c_0000_c406_60462n },
      { register: "ECAP", value: 0x19e_2ff0_505en },
    ])
    expect(VTD_CAPABILITIES.of("DMAR: IOMMU enabled")).toEqual([])
  })

  it("are to be the model's own, and to be there where they hold anything", () => {
    const misread = (extFeatures: bigint, printed: readonly bigint[]): string[] =>
      misreadRegisters(
        AMD_FEATURES,
        printed.map(value => ({ register: "EXT_FEATURES", value })),
        modelOf(extFeatures).mmio,
        specs,
      )
    expect([misread(ZEN, [ZEN]), misread(0n, [])]).toEqual([[], []])
    expect(misread(ZEN, [ZEN ^ EPH_SUP])).toEqual([
      expect.stringMatching(/^the kernel says EXT_FEATURES is 0x.*, the model has 0x/),
    ])
    expect(misread(ZEN, [])).toEqual(["the kernel did not print EXT_FEATURES"])
  })
})

describe("EPHEn", () => {
  const problems = (extFeatures: bigint, release: string, ...entries: TranscriptEntry[]): string[] => {
    const states = switchStates(switches, modelOf(extFeatures).mmio, specs, entries)
    return switchProblems(switches, states, release)
  }
  const ON = written("CONTROL", EPH_EN | 1n)
  const OFF = written("CONTROL", 1n)

  it("is turned on by Linux 6.12 where EPHSup announces it, and left to firmware by 6.1", () => {
    expect(problems(EPH_SUP, "6.12.117+deb13-amd64", OFF, ON, OFF)).toEqual([])
    expect(problems(EPH_SUP, "6.12.117+deb13-amd64", written("CONTROL (upper half)", EPH_EN >> 32n))).toEqual(
      [],
    )
    expect(problems(EPH_SUP, "6.1.0-50-amd64", OFF)).toEqual([])
    expect(problems(0n, "6.12.117+deb13-amd64", OFF, written("CMD_TAIL", EPH_EN))).toEqual([])
  })

  it("is a problem when it is missing, or set where nobody announced it", () => {
    const missing = "the kernel left EPHEn off, which the model announces"
    for (const release of ["6.12.117+deb13-amd64", "6.19.7-amd64", "7.0.1"]) {
      expect(problems(EPH_SUP, release, OFF)).toEqual([missing])
    }
    expect(problems(0n, "6.1.0-50-amd64", ON)).toEqual([
      "the kernel turned on EPHEn, which the model does not announce",
    ])
  })
})
