/**
 * What a modelled remapping unit can do: capability registers, and the masks that follow from them.
 * Intel VT-d 5.10 (D51397-018) §11.4.1 to §11.4.3; conditional reserved bits from chapter 9.
 */
import {
  ACCESS_READ,
  type CachePolicies,
  type CachePolicy,
  hi32,
  IommuError,
  lo32,
  type PhysicalMemory,
  toU64,
  type U64Like,
} from "@iommu/core"
import * as ctx from "../spec/device-table.ts"
import * as pte from "../spec/page-tables.ts"
import * as pasid from "../spec/pasid-table.ts"
import { CAP, ECAP } from "../spec/registers.ts"

export interface VtdCapabilities {
  /** VER_REG: major version in bits 7:4. */
  readonly ver: bigint
  readonly cap: bigint
  readonly ecap: bigint
}

export interface VtdModelOptions {
  /** Memory that the unit reads its tables from, and writes A/D flags and status words to. */
  readonly memory: PhysicalMemory
  /** Capability registers; {@link EVERYTHING} when left out. */
  readonly capabilities?: VtdCapabilities
  /** HAW, which platforms report in ACPI, not in a register: 32 to 52. Default 52. */
  readonly hostAddressWidth?: number
  /** What the unit keeps of tables that it has read. Default `exact`, for all caches. */
  readonly caches?: CachePolicy | CachePolicies
}

/** Every feature that the model has, and eight fault recording registers. */
export const EVERYTHING: VtdCapabilities = {
  ver: 0x50n,
  cap: CAP.encode({
    ND: 6n,
    SAGAW: 0b01110n,
    MGAW: 56n,
    ZLR: 1n,
    FRO: 0x22n,
    SSLPS: 3n,
    PSI: 1n,
    NFR: 7n,
    MAMV: 45n,
    DWD: 1n,
    DRD: 1n,
    FS1GP: 1n,
    FS5LP: 1n,
    ESIRTPS: 1n,
    ESRTPS: 1n,
  })[0] as bigint,
  ecap: ECAP.encode({
    C: 1n,
    QI: 1n,
    DT: 1n,
    IR: 1n,
    EIM: 1n,
    PT: 1n,
    SC: 1n,
    IRO: 0xfn,
    MHMV: 15n,
    MTS: 1n,
    NEST: 1n,
    PRS: 1n,
    SRS: 1n,
    NWFS: 1n,
    EAFS: 1n,
    PSS: 19n,
    PASID: 1n,
    DIT: 1n,
    PDS: 1n,
    SMTS: 1n,
    SSADS: 1n,
    SSTS: 1n,
    FSTS: 1n,
    SMPWCS: 1n,
    RPS: 1n,
    ADMS: 1n,
    RPRIVS: 1n,
  })[0] as bigint,
}

/** Legacy mode, second stage of 3 and 4 levels: what QEMU's `intel-iommu` reports with `aw-bits=48`. */
export const LEGACY_ONLY: VtdCapabilities = { ver: 0x10n, cap: 0x80d2008c222f0606n, ecap: 0xf00f4an }

/** The same with `aw-bits=39`: second stage of 3 levels. */
export const LEGACY_39: VtdCapabilities = { ver: 0x10n, cap: 0x80d2008c22260206n, ecap: 0xf00f4an }

/** Scalable mode with second stage only: what QEMU reports with `scalable-mode=on`. */
export const SECOND_STAGE_ONLY: VtdCapabilities = {
  ver: 0x10n,
  cap: 0x80d2008c222f0606n,
  ecap: 0x480080f00f4an,
}

/** Scalable mode with first stage only: what QEMU reports with `scalable-mode=on,x-flts=on`. */
export const FIRST_STAGE_ONLY: VtdCapabilities = {
  ver: 0x10n,
  cap: 0x81d2008c222f0606n,
  ecap: 0x880000f00f4an,
}

/** @throws EINVAL when the host address width is not one that the entries can carry */
export function checkHostAddressWidth(width: number): number {
  if (!Number.isInteger(width) || width < 32 || width > 52) {
    throw new IommuError("EINVAL", `the host address width must be 32 to 52 bits, got ${width}`)
  }
  return width
}

/** Capability registers at the door. @throws EINVAL when one does not fit its register */
export function checkCapabilities(given: { ver: U64Like; cap: U64Like; ecap: U64Like }): VtdCapabilities {
  const ver = toU64(given.ver, "ver")
  if (ver > 0xffff_ffffn) throw new IommuError("EINVAL", "VER_REG has 32 bits")
  return { ver, cap: toU64(given.cap, "cap"), ecap: toU64(given.ecap, "ecap") }
}

const ALL = -1

/**
 * Capabilities decoded once, in the form that walks and entry checks use. Reserved masks are 32-bit halves. Fields are
 * declared, not defined: one that is defined starts as `undefined`, and V8 then checks it for a number at each use.
 */
export class Features {
  declare readonly majorVersion: number
  /** AW encodings that are supported, as bits. */
  declare readonly widths: number
  /** PGTT encodings that are supported, as bits. */
  declare readonly translationTypes: number
  /** Bits of the largest second-stage input address. */
  declare readonly mgaw: number
  declare readonly hostAddressWidth: number
  declare readonly fs5lp: boolean
  declare readonly deviceTlb: boolean
  declare readonly passThrough: boolean
  declare readonly pageRequests: boolean
  declare readonly pageRequestDrain: boolean
  declare readonly executeRequests: boolean
  declare readonly noWriteFlag: boolean
  declare readonly memoryTypes: boolean
  /** What a request needs that names no access, a zero-length read: ACCESS_READ, or with ZLR nothing. §3.14. */
  declare readonly zeroLengthRead: number
  declare readonly pasid: boolean
  declare readonly maxPasid: number
  declare readonly scalable: boolean
  declare readonly firstStage: boolean
  declare readonly secondStage: boolean
  declare readonly abortDma: boolean
  declare readonly queuedInvalidation: boolean
  declare readonly interruptRemapping: boolean
  declare readonly cachingMode: boolean
  /** SRTP drops what the unit keeps. */
  declare readonly rootPointerInvalidates: boolean
  declare readonly pageSelective: boolean
  declare readonly mamv: number
  declare readonly invalidationThrottle: boolean
  /** Bits 63:HAW of a pointer to a table. */
  declare readonly pointerRsvdHi: number
  declare readonly contextRsvdLo1: number
  declare readonly scalableContextRsvdLo: number
  declare readonly scalableContextRsvdLo1: number
  declare readonly pasidEntryRsvdLo: number
  declare readonly pasidEntryRsvdHi: number
  declare readonly pasidEntryRsvdLo1: number
  declare readonly pasidEntryRsvdHi1: number
  declare readonly pasidEntryRsvdLo2: number
  declare readonly pasidEntryRsvdHi2: number
  /** The largest address that a second stage takes, by its levels: the smaller of MGAW and AGAW. */
  declare readonly ssMaxHi: Uint32Array
  declare readonly ssMaxLo: Uint32Array
  /** Second-stage entries, by level; index 0 is not used. §3.7. */
  declare readonly ssTableRsvdLo: Int32Array
  declare readonly ssLeafRsvdLo: Int32Array
  /** Of the entry of a 4 KiB page. */
  declare readonly ssPageRsvdLo: number
  declare readonly ssRsvdHi: number
  /** First-stage entries, by level. §3.6. */
  declare readonly fsTableRsvdLo: Int32Array
  declare readonly fsLeafRsvdLo: Int32Array
  declare readonly fsRsvdHi: number
  /** Levels at which PS makes a leaf, as bits. */
  declare readonly ssLargeLevels: number
  declare readonly fsLargeLevels: number
  /** log2 of the largest page of either stage. */
  declare readonly largestPageLg2: number
  /** Bits of FI that a fault record has: those below the largest AGAW. §11.4.7.6. */
  declare readonly faultInfoMask: bigint

  constructor(capabilities: VtdCapabilities, hostAddressWidth: number) {
    const cap = CAP.decode([capabilities.cap])
    const ecap = ECAP.decode([capabilities.ecap])
    this.majorVersion = Number((capabilities.ver >> 4n) & 0xfn)
    this.widths = Number(cap.SAGAW) & 0b1110
    this.mgaw = Number(cap.MGAW) + 1
    this.hostAddressWidth = hostAddressWidth
    this.fs5lp = cap.FS5LP === 1n
    this.deviceTlb = ecap.DT === 1n
    this.passThrough = ecap.PT === 1n
    this.pageRequests = ecap.PRS === 1n
    this.pageRequestDrain = ecap.PDS === 1n
    this.executeRequests = ecap.ERS === 1n
    this.noWriteFlag = ecap.NWFS === 1n
    this.memoryTypes = ecap.MTS === 1n
    this.zeroLengthRead = cap.ZLR === 1n ? 0 : ACCESS_READ
    this.pasid = ecap.PASID === 1n
    this.maxPasid = Math.min(2 ** (Number(ecap.PSS) + 1) - 1, pasid.PASID_MAX)
    this.scalable = ecap.SMTS === 1n
    this.firstStage = ecap.FSTS === 1n
    this.secondStage = ecap.SSTS === 1n
    this.abortDma = ecap.ADMS === 1n
    this.queuedInvalidation = ecap.QI === 1n
    this.interruptRemapping = ecap.IR === 1n
    this.cachingMode = cap.CM === 1n
    this.rootPointerInvalidates = cap.ESRTPS === 1n
    this.pageSelective = cap.PSI === 1n
    this.mamv = Number(cap.MAMV)
    this.invalidationThrottle = ecap.DIT === 1n

    const when = (condition: boolean, mask: number): number => (condition ? mask : 0)
    const unusedDid = 0xffff & ~(2 ** Math.min(4 + 2 * Number(cap.ND), 16) - 1)
    this.pointerRsvdHi = (ALL << (hostAddressWidth - 32)) | 0
    this.contextRsvdLo1 = ctx.CONTEXT_RSVD_LO1 | (unusedDid << ctx.CONTEXT_DID_SHIFT_LO1) | 0
    this.scalableContextRsvdLo =
      ctx.SCALABLE_CONTEXT_RSVD_LO |
      when(!this.deviceTlb, ctx.DTE) |
      when(!this.pasid, ctx.PASIDE) |
      when(!this.pageRequests, ctx.PRE)
    this.scalableContextRsvdLo1 =
      ctx.SCALABLE_CONTEXT_RSVD_LO1 |
      when(ecap.RPS === 0n, ctx.RID_PASID_MASK_LO1) |
      when(ecap.RPRIVS === 0n, ctx.RID_PRIV_LO1) |
      0

    const noSecond = !this.secondStage
    // Revision 5.0 reserves AW, too, without SSTS; Linux sets it in every first-stage entry, and must go on working.
    this.pasidEntryRsvdLo =
      pasid.PE_RSVD_LO |
      when(noSecond, ctx.ADDR_MASK_LO) |
      when(noSecond || ecap.SSADS === 0n, pasid.PE_SSADE) |
      0
    this.pasidEntryRsvdHi = noSecond ? ALL : this.pointerRsvdHi
    this.pasidEntryRsvdLo1 =
      pasid.PE_RSVD_LO1 |
      unusedDid |
      when(ecap.SMPWCS === 0n, pasid.PE_PWSNP_LO1) |
      when(ecap.SC === 0n, pasid.PE_PGSNP_LO1) |
      when(ecap.MTS === 0n, pasid.PE_CD_LO1 | pasid.PE_EMTE_LO1) |
      0
    this.pasidEntryRsvdHi1 = when(ecap.MTS === 0n, ALL)
    const fspm = pasid.PE_FSPM_MASK << pasid.PE_FSPM_SHIFT_LO2
    this.pasidEntryRsvdLo2 =
      pasid.PE_RSVD_LO2 |
      when(ecap.SRS === 0n, pasid.PE_SRE_LO2) |
      when(ecap.EAFS === 0n, pasid.PE_EAFE_LO2) |
      when(!this.firstStage, ctx.ADDR_MASK_LO | fspm | pasid.PE_WPE_LO2) |
      0
    this.pasidEntryRsvdHi2 = this.firstStage ? this.pointerRsvdHi : ALL

    const largest = [0, 0, 0, 3, 4, 5].map(levels => {
      return (1n << BigInt(Math.min(this.mgaw, 9 * levels + 12))) - 1n
    })
    this.ssMaxHi = Uint32Array.from(largest, hi32)
    this.ssMaxLo = Uint32Array.from(largest, lo32)

    this.translationTypes =
      when(this.firstStage, 1 << pasid.PGTT_FIRST) |
      when(this.secondStage, 1 << pasid.PGTT_SECOND) |
      when(ecap.NEST === 1n, 1 << pasid.PGTT_NESTED) |
      when(this.passThrough, 1 << pasid.PGTT_PASS_THROUGH)

    const widthRsvdHi = this.pointerRsvdHi & pte.ADDR_HI
    const large2M = 1 << 2
    const large1G = 1 << 3
    const sslps = Number(cap.SSLPS)
    this.ssLargeLevels = when((sslps & 1) !== 0, large2M) | when((sslps & 2) !== 0, large1G)
    this.fsLargeLevels = large2M | when(cap.FS1GP === 1n, large1G)
    const large = this.ssLargeLevels | (this.firstStage ? this.fsLargeLevels : 0)
    this.largestPageLg2 = (large & large1G) !== 0 ? 30 : (large & large2M) !== 0 ? 21 : 12
    const snp = when(ecap.SC === 0n, pte.SS_SNP)
    // A table entry never has SNP; PS in one that cannot be a leaf is reserved, and at level 1 PS means nothing.
    const ssTable = pte.SS_SNP | pte.SS_PS
    this.ssTableRsvdLo = Int32Array.of(0, 0, ssTable, ssTable, ssTable, ssTable)
    this.ssLeafRsvdLo = Int32Array.of(0, snp, snp | 0x1ff000, snp | 0x3ffff000, 0, 0)
    this.ssPageRsvdLo = snp
    this.ssRsvdHi = widthRsvdHi | pte.SS_RSVD_HI | 0
    this.fsTableRsvdLo = Int32Array.of(0, 0, pte.FS_PS, pte.FS_PS, pte.FS_PS, pte.FS_PS)
    this.fsLeafRsvdLo = Int32Array.of(0, 0, 0x1fe000, 0x3fffe000, 0, 0)
    this.fsRsvdHi = widthRsvdHi >>> 0
    this.faultInfoMask = (1n << BigInt(this.#largestWidth())) - 1n
  }

  #largestWidth(): number {
    const second = this.widths & 8 ? 57 : this.widths & 4 ? 48 : this.widths & 2 ? 39 : 0
    const first = this.firstStage ? (this.fs5lp ? 57 : 48) : 0
    return Math.max(second, first, 39)
  }
}
