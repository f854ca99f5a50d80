/** Features from both sides: registers as the kernel's driver printed them, and what it has turned on. */
import type { Mmio, RegisterSpecs } from "@iommu/core"
import { type TranscriptEntry, upperHalf } from "./transcript.ts"

/** A register that the driver prints when it comes up. */
export interface PrintedRegister {
  readonly register: string
  readonly value: bigint
}

interface RegisterBit {
  readonly register: string
  readonly bit: number
}

/** What a driver turns on where the hardware announces it, from one version of Linux on. */
export interface FeatureSwitch {
  /** The book's name of the bit that turns it on. */
  readonly name: string
  readonly announced: RegisterBit
  readonly enable: RegisterBit
  readonly since: readonly [major: number, minor: number]
}

/** How one vendor's driver prints registers. */
export interface FeatureLines {
  /** The one that stands in every such line; drivers print none while it holds nothing. */
  readonly register: string
  of(line: string): PrintedRegister[]
}

/** `AMD-Vi: Extended features (0x207343ef000099df, 0x8): PreF PPR…`; older kernels have the first number alone. */
function amdFeatures(line: string): PrintedRegister[] {
  const match = /AMD-Vi: Extended features \(0x([\da-f]+)(?:, 0x([\da-f]+))?\)/.exec(line)
  if (match === null) return []
  const [, first = "", second] = match
  return [
    { register: "EXT_FEATURES", value: BigInt(`0x${first}`) },
    ...(second === undefined ? [] : [{ register: "EXT_FEATURES2", value: BigInt(`0x${second}`) }]),
  ]
}

/** `DMAR: dmar0: reg_base_addr fed90000 ver 1:0 cap d2008c222f0606 ecap f00f5a`. */
function vtdCapabilities(line: string): PrintedRegister[] {
  const match = /DMAR: dmar\d+: .* cap ([\da-f]+) ecap ([\da-f]+)/.exec(line)
  if (match === null) return []
  const [, cap = "", ecap = ""] = match
  return [
    { register: "CAP", value: BigInt(`0x${cap}`) },
    { register: "ECAP", value: BigInt(`0x${ecap}`) },
  ]
}

export const AMD_FEATURES: FeatureLines = { register: "EXT_FEATURES", of: amdFeatures }
export const VTD_CAPABILITIES: FeatureLines = { register: "CAP", of: vtdCapabilities }

/** Registers of which the kernel says something else than the model, or nothing at all. */
export function misreadRegisters(
  { register: first }: FeatureLines,
  printed: readonly PrintedRegister[],
  mmio: Mmio,
  specs: RegisterSpecs,
): string[] {
  if (printed.length === 0) {
    return readRegister(mmio, specs, first) === 0n ? [] : [`the kernel did not print ${first}`]
  }
  return printed.flatMap(({ register, value }) => {
    const held = readRegister(mmio, specs, register)
    return held === value
      ? []
      : [`the kernel says ${register} is 0x${value.toString(16)}, the model has 0x${held.toString(16)}`]
  })
}

/** Whether software has set a bit at any time; it clears some when it powers the machine off. */
function wasSet(entries: readonly TranscriptEntry[], { register, bit }: RegisterBit): boolean {
  const upper = upperHalf(register)
  return entries.some(entry => {
    if (entry.kind !== "write") return false
    if (entry.register === register) return ((entry.value >> BigInt(bit)) & 1n) === 1n
    return entry.register === upper && bit >= 32 && ((entry.value >> BigInt(bit - 32)) & 1n) === 1n
  })
}

export interface SwitchState {
  readonly name: string
  readonly announced: boolean
  readonly on: boolean
}

export function switchStates(
  switches: readonly FeatureSwitch[],
  mmio: Mmio,
  specs: RegisterSpecs,
  entries: readonly TranscriptEntry[],
): SwitchState[] {
  return switches.map(({ name, announced, enable }) => ({
    name,
    announced: ((readRegister(mmio, specs, announced.register) >> BigInt(announced.bit)) & 1n) === 1n,
    on: wasSet(entries, enable),
  }))
}

/** @param release of the kernel, as `uname -r` has it */
export function switchProblems(
  switches: readonly FeatureSwitch[],
  states: readonly SwitchState[],
  release: string,
): string[] {
  return states.flatMap(({ name, announced, on }, n) => {
    if (on && !announced) return [`the kernel turned on ${name}, which the model does not announce`]
    const expected = announced && isSince(release, (switches[n] as FeatureSwitch).since)
    return expected && !on ? [`the kernel left ${name} off, which the model announces`] : []
  })
}

function isSince(release: string, [major, minor]: readonly [number, number]): boolean {
  const [first = 0, second = 0] = release.split(/[.-]/).map(Number)
  return first > major || (first === major && second >= minor)
}

function readRegister(mmio: Mmio, specs: RegisterSpecs, register: string): bigint {
  const spec = specs[register]
  if (spec === undefined) throw new Error(`there is no register ${register}`)
  return mmio.read64(spec[0])
}
