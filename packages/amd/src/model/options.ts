/** What a model is made of, and sets of capability registers. AMD 48882 rev 3.10, §3.4. */
import type { CachePolicies, CachePolicy, PhysicalMemory } from "@iommu/core"
import { EXT_FEATURES, EXT_FEATURES2 } from "../spec/registers.ts"

export interface AmdModelOptions {
  /** The memory that tables, buffers and DMA live in: system physical addresses. */
  readonly memory: PhysicalMemory
  /** Extended Feature register; {@link EVERYTHING} when absent. */
  readonly extFeatures?: bigint
  /** Extended Feature 2 register; {@link EVERYTHING_2} when absent. */
  readonly extFeatures2?: bigint
  /** How much is cached, `exact` when absent; structures are device table entries and guest CR3s. */
  readonly caches?: CachePolicy | CachePolicies
}

const encode = (values: Parameters<typeof EXT_FEATURES.encode>[0]): bigint =>
  EXT_FEATURES.encode(values)[0] as bigint

/** Every capability that this model has. */
export const EVERYTHING: bigint = encode({
  PreFSup: 1n,
  PPRSup: 1n,
  XTSup: 1n,
  NXSup: 1n,
  GTSup: 1n,
  IASup: 1n,
  GASup: 1n,
  HESup: 1n,
  HATS: 2n,
  GATS: 1n,
  GLXSup: 2n,
  PASmax: 19n,
  USSup: 1n,
  DevTblSegSup: 3n,
  PprOvrflwEarlySup: 1n,
  PprAutoRspSup: 1n,
  MsiCapMmioSup: 1n,
  GIoSup: 1n,
  HASup: 1n,
  EPHSup: 1n,
  HDSup: 1n,
  V2HDDisSup: 1n,
  InvIotlbTypeSup: 1n,
  GAUpdateDisSup: 1n,
})

export const EVERYTHING_2: bigint = EXT_FEATURES2.encode({ GCR3TRPModeSup: 1n })[0] as bigint

/** What QEMU 11.1's `amd-iommu` announces: host tables of six levels, guest tables behind one-level GCR3 tables. */
export const QEMU_11: bigint = encode({
  PreFSup: 1n,
  PPRSup: 1n,
  GTSup: 1n,
  IASup: 1n,
  GASup: 1n,
  HESup: 1n,
  HATS: 2n,
  GATS: 2n,
})

/** Fields of several bits, of which the model takes any value. */
const NUMBERS = ["HATS", "GATS", "GLXSup", "PASmax", "DevTblSegSup"] as const
const MODELLED = NUMBERS.reduce((mask, field) => {
  const [msb, lsb] = EXT_FEATURES.fields[field]
  return mask | (((1n << BigInt(msb - lsb + 1)) - 1n) << BigInt(lsb))
}, EVERYTHING)

/**
 * What Linux prints of a real machine ("AMD-Vi: Extended features (0x…"), without what the model lacks: performance
 * counters, the guest virtual APIC's log, MARC, SNP and their like.
 */
export function fromLinuxLog(extFeatures: bigint): bigint {
  return extFeatures & MODELLED
}

/** The machine of Linux's Documentation/arch/x86/iommu.rst: four guest levels, 16-bit PASIDs, no x2APIC. */
export const ZEN: bigint = fromLinuxLog(0x004f_77ef_2229_4adan)

/** "0x58f77ef22294a5a, 0x0: PPR NX GT IA PC GA_vAPIC". */
export const ZEN_2: bigint = fromLinuxLog(0x058f_77ef_2229_4a5an)

/** "0xa5bf732fa2295afe: PPR X2APIC NX GT [5] IA GA PC GA_vAPIC": GATS has five guest levels. */
export const ZEN_4_SERVER: bigint = fromLinuxLog(0xa5bf_732f_a229_5afen)
