/**
 * Stream table: Level 1 Stream Table Descriptor and Stream Table Entry. Arm IHI 0070 G.b §5.1, §5.2.
 *
 * Masks are for one of the entry's sixteen 32-bit words, word 0 first; the layouts count bits through all words.
 */
import { type BitLayout, bitLayout } from "@iommu/core"

export const L1STD_BYTES = 8
export const STE_BYTES = 64

/** Word 0 of an L1STD. 0 and 12 to 31: no STEs. Else 2^(Span-1) STEs. */
export const L1STD_SPAN = 0x1f
export const L1STD_SPAN_LAST = 11
export const L1STD_L2PTR_LO = 0xffff_ffc0
export const L1STD_L2PTR_HI = 0x00ff_ffff

const fieldsL1std = {
  Span: [4, 0, "0: none; 1 to 11: the array has 2^(Span-1) STEs"],
  L2Ptr: [55, 6, "address of the Level 2 array, aligned to its size"],
} as const
/** §5.1 */
export const L1STD: BitLayout<typeof fieldsL1std> = bitLayout("L1STD", "IHI 0070 G.b §5.1", 64, fieldsL1std)

/** Word 0. */
export const V: number = 1 << 0
export const CONFIG_SHIFT = 1
export const CONFIG: number = 0x7 << 1
export const S1FMT_SHIFT = 4
export const S1FMT: number = 0x3 << 4
export const S1CONTEXTPTR_LO = 0xffff_ffc0
/** Word 1. */
export const S1CONTEXTPTR_HI = 0x00ff_ffff
export const S1CDMAX_SHIFT = 27
export const S1CDMAX = 0xf800_0000
/** Word 2. */
export const S1DSS = 0x3
export const S1CIR_SHIFT = 2
export const S1COR_SHIFT = 4
export const S1CSH_SHIFT = 6
export const PPAR: number = 1 << 18
export const MEV: number = 1 << 19
export const S2FWB: number = 1 << 25
export const S1STALLD: number = 1 << 27
export const EATS_SHIFT = 28
export const EATS: number = 0x3 << 28
export const STRW_SHIFT = 30
export const STRW = 0xc000_0000
/** Word 3. */
export const MEMATTR = 0xf
export const MTCFG: number = 1 << 4
export const ALLOCCFG_SHIFT = 5
export const ALLOCCFG: number = 0xf << 5
export const SHCFG_SHIFT = 12
export const SHCFG: number = 0x3 << 12
export const PRIVCFG_SHIFT = 16
export const PRIVCFG: number = 0x3 << 16
export const INSTCFG_SHIFT = 18
export const INSTCFG: number = 0x3 << 18
/** Word 4. */
export const S2VMID = 0xffff
/** Word 5. */
export const S2T0SZ = 0x3f
export const S2SL0_SHIFT = 6
export const S2SL0: number = 0x3 << 6
export const S2IR0_SHIFT = 8
export const S2OR0_SHIFT = 10
export const S2SH0_SHIFT = 12
export const S2SH0: number = 0x3 << 12
export const S2TG_SHIFT = 14
export const S2TG: number = 0x3 << 14
export const S2PS_SHIFT = 16
export const S2PS: number = 0x7 << 16
export const S2AA64: number = 1 << 19
export const S2ENDI: number = 1 << 20
export const S2AFFD: number = 1 << 21
export const S2PTW: number = 1 << 22
export const S2HD: number = 1 << 23
export const S2HA: number = 1 << 24
export const S2S: number = 1 << 25
export const S2R: number = 1 << 26
/** Word 6. */
export const S2SL0_2: number = 1 << 2
export const S2DS: number = 1 << 3
export const S2TTB_LO = 0xffff_fff0
/** Word 7. */
export const S2TTB_HI = 0x00ff_ffff

/** Config, §5.2. Values 0 to 3 abort without an event. */
export const CONFIG_ABORT = 0
export const CONFIG_BYPASS = 4
export const CONFIG_S1 = 5
export const CONFIG_S2 = 6
export const CONFIG_NESTED = 7
/** Bits of Config that switch a stage on, when bit 2 is set. */
export const CONFIG_S1_BIT = 1
export const CONFIG_S2_BIT = 2

export const S1FMT_LINEAR = 0
export const S1FMT_4KB_L2 = 1
export const S1FMT_64KB_L2 = 2

/** SHCFG: use the incoming shareability. */
export const SHCFG_INCOMING = 1

export const S1DSS_TERMINATE = 0
export const S1DSS_BYPASS = 1
export const S1DSS_SSID0 = 2

/** Non-secure StreamWorlds. any-EL2 becomes any-EL2-E2H with CR2.E2H. */
export const STRW_EL1 = 0
export const STRW_EL2 = 2

export const EATS_NONE = 0
export const EATS_FULL = 1
export const EATS_SPLIT = 2

/** PRIVCFG and INSTCFG: 0 and 1 use the incoming attribute. */
export const CFG_USE_INCOMING = 0
export const PRIVCFG_UNPRIVILEGED = 2
export const PRIVCFG_PRIVILEGED = 3
export const INSTCFG_DATA = 2
export const INSTCFG_INSTRUCTION = 3

const fieldsSte = {
  V: [0, 0, "the other fields are valid"],
  Config: [3, 1, "0 abort, 4 bypass, 5 stage 1, 6 stage 2, 7 both"],
  S1Fmt: [5, 4, "CD table: 0 linear, 1 two levels with 4 KiB leaves, 2 with 64 KiB leaves"],
  S1ContextPtr: [55, 6, "address of the CD table; an IPA with stage 2"],
  S1CDMax: [63, 59, "log2 of the number of CDs"],
  S1DSS: [65, 64, "without SubstreamID: 0 terminate, 1 bypass stage 1, 2 CD 0"],
  S1CIR: [67, 66, "CD table inner cacheability"],
  S1COR: [69, 68, "CD table outer cacheability"],
  S1CSH: [71, 70, "CD table shareability"],
  S2HWU59: [72, 72, "meaning of stage 2 descriptor bit 59"],
  S2HWU60: [73, 73, "meaning of stage 2 descriptor bit 60"],
  S2HWU61: [74, 74, "meaning of stage 2 descriptor bit 61"],
  S2HWU62: [75, 75, "meaning of stage 2 descriptor bit 62"],
  DRE: [76, 76, "destructive reads"],
  CONT: [80, 77, "log2 of neighbouring identical STEs"],
  DCP: [81, 81, "directed cache prefetch"],
  PPAR: [82, 82, "PRI page request auto-responses carry a PASID"],
  MEV: [83, 83, "events may be merged"],
  SW_RESERVED: [87, 84, "for software"],
  S1PIE: [88, 88, "stage 1 permission indirection"],
  S2FWB: [89, 89, "stage 2 forced write-back"],
  S1MPAM: [90, 90, "stage 1 controls MPAM"],
  S1STALLD: [91, 91, "stage 1 stalls disabled"],
  EATS: [93, 92, "ATS: 0 none, 1 full, 2 split stage, 3 DPT"],
  STRW: [95, 94, "StreamWorld: 0 EL1, 2 any EL2"],
  MemAttr: [99, 96, "memory type for MTCFG"],
  MTCFG: [100, 100, "override the memory type"],
  ALLOCCFG: [104, 101, "override allocation hints"],
  SHCFG: [109, 108, "shareability, 1 uses the incoming"],
  NSCFG: [111, 110, "Non-secure attribute, for Secure streams"],
  PRIVCFG: [113, 112, "2 unprivileged, 3 privileged, else the incoming"],
  INSTCFG: [115, 114, "2 data, 3 instruction, else the incoming"],
  ImplDef0: [127, 116, "IMPLEMENTATION DEFINED"],
  S2VMID: [143, 128, "VMID"],
  ImplDef1: [159, 144, "IMPLEMENTATION DEFINED"],
  S2T0SZ: [165, 160, "stage 2 input is 64 - S2T0SZ bits"],
  S2SL0: [167, 166, "stage 2 starting level"],
  S2IR0: [169, 168, "stage 2 tables inner cacheability"],
  S2OR0: [171, 170, "stage 2 tables outer cacheability"],
  S2SH0: [173, 172, "stage 2 tables shareability"],
  S2TG: [175, 174, "stage 2 granule: 0 4 KiB, 1 64 KiB, 2 16 KiB"],
  S2PS: [178, 176, "stage 2 output size, as IDR5.OAS"],
  S2AA64: [179, 179, "stage 2 tables are VMSAv8-64"],
  S2ENDI: [180, 180, "stage 2 tables are big-endian"],
  S2AFFD: [181, 181, "stage 2 Access flag faults disabled"],
  S2PTW: [182, 182, "protected table walk"],
  S2HD: [183, 183, "stage 2 hardware update of dirty state"],
  S2HA: [184, 184, "stage 2 hardware update of the Access flag"],
  S2S: [185, 185, "stage 2 faults stall"],
  S2R: [186, 186, "stage 2 faults are recorded"],
  S2HAFT: [187, 187, "Access flag in stage 2 tables"],
  S2PIE: [188, 188, "stage 2 permission indirection"],
  S2POE: [189, 189, "stage 2 permission overlays"],
  DPT_VMATCH: [191, 190, "DPT match"],
  S2NSW: [192, 192, "Secure: space of stage 2 walks"],
  S2NSA: [193, 193, "Secure: space of stage 2 outputs"],
  S2SL0_2: [194, 194, "third bit of S2SL0"],
  S2DS: [195, 195, "stage 2 tables are LPA2"],
  S2TTB: [247, 196, "address of the stage 2 root"],
  S2SKL: [254, 253, "skipped levels, for 128-bit descriptors"],
  ImplDef2: [271, 256, "IMPLEMENTATION DEFINED"],
  PARTID: [287, 272, "MPAM partition"],
  S_S2T0SZ: [293, 288, "Secure stage 2: S2T0SZ"],
  S_S2SL0: [295, 294, "Secure stage 2: S2SL0"],
  S_S2TG: [303, 302, "Secure stage 2: S2TG"],
  MECID: [319, 304, "memory encryption context"],
  PMG: [327, 320, "MPAM performance group"],
  MPAM_NS: [328, 328, "MPAM space"],
  AssuredOnly: [329, 329, "stage 2 AssuredOnly check"],
  TL0: [330, 330, "TopLevel0"],
  TL1: [331, 331, "TopLevel1"],
  VMSPtr: [375, 332, "address of the Virtual Machine Structure"],
  S2SW: [384, 384, "Secure: space of walks"],
  S2SA: [385, 385, "Secure: space of outputs"],
  S_S2SL0_2: [386, 386, "Secure stage 2: S2SL0_2"],
  S_S2TTB: [439, 388, "Secure stage 2: root"],
  S_S2SKL: [446, 445, "Secure stage 2: skipped levels"],
  S2POI: [511, 448, "stage 2 permission overlay indirection"],
} as const
/** §5.2 */
export const STE: BitLayout<typeof fieldsSte> = bitLayout("STE", "IHI 0070 G.b §5.2", 512, fieldsSte)
