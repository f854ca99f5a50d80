/**
 * Register map of the Non-secure programming interface. Arm IHI 0070 G.b §6.2, §6.3.
 *
 * Names are the book's without the prefix `SMMU_`. Page 1 starts at 0x10000 (§6.2.2); the aliases of page 1
 * registers in page 0 are optional in the book and not implemented here.
 */
import { type BitLayout, bitLayout } from "@iommu/core"

export const REGISTERS = {
  IDR0: [0x0000, 4, "RO", "features: stages, formats, ATS, PRI, stall model, table levels"],
  IDR1: [0x0004, 4, "RO", "sizes of queues, StreamID and SubstreamID"],
  IDR2: [0x0008, 4, "RO", "location of the VATOS page"],
  IDR3: [0x000c, 4, "RO", "features: range invalidation, HAD, small tables, permission schemes"],
  IDR4: [0x0010, 4, "RO", "IMPLEMENTATION DEFINED"],
  IDR5: [0x0014, 4, "RO", "address sizes, granules, outstanding stalls"],
  IIDR: [0x0018, 4, "RO", "implementer and product"],
  AIDR: [0x001c, 4, "RO", "architecture revision: 0 for SMMUv3.0, 1 for SMMUv3.1"],
  CR0: [0x0020, 4, "RW", "enables of translation and of each queue"],
  CR0ACK: [0x0024, 4, "RO", "CR0 as it is in effect"],
  CR1: [0x0028, 4, "RW", "memory attributes of accesses to tables and queues"],
  CR2: [0x002c, 4, "RW", "private TLB maintenance, records of invalid StreamIDs, EL2-E2H"],
  STATUSR: [0x0040, 4, "RO", "dormant state"],
  GBPA: [0x0044, 4, "RW", "what transactions do while CR0.SMMUEN is 0"],
  AGBPA: [0x0048, 4, "RW", "IMPLEMENTATION DEFINED bypass attributes"],
  IRQ_CTRL: [0x0050, 4, "RW", "enables of interrupts"],
  IRQ_CTRLACK: [0x0054, 4, "RO", "IRQ_CTRL as it is in effect"],
  GERROR: [0x0060, 4, "RO", "global errors; an error is active where GERROR and GERRORN differ"],
  GERRORN: [0x0064, 4, "RW", "acknowledgement of global errors"],
  GERROR_IRQ_CFG0: [0x0068, 8, "RW", "address of the GERROR interrupt message"],
  GERROR_IRQ_CFG1: [0x0070, 4, "RW", "data of the GERROR interrupt message"],
  GERROR_IRQ_CFG2: [0x0074, 4, "RW", "attributes of the GERROR interrupt message"],
  STRTAB_BASE: [0x0080, 8, "RW", "address of the Stream table"],
  STRTAB_BASE_CFG: [0x0088, 4, "RW", "format and size of the Stream table"],
  CMDQ_BASE: [0x0090, 8, "RW", "address and size of the Command queue"],
  CMDQ_PROD: [0x0098, 4, "RW", "Command queue write index"],
  CMDQ_CONS: [0x009c, 4, "RW", "Command queue read index and error code"],
  EVENTQ_BASE: [0x00a0, 8, "RW", "address and size of the Event queue"],
  EVENTQ_IRQ_CFG0: [0x00b0, 8, "RW", "address of the Event queue interrupt message"],
  EVENTQ_IRQ_CFG1: [0x00b8, 4, "RW", "data of the Event queue interrupt message"],
  EVENTQ_IRQ_CFG2: [0x00bc, 4, "RW", "attributes of the Event queue interrupt message"],
  PRIQ_BASE: [0x00c0, 8, "RW", "address and size of the PRI queue"],
  PRIQ_IRQ_CFG0: [0x00d0, 8, "RW", "address of the PRI queue interrupt message"],
  PRIQ_IRQ_CFG1: [0x00d8, 4, "RW", "data of the PRI queue interrupt message"],
  PRIQ_IRQ_CFG2: [0x00dc, 4, "RW", "attributes of the PRI queue interrupt message"],
  EVENTQ_PROD: [0x100a8, 4, "RW", "Event queue write index and overflow flag"],
  EVENTQ_CONS: [0x100ac, 4, "RW", "Event queue read index and overflow acknowledgement"],
  PRIQ_PROD: [0x100c8, 4, "RW", "PRI queue write index and overflow flag"],
  PRIQ_CONS: [0x100cc, 4, "RW", "PRI queue read index and overflow acknowledgement"],
} as const

export type RegisterName = keyof typeof REGISTERS

/** Byte offset of a register from the base of page 0. */
export const offsetOf = (name: RegisterName): number => REGISTERS[name][0]

/** Bytes of the register region: page 0 and page 1. */
export const REGION_BYTES = 0x20000

const fieldsIdr0 = {
  S2P: [0, 0, "stage 2 supported"],
  S1P: [1, 1, "stage 1 supported"],
  TTF: [3, 2, "table formats: bit 0 VMSAv8-32 LPAE, bit 1 VMSAv8-64"],
  COHACC: [4, 4, "coherent access to tables and queues"],
  BTM: [5, 5, "broadcast TLB maintenance"],
  HTTU: [7, 6, "hardware update: 1 Access flag, 2 and dirty state, 3 and Access flag in tables"],
  DORMHINT: [8, 8, "dormant hint"],
  Hyp: [9, 9, "EL2 stage 1 contexts"],
  ATS: [10, 10, "PCIe ATS"],
  NS1ATS: [11, 11, "split-stage ATS not supported"],
  ASID16: [12, 12, "16-bit ASIDs"],
  MSI: [13, 13, "message signalled interrupts"],
  SEV: [14, 14, "WFE wake-up events"],
  ATOS: [15, 15, "address translation operations"],
  PRI: [16, 16, "page request interface"],
  VMW: [17, 17, "VMID wildcards"],
  VMID16: [18, 18, "16-bit VMIDs"],
  CD2L: [19, 19, "2-level Context descriptor tables"],
  VATOS: [20, 20, "virtual ATOS page"],
  TTENDIAN: [22, 21, "table endianness: 0 both, 2 little, 3 big"],
  ATSRECERR: [23, 23, "records errors of ATS translated transactions"],
  STALL_MODEL: [25, 24, "0 stall and terminate, 1 terminate only, 2 stall forced"],
  TERM_MODEL: [26, 26, "terminated transactions always abort"],
  ST_LEVEL: [28, 27, "0 linear Stream table, 1 also 2-level"],
  RME_IMPL: [30, 30, "RME implemented"],
} as const
/** §6.3.1 */
export const IDR0: BitLayout<typeof fieldsIdr0> = bitLayout("IDR0", "IHI 0070 G.b §6.3.1", 32, fieldsIdr0)

const fieldsIdr1 = {
  SIDSIZE: [5, 0, "bits of a StreamID, 0 to 32"],
  SSIDSIZE: [10, 6, "bits of a SubstreamID, 0 to 20"],
  PRIQS: [15, 11, "log2 of the largest PRI queue"],
  EVENTQS: [20, 16, "log2 of the largest Event queue"],
  CMDQS: [25, 21, "log2 of the largest Command queue"],
  ATTR_PERMS_OVR: [26, 26, "PRIVCFG and INSTCFG are in effect"],
  ATTR_TYPES_OVR: [27, 27, "MTCFG, SHCFG and ALLOCCFG are in effect"],
  REL: [28, 28, "preset bases are relative"],
  QUEUES_PRESET: [29, 29, "queue bases are fixed"],
  TABLES_PRESET: [30, 30, "table bases are fixed"],
  ECMDQ: [31, 31, "enhanced Command queues"],
} as const
/** §6.3.2 */
export const IDR1: BitLayout<typeof fieldsIdr1> = bitLayout("IDR1", "IHI 0070 G.b §6.3.2", 32, fieldsIdr1)

const fieldsIdr3 = {
  HAD: [2, 2, "hierarchical attribute disable"],
  PBHA: [3, 3, "page-based hardware attributes"],
  XNX: [4, 4, "EL0 and EL1 execute control at stage 2"],
  PPS: [5, 5, "PASID handling of PRI auto-responses"],
  MPAM: [7, 7, "memory partitioning"],
  FWB: [8, 8, "stage 2 forced write-back"],
  STT: [9, 9, "small translation tables: TxSZ up to 48"],
  RIL: [10, 10, "range invalidation and level hint"],
  BBML: [12, 11, "break-before-make level"],
  E0PD: [13, 13, "E0PD in Context descriptors"],
  PTWNNC: [14, 14, "walk to Device memory treated as Normal"],
  DPT: [15, 15, "device permission table"],
  PASIDTT: [16, 16, "PASID on translated transactions"],
  EPAN: [17, 17, "enhanced privileged access never"],
  S1PI: [18, 18, "stage 1 permission indirection"],
  S2PI: [19, 19, "stage 2 permission indirection"],
  S2PO: [20, 20, "stage 2 permission overlays"],
  THE: [21, 21, "translation hardening"],
  MTEPERM: [22, 22, "allocation tag access permission"],
  AIE: [23, 23, "attribute index extension"],
} as const
/** §6.3.4 */
export const IDR3: BitLayout<typeof fieldsIdr3> = bitLayout("IDR3", "IHI 0070 G.b §6.3.4", 32, fieldsIdr3)

const fieldsIdr5 = {
  OAS: [2, 0, "output address size: 0 to 7 for 32, 36, 40, 42, 44, 48, 52, 56 bits"],
  GRAN4K: [4, 4, "4 KiB granule"],
  GRAN16K: [5, 5, "16 KiB granule"],
  GRAN64K: [6, 6, "64 KiB granule"],
  DS: [7, 7, "52-bit addresses with the 4 KiB and 16 KiB granules (LPA2)"],
  D128: [8, 8, "128-bit descriptors"],
  VAX: [11, 10, "virtual address size: 0 48 bits, 1 52 bits, 2 56 bits"],
  STALL_MAX: [31, 16, "most transactions that can be stalled"],
} as const
/** §6.3.6 */
export const IDR5: BitLayout<typeof fieldsIdr5> = bitLayout("IDR5", "IHI 0070 G.b §6.3.6", 32, fieldsIdr5)

/** Bits of an address by OAS, CD.IPS and STE.S2PS: §6.3.6, §5.4 IPS. */
export const ADDRESS_SIZE_BITS: readonly number[] = [32, 36, 40, 42, 44, 48, 52, 56]

/** CR0 and CR0ACK, §6.3.9. */
export const CR0_SMMUEN: number = 1 << 0
export const CR0_PRIQEN: number = 1 << 1
export const CR0_EVENTQEN: number = 1 << 2
export const CR0_CMDQEN: number = 1 << 3
export const CR0_ATSCHK: number = 1 << 4
/** VMID wildcard, bits 8:6. */
export const CR0_VMW: number = 0x7 << 6

/** CR2, §6.3.12. */
export const CR2_E2H: number = 1 << 0
export const CR2_RECINVSID: number = 1 << 1
export const CR2_PTM: number = 1 << 2
export const CR2_REC_CFG_ATS: number = 1 << 3

/** GBPA, §6.3.14. */
export const GBPA_SHCFG_INCOMING: number = 1 << 12
export const GBPA_ABORT: number = 1 << 20
export const GBPA_UPDATE = 0x8000_0000

/** IRQ_CTRL and IRQ_CTRLACK, §6.3.16. */
export const IRQ_CTRL_GERROR_IRQEN: number = 1 << 0
export const IRQ_CTRL_PRIQ_IRQEN: number = 1 << 1
export const IRQ_CTRL_EVENTQ_IRQEN: number = 1 << 2

/** GERROR and GERRORN, §6.3.19. */
export const GERROR_CMDQ_ERR: number = 1 << 0
export const GERROR_EVENTQ_ABT_ERR: number = 1 << 2
export const GERROR_PRIQ_ABT_ERR: number = 1 << 3
export const GERROR_MSI_CMDQ_ABT_ERR: number = 1 << 4
export const GERROR_MSI_EVENTQ_ABT_ERR: number = 1 << 5
export const GERROR_MSI_PRIQ_ABT_ERR: number = 1 << 6
export const GERROR_MSI_GERROR_ABT_ERR: number = 1 << 7
export const GERROR_SFM_ERR: number = 1 << 8

/** STRTAB_BASE bits 55:6 in halves, §6.3.24. */
export const STRTAB_BASE_ADDR_HI = 0x00ff_ffff
export const STRTAB_BASE_ADDR_LO = 0xffff_ffc0
/** STRTAB_BASE.RA, bit 62. */
export const STRTAB_BASE_RA: bigint = 1n << 62n

/** STRTAB_BASE_CFG, §6.3.25. */
export const STRTAB_BASE_CFG_LOG2SIZE = 0x3f
export const STRTAB_BASE_CFG_SPLIT_SHIFT = 6
export const STRTAB_BASE_CFG_SPLIT: number = 0x1f << 6
export const STRTAB_BASE_CFG_FMT_SHIFT = 16
export const STRTAB_BASE_CFG_FMT: number = 0x3 << 16
export const STRTAB_FMT_LINEAR = 0
export const STRTAB_FMT_2LVL = 1

/** CMDQ_BASE, EVENTQ_BASE and PRIQ_BASE: address bits 55:5 in halves, §6.3.26. */
export const QUEUE_BASE_ADDR_HI = 0x00ff_ffff
export const QUEUE_BASE_ADDR_LO = 0xffff_ffe0
export const QUEUE_BASE_LOG2SIZE = 0x1f
/** CMDQ_BASE.RA, EVENTQ_BASE.WA and PRIQ_BASE.WA, bit 62. */
export const QUEUE_BASE_ALLOCATE: bigint = 1n << 62n

/** Write and read indexes with their wrap bit, §6.3.27. */
export const QUEUE_INDEX = 0xf_ffff
/** EVENTQ_PROD.OVFLG and PRIQ_PROD.OVFLG, §6.3.95. */
export const QUEUE_PROD_OVFLG = 0x8000_0000
/** EVENTQ_CONS.OVACKFLG and PRIQ_CONS.OVACKFLG. */
export const QUEUE_CONS_OVACKFLG = 0x8000_0000

/** PRIQ_IRQ_CFG2.LO, §6.3.36. */
export const PRIQ_IRQ_CFG2_LO = 0x8000_0000

/** CMDQ_CONS.ERR, §6.3.28 and §7.1. */
export const CMDQ_CONS_ERR_SHIFT = 24
export const CMDQ_CONS_ERR: number = 0x7f << 24
export const CERROR_NONE = 0
export const CERROR_ILL = 1
export const CERROR_ABT = 2
export const CERROR_ATC_INV_SYNC = 3
