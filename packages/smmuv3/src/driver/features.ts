/** What an SMMU says of itself in its ID registers. Arm IHI 0070 G.b §6.3.1 to §6.3.8. */
import { IommuError, type Mmio } from "@iommu/core"
import * as reg from "../spec/registers.ts"

/** Names are the book's where one field is meant. */
export interface Features {
  /** Raw registers, for `hwInfo`. */
  readonly idr: readonly [number, number, number, number, number, number]
  readonly iidr: number
  readonly aidr: number
  readonly S1P: boolean
  readonly S2P: boolean
  readonly COHACC: boolean
  /** HTTU sets the Access flag and dirty state. */
  readonly dirtyState: boolean
  readonly ATS: boolean
  readonly PRI: boolean
  readonly MSI: boolean
  readonly Hyp: boolean
  readonly CD2L: boolean
  readonly twoLevelStreamTable: boolean
  /** 0 stall and terminate, 1 terminate only, 2 stall forced. */
  readonly STALL_MODEL: number
  readonly ATTR_TYPES_OVR: boolean
  readonly RIL: boolean
  /** Input sizes below 25 bits. */
  readonly STT: boolean
  readonly asidBits: number
  readonly vmidBits: number
  readonly SIDSIZE: number
  readonly SSIDSIZE: number
  readonly CMDQS: number
  readonly EVENTQS: number
  readonly PRIQS: number
  /** log2 of the granules that tables can have. */
  readonly granules: readonly number[]
  /** 52-bit addresses with 4 KiB and 16 KiB granules. */
  readonly DS: boolean
  /** Bits of a stage 1 input address, and of an output address. */
  readonly inputBits: number
  readonly outputBits: number
}

/** @throws ENODEV for an SMMU that this driver cannot use */
export function readFeatures(mmio: Mmio): Features {
  const raw = (name: reg.RegisterName): number => mmio.read32(reg.offsetOf(name)) >>> 0
  const idr = [raw("IDR0"), raw("IDR1"), raw("IDR2"), raw("IDR3"), raw("IDR4"), raw("IDR5")] as const
  const idr0 = reg.IDR0.decode([BigInt(idr[0])])
  const idr1 = reg.IDR1.decode([BigInt(idr[1])])
  const idr3 = reg.IDR3.decode([BigInt(idr[3])])
  const idr5 = reg.IDR5.decode([BigInt(idr[5])])
  const granules = [
    ...(idr5.GRAN4K ? [12] : []),
    ...(idr5.GRAN16K ? [14] : []),
    ...(idr5.GRAN64K ? [16] : []),
  ]
  const unusable = [
    [!idr0.S1P && !idr0.S2P, "the SMMU has neither stage 1 nor stage 2"],
    [(idr0.TTF & 2n) === 0n, "the SMMU does not walk VMSAv8-64 tables (IDR0.TTF)"],
    [idr0.TTENDIAN === 3n, "the SMMU walks big-endian tables only (IDR0.TTENDIAN)"],
    [granules.length === 0, "the SMMU has no translation granule (IDR5)"],
    [Boolean(idr1.TABLES_PRESET || idr1.QUEUES_PRESET), "table or queue bases are fixed in hardware (IDR1)"],
    [idr1.SIDSIZE > 32n || idr1.SSIDSIZE > 20n, "IDR1 holds reserved sizes of StreamID or SubstreamID"],
  ] as const
  for (const [broken, rule] of unusable) if (broken) throw new IommuError("ENODEV", rule)
  return {
    idr,
    iidr: raw("IIDR"),
    aidr: raw("AIDR"),
    S1P: Boolean(idr0.S1P),
    S2P: Boolean(idr0.S2P),
    COHACC: Boolean(idr0.COHACC),
    dirtyState: idr0.HTTU >= 2n,
    ATS: Boolean(idr0.ATS),
    PRI: Boolean(idr0.PRI),
    MSI: Boolean(idr0.MSI),
    Hyp: Boolean(idr0.Hyp),
    CD2L: Boolean(idr0.CD2L),
    twoLevelStreamTable: idr0.ST_LEVEL === 1n,
    STALL_MODEL: Number(idr0.STALL_MODEL),
    ATTR_TYPES_OVR: Boolean(idr1.ATTR_TYPES_OVR),
    RIL: Boolean(idr3.RIL),
    STT: Boolean(idr3.STT),
    asidBits: idr0.ASID16 ? 16 : 8,
    vmidBits: idr0.VMID16 ? 16 : 8,
    SIDSIZE: Number(idr1.SIDSIZE),
    SSIDSIZE: Number(idr1.SSIDSIZE),
    CMDQS: Number(idr1.CMDQS),
    EVENTQS: Number(idr1.EVENTQS),
    PRIQS: Number(idr1.PRIQS),
    granules,
    DS: Boolean(idr5.DS),
    inputBits: idr5.VAX === 0n ? 48 : 52,
    outputBits: Math.min(52, reg.ADDRESS_SIZE_BITS[Number(idr5.OAS)] as number),
  }
}
