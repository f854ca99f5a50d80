/**
 * What a remapping unit can do. Intel VT-d 5.10 (D51397-018) §11.4.2, §11.4.3; nothing outside this file reads a
 * capability register.
 */
import { IommuError, type IommuPlatform } from "@iommu/core"
import * as reg from "../spec/registers.ts"
import type { VtdDriverOptions } from "./hardware.ts"

/** CAP and ECAP, reduced to what this driver asks about, in the mode it runs in. */
export interface Features {
  readonly cap: bigint
  readonly ecap: bigint
  readonly scalable: boolean
  /** Domain-ids run up to 2^domainIdBits - 1. */
  readonly domainIdBits: number
  readonly cachingMode: boolean
  readonly writeBufferFlush: boolean
  readonly passThrough: boolean
  readonly nesting: boolean
  readonly supervisorRequests: boolean
  readonly extendedAccessed: boolean
  readonly dirtyTracking: boolean
  readonly deviceTlb: boolean
  /** Devices may ask for pages; scalable mode only. */
  readonly pageRequests: boolean
  readonly invalidationThrottle: boolean
  readonly snoopControl: boolean
  readonly coherentWalks: boolean
  readonly pageWalkSnoop: boolean
  /** 0 when requests with PASID are not taken. */
  readonly pasidBits: number
  /** Levels that first-stage tables can have; empty without first stage. */
  readonly firstStageLevels: readonly number[]
  /** Levels that second-stage tables can have, ascending; empty without second stage. */
  readonly secondStageLevels: readonly number[]
  readonly firstStagePageSizes: bigint
  readonly secondStagePageSizes: bigint
  /** Second-stage input addresses have at most this many bits (MGAW). */
  readonly guestAddressBits: number
  readonly hostAddressBits: number
  /** -1 when only whole domains can be invalidated, else log2 of the most pages that one descriptor names. */
  readonly maxAddressMask: number
  readonly drainWrites: boolean
  readonly drainReads: boolean
}

const SIZE_4K = 1n << 12n
const SIZE_2M = 1n << 21n
const SIZE_1G = 1n << 30n

/** @throws ENODEV for a unit that this driver cannot serve, EINVAL for options out of range */
export function readFeatures({ mmio }: IommuPlatform, options: VtdDriverOptions): Features {
  const cap = mmio.read64(reg.REGISTERS.CAP[0])
  const ecap = mmio.read64(reg.REGISTERS.ECAP[0])
  const features = decodeFeatures(cap, ecap, options)
  if (reg.ECAP.get([ecap], "QI") === 0n) {
    throw new IommuError("ENODEV", "a remapping unit without queued invalidation (ECAP.QI) is not served")
  }
  return features
}

/** @throws ENODEV when the mode asked for is not there, EINVAL for a host address width that cannot be */
export function decodeFeatures(cap: bigint, ecap: bigint, options: VtdDriverOptions): Features {
  const c = reg.CAP.decode([cap])
  const e = reg.ECAP.decode([ecap])
  const hostAddressBits = options.hostAddressBits ?? 52
  if (!Number.isInteger(hostAddressBits) || hostAddressBits < 32 || hostAddressBits > 52) {
    throw new IommuError("EINVAL", "a host address width lies between 32 and 52 bits")
  }
  if (options.mode === "scalable" && e.SMTS === 0n) {
    throw new IommuError("ENODEV", "scalable mode was asked for, and ECAP.SMTS is clear")
  }
  const scalable = options.mode !== "legacy" && e.SMTS === 1n
  const hasSecondStage = !scalable || e.SSTS === 1n
  const hasFirstStage = scalable && e.FSTS === 1n
  return {
    cap,
    ecap,
    scalable,
    domainIdBits: Math.min(16, 4 + 2 * Number(c.ND)),
    cachingMode: c.CM === 1n,
    writeBufferFlush: c.RWBF === 1n,
    passThrough: e.PT === 1n,
    nesting: scalable && e.NEST === 1n && hasFirstStage && hasSecondStage,
    supervisorRequests: e.SRS === 1n,
    extendedAccessed: e.EAFS === 1n,
    dirtyTracking: scalable && hasSecondStage && e.SSADS === 1n && e.SMPWCS === 1n,
    deviceTlb: e.DT === 1n,
    pageRequests: scalable && e.DT === 1n && e.PRS === 1n,
    invalidationThrottle: e.DIT === 1n,
    snoopControl: e.SC === 1n,
    coherentWalks: scalable ? e.SMPWCS === 1n : e.C === 1n,
    pageWalkSnoop: e.SMPWCS === 1n,
    pasidBits: scalable && e.PASID === 1n ? Math.min(20, Number(e.PSS) + 1) : 0,
    firstStageLevels: hasFirstStage ? (c.FS5LP === 1n ? [4, 5] : [4]) : [],
    secondStageLevels: hasSecondStage ? [3, 4, 5].filter(levels => (c.SAGAW >> BigInt(levels - 2)) & 1n) : [],
    firstStagePageSizes: SIZE_4K | SIZE_2M | (c.FS1GP === 1n ? SIZE_1G : 0n),
    secondStagePageSizes: SIZE_4K | (c.SSLPS & 1n ? SIZE_2M : 0n) | (c.SSLPS & 2n ? SIZE_1G : 0n),
    guestAddressBits: Number(c.MGAW) + 1,
    hostAddressBits,
    maxAddressMask: c.PSI === 1n ? Number(c.MAMV) : -1,
    drainWrites: c.DWD === 1n,
    drainReads: c.DRD === 1n,
  }
}
