/**
 * What an implementation can do: its identification registers, and what follows from them.
 * Arm IHI 0070 G.b §6.3.1 to §6.3.8.
 */
import type { CachePolicies, CachePolicy, PhysicalMemory } from "@iommu/core"
import { ADDRESS_SIZE_BITS, IDR0, IDR1, IDR3, IDR5 } from "../spec/registers.ts"

/** Values of the read-only registers that software finds. */
export interface IdRegisters {
  readonly IDR0: number
  readonly IDR1: number
  readonly IDR2: number
  readonly IDR3: number
  readonly IDR4: number
  readonly IDR5: number
  readonly IIDR: number
  readonly AIDR: number
}

export interface SmmuV3ModelOptions {
  /** The physical address space behind the SMMU: tables, queues and targets of interrupt messages. */
  readonly memory: PhysicalMemory
  /** Capabilities; {@link EVERYTHING} where left out. */
  readonly id?: Partial<IdRegisters>
  /** What is kept of structures and translations until a command drops it; `exact` where left out. */
  readonly caches?: CachePolicy | CachePolicies
}

const encode32 = (words: bigint[]): number => Number(words[0])

/** SMMUv3.3 with everything that this model has: 52 bits, all granules, both stages, 20-bit SubstreamIDs, stalls. */
export const EVERYTHING: IdRegisters = {
  IDR0: encode32(
    IDR0.encode({
      S2P: 1n,
      S1P: 1n,
      TTF: 2n,
      COHACC: 1n,
      HTTU: 2n,
      Hyp: 1n,
      ATS: 1n,
      ASID16: 1n,
      MSI: 1n,
      SEV: 1n,
      PRI: 1n,
      VMW: 1n,
      VMID16: 1n,
      CD2L: 1n,
      ATSRECERR: 1n,
      ST_LEVEL: 1n,
    }),
  ),
  IDR1: encode32(
    IDR1.encode({
      SIDSIZE: 32n,
      SSIDSIZE: 20n,
      PRIQS: 19n,
      EVENTQS: 19n,
      CMDQS: 19n,
      ATTR_PERMS_OVR: 1n,
      ATTR_TYPES_OVR: 1n,
    }),
  ),
  IDR2: 0,
  IDR3: encode32(IDR3.encode({ HAD: 1n, XNX: 1n, FWB: 1n, STT: 1n, RIL: 1n, BBML: 2n, E0PD: 1n, EPAN: 1n })),
  IDR4: 0,
  IDR5: encode32(
    IDR5.encode({ OAS: 6n, GRAN4K: 1n, GRAN16K: 1n, GRAN64K: 1n, DS: 1n, VAX: 1n, STALL_MAX: 64n }),
  ),
  IIDR: 0,
  AIDR: 3,
}

const QEMU: IdRegisters = {
  IDR0: 0x0d44_101b,
  IDR1: 0x0273_0010,
  IDR2: 0,
  IDR3: 0x1414,
  IDR4: 0,
  IDR5: 0x74,
  IIDR: 0,
  AIDR: 1,
}
/** QEMU 10's machine `virt`: SMMUv3.1, 44 bits, both stages, no SubstreamIDs. */
export const QEMU_NESTED: IdRegisters = QEMU
/** The same with stage 2 alone. */
export const QEMU_STAGE2: IdRegisters = { ...QEMU, IDR0: 0x0d44_1019 }

/** Identification registers in the form the other files ask. */
export class Features {
  readonly s1p: boolean
  readonly s2p: boolean
  /** VMSAv8-64 tables. VMSAv8-32 and VMSAv9-128 are not modelled, whatever the registers say. */
  readonly aarch64: boolean
  /** 0 none, 1 Access flag, 2 and dirty state. Access flags in tables (3) are not modelled. */
  readonly httu: number
  readonly hyp: boolean
  readonly ats: boolean
  readonly ns1ats: boolean
  /** CR2.REC_CFG_ATS is there. */
  readonly atsRecordsErrors: boolean
  readonly asid16: boolean
  readonly msi: boolean
  /** Sends events that wake processors. */
  readonly sev: boolean
  readonly pri: boolean
  /** Auto-responses have the PASID of the request, whatever STE.PPAR says. */
  readonly pps: boolean
  readonly vmw: boolean
  readonly vmid16: boolean
  readonly cd2l: boolean
  readonly littleEndian: boolean
  readonly bigEndian: boolean
  readonly stallModel: number
  readonly termModel: boolean
  readonly twoLevelStreamTable: boolean
  readonly sidSize: number
  readonly ssidSize: number
  readonly priqs: number
  readonly eventqs: number
  readonly cmdqs: number
  readonly permissionOverrides: boolean
  readonly typeOverrides: boolean
  readonly queuesPreset: boolean
  readonly tablesPreset: boolean
  readonly had: boolean
  readonly xnx: boolean
  readonly mpam: boolean
  readonly fwb: boolean
  readonly smallTables: boolean
  readonly ril: boolean
  readonly e0pd: boolean
  readonly epan: boolean
  /** Bits of a physical address. */
  readonly oasBits: number
  /** Bits of an intermediate physical address, §3.4. */
  readonly iasBits: number
  readonly ds: boolean
  /** Virtual addresses of 52 bits. */
  readonly va52: boolean
  /** Transactions that can be stalled at once; an SMMU that stalls holds one at least. */
  readonly stallMax: number
  /** Minor revision of the architecture: 1 is SMMUv3.1. */
  readonly minor: number
  readonly #granules: number

  constructor(id: IdRegisters) {
    const r0 = IDR0.decode([BigInt(id.IDR0)])
    const r1 = IDR1.decode([BigInt(id.IDR1)])
    const r3 = IDR3.decode([BigInt(id.IDR3)])
    const r5 = IDR5.decode([BigInt(id.IDR5)])
    this.s1p = r0.S1P === 1n
    this.s2p = r0.S2P === 1n
    this.aarch64 = (r0.TTF & 2n) !== 0n
    this.httu = Math.min(Number(r0.HTTU), 2)
    this.hyp = r0.Hyp === 1n
    this.ats = r0.ATS === 1n
    this.ns1ats = r0.NS1ATS === 1n
    this.atsRecordsErrors = r0.ATSRECERR === 1n
    this.asid16 = r0.ASID16 === 1n
    this.msi = r0.MSI === 1n
    this.sev = r0.SEV === 1n
    this.pri = r0.PRI === 1n
    this.vmw = r0.VMW === 1n
    this.vmid16 = r0.VMID16 === 1n
    this.cd2l = r0.CD2L === 1n
    this.littleEndian = r0.TTENDIAN !== 3n
    this.bigEndian = r0.TTENDIAN !== 2n
    this.stallModel = Number(r0.STALL_MODEL)
    this.termModel = r0.TERM_MODEL === 1n
    this.twoLevelStreamTable = r0.ST_LEVEL !== 0n
    this.sidSize = Math.min(Number(r1.SIDSIZE), 32)
    this.ssidSize = Math.min(Number(r1.SSIDSIZE), 20)
    this.priqs = Math.min(Number(r1.PRIQS), 19)
    this.eventqs = Math.min(Number(r1.EVENTQS), 19)
    this.cmdqs = Math.min(Number(r1.CMDQS), 19)
    this.permissionOverrides = r1.ATTR_PERMS_OVR === 1n
    this.typeOverrides = r1.ATTR_TYPES_OVR === 1n
    this.queuesPreset = r1.QUEUES_PRESET === 1n
    this.tablesPreset = r1.TABLES_PRESET === 1n
    this.pps = r3.PPS === 1n
    this.had = r3.HAD === 1n
    this.xnx = r3.XNX === 1n
    this.mpam = r3.MPAM === 1n
    this.fwb = r3.FWB === 1n
    this.smallTables = r3.STT === 1n
    this.ril = r3.RIL === 1n
    this.e0pd = r3.E0PD === 1n
    this.epan = r3.EPAN === 1n
    this.minor = id.AIDR & 0xf
    const oas = ADDRESS_SIZE_BITS[Number(r5.OAS)]
    // VMSAv8-64 reaches 52 bits; SMMUv3.0 knows no more than 48.
    this.oasBits = Math.min(oas, this.minor === 0 ? 48 : 52)
    this.iasBits = (r0.TTF & 1n) !== 0n ? Math.max(40, this.oasBits) : this.oasBits
    this.ds = r5.DS === 1n
    this.va52 = r5.VAX !== 0n && this.minor > 0
    this.stallMax = Math.max(1, Number(r5.STALL_MAX))
    this.#granules =
      (r5.GRAN4K === 1n ? 1 << 12 : 0) | (r5.GRAN16K === 1n ? 1 << 14 : 0) | (r5.GRAN64K === 1n ? 1 << 16 : 0)
  }

  /** log2 of the smallest granule: ATS's Smallest Translation Unit, §3.9.1. */
  get smallestGranuleLg2(): number {
    return this.hasGranule(12) ? 12 : this.hasGranule(14) ? 14 : 16
  }

  /** True for a granule of 2^lg2 bytes that this implementation walks. */
  hasGranule(lg2: number): boolean {
    return (this.#granules & (1 << lg2)) !== 0 && lg2 !== 0
  }

  /** Bits of the output addresses that IPS or S2PS allows, capped as §5.4 IPS and §5.2 S2PS say. */
  outputBits(size: number): number {
    return Math.min(ADDRESS_SIZE_BITS[size & 7], this.oasBits)
  }
}
