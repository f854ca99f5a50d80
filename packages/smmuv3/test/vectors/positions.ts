/**
 * Bit positions as the books have them, or programs that were written from the books by others. All bits count through
 * all words of a structure.
 *
 * - "IHI 0070": Arm IHI 0070 G.b, "Field descriptions" of its chapters 5 and 6, and the tables and texts of 4.4.1.1,
 *   4.7.3, 7.3 and 8.
 * - "Microsoft": the SMMUv3 driver's header of Microsoft's Arm firmware, structures SMMUV3_CMD_*, SMMUV3_*_FAULT. Its
 *   addresses end at bit 51, where G.b has bit 55.
 * - "Linux": drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.h, CMDQ_*, EVTQ_* and PRIQ_* per 64-bit word.
 * - "DDI 0487": the tables of descriptor fields in section D8.3.
 */
import type { LayoutVector, MaskVector } from "@iommu/conformance"

const SID = "SSec 10, StreamID 63:32"
const STREAM = "EventNumber 7:0, SSV 11, SubstreamID 31:12, StreamID 63:32"
const ACCESS = "PnU 97, InD 98, RnW 99"
const TRANSLATION = `${STREAM}, ${ACCESS}, STAG 79:64, Stall 95, NSIPA 102, S2 103, CLASS 105:104, InputAddr 191:128, IPA 247:204`
const S1 =
  "Type 1:0, AF 10, AttrIndx 4:2, NS 5, AP 7:6, nG 11, GP 50, DBM 51, Contiguous 52, PXN 53, UXN 54, Software 58:55, PBHA 62:59, Ignored63 63"
const S2 =
  "Type 1:0, AF 10, MemAttr 5:2, S2AP 7:6, FnXS 11, DBM 51, Contiguous 52, XN 54:53, Software 57:55, AssuredOnly 58, PBHA 62:59, AMEC 63"
const TABLE = "Type 1:0, PXNTable 59, XNTable 60, APTable 62:61, NSTable 63"
const RANGE = "NUM 16:12, SCALE 25:20, TTL128 71, TTL 73:72, TG 75:74, Leaf 64"

export const STRUCTURES: readonly LayoutVector[] = [
  {
    layout: "L1STD",
    from: "IHI 0070 5.1, Microsoft",
    fields: "Span 4:0, L2Ptr 55:6",
  },
  {
    layout: "STE",
    from: "IHI 0070 5.2",
    fields:
      "V 0, Config 3:1, S1Fmt 5:4, S1ContextPtr 55:6, S1CDMax 63:59, S1DSS 65:64, S1CIR 67:66, " +
      "S1COR 69:68, S1CSH 71:70, S2HWU59 72, S2HWU60 73, S2HWU61 74, S2HWU62 75, DRE 76, CONT 80:77, " +
      "DCP 81, PPAR 82, MEV 83, SW_RESERVED 87:84, S1PIE 88, S2FWB 89, S1MPAM 90, S1STALLD 91, EATS 93:92, " +
      "STRW 95:94, MemAttr 99:96, MTCFG 100, ALLOCCFG 104:101, SHCFG 109:108, NSCFG 111:110, " +
      "PRIVCFG 113:112, INSTCFG 115:114, ImplDef0 127:116, S2VMID 143:128, ImplDef1 159:144, " +
      "S2T0SZ 165:160, S2SL0 167:166, S2IR0 169:168, S2OR0 171:170, S2SH0 173:172, S2TG 175:174, " +
      "S2PS 178:176, S2AA64 179, S2ENDI 180, S2AFFD 181, S2PTW 182, S2HD 183, S2HA 184, S2S 185, S2R 186, " +
      "S2HAFT 187, S2PIE 188, S2POE 189, DPT_VMATCH 191:190, S2NSW 192, S2NSA 193, S2SL0_2 194, S2DS 195, " +
      "S2TTB 247:196, S2SKL 254:253, ImplDef2 271:256, PARTID 287:272, S_S2T0SZ 293:288, S_S2SL0 295:294, " +
      "S_S2TG 303:302, MECID 319:304, PMG 327:320, MPAM_NS 328, AssuredOnly 329, TL0 330, TL1 331, " +
      "VMSPtr 375:332, S2SW 384, S2SA 385, S_S2SL0_2 386, S_S2TTB 439:388, S_S2SKL 446:445, S2POI 511:448",
  },
  {
    layout: "L1CD",
    from: "IHI 0070 5.3, Microsoft",
    fields: "V 0, L2Ptr 55:12",
  },
  {
    layout: "CD",
    from: "IHI 0070 5.4",
    fields:
      "T0SZ 5:0, TG0 7:6, IR0 9:8, OR0 11:10, SH0 13:12, EPD0 14, ENDI 15, T1SZ 21:16, TG1 23:22, " +
      "IR1 25:24, OR1 27:26, SH1 29:28, EPD1 30, IPS 34:32, V 31, AFFD 35, WXN 36, UWXN 37, TBI0 38, " +
      "TBI1 39, PAN 40, AA64 41, HD 42, HA 43, ASET 47, S 44, R 45, A 46, ASID 63:48, NSCFG0 64, HAD0 65, " +
      "E0PD0 66, HAFT 67, TTB0 119:68, PnCH 122, EPAN 123, HWU059 124, HWU060 125, SKL0 127:126, " +
      "NSCFG1 128, HAD1 129, E0PD1 130, AIE 131, TTB1 183:132, DS 186, PIE 187, HWU159 188, HWU160 189, " +
      "SKL1 191:190, MAIR0 223:192, MAIR1 255:224, AMAIR0 287:256, AMAIR1 319:288, ImplDef 351:320, " +
      "PARTID 367:352, PMG 375:368, PIIU 431:384, PIIP 495:448",
  },
]

export const COMMANDS: readonly LayoutVector[] = [
  {
    layout: "PREFETCH_CONFIG",
    from: "Linux, IHI 0070 4.1.6",
    fields: `Opcode 7:0, ${SID}, SSV 11, SubstreamID 31:12`,
  },
  {
    layout: "PREFETCH_ADDR",
    from: "Linux, IHI 0070 4.2.2",
    fields: `Opcode 7:0, ${SID}, SSV 11, SubstreamID 31:12, Size 68:64, Stride 73:69, Address 127:76`,
  },
  { layout: "CFGI_STE", from: "Microsoft, Linux", fields: `Opcode 7:0, ${SID}, Leaf 64` },
  { layout: "CFGI_STE_RANGE", from: "Microsoft, Linux", fields: `Opcode 7:0, ${SID}, Range 68:64` },
  { layout: "CFGI_CD", from: "Microsoft, Linux", fields: `Opcode 7:0, ${SID}, SubstreamID 31:12, Leaf 64` },
  { layout: "CFGI_CD_ALL", from: "Microsoft, Linux", fields: `Opcode 7:0, ${SID}` },
  { layout: "CFGI_VMS_PIDM", from: "Microsoft", fields: "Opcode 7:0, SSec 10, VMID 47:32" },
  { layout: "TLBI_NH_ALL", from: "Microsoft", fields: "Opcode 7:0, VMID 47:32" },
  { layout: "TLBI_NH_ASID", from: "Microsoft, Linux", fields: "Opcode 7:0, VMID 47:32, ASID 63:48" },
  {
    layout: "TLBI_NH_VA",
    from: "Microsoft, Linux, IHI 0070 4.4.1.1",
    fields: `Opcode 7:0, VMID 47:32, ASID 63:48, ${RANGE}, Address 127:76`,
  },
  {
    layout: "TLBI_NH_VAA",
    from: "Microsoft, IHI 0070 4.4.1.1",
    fields: `Opcode 7:0, VMID 47:32, ${RANGE}, Address 127:76`,
  },
  { layout: "TLBI_EL2_ALL", from: "Microsoft", fields: "Opcode 7:0" },
  { layout: "TLBI_EL2_ASID", from: "Microsoft, Linux", fields: "Opcode 7:0, ASID 63:48" },
  {
    layout: "TLBI_EL2_VA",
    from: "Microsoft, IHI 0070 4.4.1.1",
    fields: `Opcode 7:0, ASID 63:48, ${RANGE}, Address 127:76`,
  },
  {
    layout: "TLBI_EL2_VAA",
    from: "Microsoft, IHI 0070 4.4.1.1",
    fields: `Opcode 7:0, ${RANGE}, Address 127:76`,
  },
  {
    layout: "TLBI_S2_IPA",
    from: "Microsoft, Linux, IHI 0070 4.4.1.1",
    fields: `Opcode 7:0, VMID 47:32, ${RANGE}, Address 119:76`,
  },
  { layout: "TLBI_S12_VMALL", from: "Microsoft, Linux", fields: "Opcode 7:0, VMID 47:32" },
  { layout: "TLBI_NSNH_ALL", from: "Microsoft", fields: "Opcode 7:0" },
  {
    layout: "ATC_INV",
    from: "Linux, IHI 0070 4.5.1",
    fields: `Opcode 7:0, ${SID}, Global 9, SSV 11, SubstreamID 31:12, Size 69:64, Address 127:76`,
  },
  {
    layout: "PRI_RESP",
    from: "Linux, IHI 0070 4.5.2",
    fields: `Opcode 7:0, ${SID}, SSV 11, SubstreamID 31:12, PRGIndex 72:64, Resp 77:76`,
  },
  { layout: "RESUME", from: "Microsoft, Linux", fields: `Opcode 7:0, ${SID}, Ac 12, Ab 13, STAG 79:64` },
  { layout: "STALL_TERM", from: "IHI 0070 4.1.6", fields: `Opcode 7:0, ${SID}` },
  {
    layout: "SYNC",
    from: "Microsoft, Linux, IHI 0070 4.7.3",
    fields: "Opcode 7:0, CS 13:12, MSH 23:22, MSIAttr 27:24, MSIData 63:32, MSIAddress 119:66",
  },
]

export const RECORDS: readonly LayoutVector[] = [
  { layout: "F_UUT", from: "Microsoft", fields: `${STREAM}, ${ACCESS}, Reason 79:64, InputAddr 191:128` },
  { layout: "C_BAD_STREAMID", from: "Microsoft", fields: STREAM },
  { layout: "C_BAD_STE", from: "Microsoft", fields: STREAM },
  { layout: "C_BAD_CD", from: "Microsoft", fields: STREAM },
  {
    layout: "F_STE_FETCH",
    from: "Microsoft, IHI 0070 7.3.20",
    fields: `${STREAM}, Reason 79:64, GPCF 80, FetchAddr 247:195`,
  },
  {
    layout: "F_CD_FETCH",
    from: "Microsoft, IHI 0070 7.3.20",
    fields: `${STREAM}, Reason 79:64, GPCF 80, FetchAddr 247:195`,
  },
  {
    layout: "F_BAD_ATS_TREQ",
    from: "Microsoft",
    fields: `${STREAM}, Span 67:64, PRIV 92, X 93, W 94, R 95, InputAddr 191:140`,
  },
  { layout: "F_STREAM_DISABLED", from: "Microsoft", fields: "EventNumber 7:0, StreamID 63:32" },
  {
    layout: "F_TRANSL_FORBIDDEN",
    from: "Microsoft, IHI 0070 7.3.8",
    fields: "EventNumber 7:0, StreamID 63:32, RnW 99, InputAddr 191:128",
  },
  {
    layout: "C_BAD_SUBSTREAMID",
    from: "Microsoft",
    fields: "EventNumber 7:0, SubstreamID 31:12, StreamID 63:32",
  },
  {
    layout: "F_WALK_EABT",
    from: "Microsoft, IHI 0070 7.3.20",
    fields: `${STREAM}, ${ACCESS}, Reason 79:64, GPCF 80, S2 103, CLASS 105:104, InputAddr 191:128, FetchAddr 247:195`,
  },
  { layout: "F_TRANSLATION", from: "Microsoft, Linux", fields: TRANSLATION },
  { layout: "F_ADDR_SIZE", from: "Microsoft, Linux", fields: TRANSLATION },
  { layout: "F_ACCESS", from: "Microsoft, Linux", fields: TRANSLATION },
  { layout: "F_PERMISSION", from: "Microsoft, Linux", fields: `${TRANSLATION}, TTRnW 108` },
  {
    layout: "PPR",
    from: "Linux, IHI 0070 8",
    fields:
      "StreamID 31:0, SubstreamID 51:32, Priv 58, X 59, R 60, W 61, Last 62, SSV 63, PRGIndex 72:64, Address 127:76",
  },
]

export const DESCRIPTORS: readonly LayoutVector[] = [
  { layout: "Stage1Leaf", from: "DDI 0487 D8.3", fields: `${S1}, SH 9:8, OA 47:12` },
  { layout: "Stage1LeafLpa", from: "DDI 0487 D8.3", fields: `${S1}, SH 9:8, OA_51_48 15:12, OA 47:16` },
  { layout: "Stage1LeafLpa2", from: "DDI 0487 D8.3", fields: `${S1}, OA_51_50 9:8, OA 49:12` },
  { layout: "Stage2Leaf", from: "DDI 0487 D8.3", fields: `${S2}, SH 9:8, OA 47:12` },
  { layout: "Stage2LeafLpa", from: "DDI 0487 D8.3", fields: `${S2}, SH 9:8, OA_51_48 15:12, OA 47:16` },
  { layout: "Stage2LeafLpa2", from: "DDI 0487 D8.3", fields: `${S2}, OA_51_50 9:8, OA 49:12` },
  { layout: "Table", from: "DDI 0487 D8.3", fields: `${TABLE}, TableAddress 47:12` },
  { layout: "TableLpa", from: "DDI 0487 D8.3", fields: `${TABLE}, TA_51_48 15:12, TableAddress 47:16` },
  { layout: "TableLpa2", from: "DDI 0487 D8.3", fields: `${TABLE}, TA_51_50 9:8, TableAddress 49:12` },
]

export const REGISTERS: readonly LayoutVector[] = [
  {
    layout: "IDR0",
    from: "IHI 0070 6.3.1",
    fields:
      "RME_IMPL 30, ST_LEVEL 28:27, TERM_MODEL 26, STALL_MODEL 25:24, ATSRECERR 23, TTENDIAN 22:21, " +
      "VATOS 20, CD2L 19, VMID16 18, VMW 17, PRI 16, ATOS 15, SEV 14, MSI 13, ASID16 12, NS1ATS 11, " +
      "ATS 10, Hyp 9, DORMHINT 8, HTTU 7:6, BTM 5, COHACC 4, TTF 3:2, S1P 1, S2P 0",
  },
  {
    layout: "IDR1",
    from: "IHI 0070 6.3.2",
    fields:
      "ECMDQ 31, TABLES_PRESET 30, QUEUES_PRESET 29, REL 28, ATTR_TYPES_OVR 27, ATTR_PERMS_OVR 26, " +
      "CMDQS 25:21, EVENTQS 20:16, PRIQS 15:11, SSIDSIZE 10:6, SIDSIZE 5:0",
  },
  {
    layout: "IDR3",
    from: "IHI 0070 6.3.4",
    fields:
      "AIE 23, MTEPERM 22, THE 21, S2PO 20, S2PI 19, S1PI 18, EPAN 17, PASIDTT 16, DPT 15, PTWNNC 14, " +
      "E0PD 13, BBML 12:11, RIL 10, STT 9, FWB 8, MPAM 7, PPS 5, XNX 4, PBHA 3, HAD 2",
  },
  {
    layout: "IDR5",
    from: "IHI 0070 6.3.6",
    fields: "STALL_MAX 31:16, VAX 11:10, D128 8, DS 7, GRAN64K 6, GRAN16K 5, GRAN4K 4, OAS 2:0",
  },
]

export const REGISTER_MASKS: readonly MaskVector[] = [
  {
    from: "IHI 0070 6.3.9",
    masks: "CR0_SMMUEN 0, CR0_PRIQEN 1, CR0_EVENTQEN 2, CR0_CMDQEN 3, CR0_ATSCHK 4, CR0_VMW 8:6",
  },
  {
    from: "IHI 0070 6.3.12",
    masks: "CR2_E2H 0, CR2_RECINVSID 1, CR2_PTM 2, CR2_REC_CFG_ATS 3",
  },
  {
    from: "IHI 0070 6.3.14",
    masks: "GBPA_SHCFG_INCOMING 12, GBPA_ABORT 20, GBPA_UPDATE 31",
  },
  {
    from: "IHI 0070 6.3.16",
    masks: "IRQ_CTRL_GERROR_IRQEN 0, IRQ_CTRL_PRIQ_IRQEN 1, IRQ_CTRL_EVENTQ_IRQEN 2",
  },
  {
    from: "IHI 0070 6.3.18",
    masks:
      "GERROR_CMDQ_ERR 0, GERROR_EVENTQ_ABT_ERR 2, GERROR_PRIQ_ABT_ERR 3, GERROR_MSI_CMDQ_ABT_ERR 4, " +
      "GERROR_MSI_EVENTQ_ABT_ERR 5, GERROR_MSI_PRIQ_ABT_ERR 6, GERROR_MSI_GERROR_ABT_ERR 7, " +
      "GERROR_SFM_ERR 8",
  },
  {
    from: "IHI 0070 6.3.24, ADDR 55:6 and RA 62",
    masks: "STRTAB_BASE_ADDR_LO 31:6, STRTAB_BASE_ADDR_HI 23:0, STRTAB_BASE_RA 62",
  },
  {
    from: "IHI 0070 6.3.25",
    masks: "STRTAB_BASE_CFG_LOG2SIZE 5:0, STRTAB_BASE_CFG_SPLIT 10:6, STRTAB_BASE_CFG_FMT 17:16",
  },
  {
    from: "IHI 0070 6.3.26, ADDR 55:5 and RA or WA 62",
    masks:
      "QUEUE_BASE_ADDR_LO 31:5, QUEUE_BASE_ADDR_HI 23:0, QUEUE_BASE_LOG2SIZE 4:0, QUEUE_BASE_ALLOCATE 62",
  },
  {
    from: "IHI 0070 6.3.27 to 6.3.31",
    masks: "QUEUE_INDEX 19:0, QUEUE_PROD_OVFLG 31, QUEUE_CONS_OVACKFLG 31, CMDQ_CONS_ERR 30:24",
  },
  {
    from: "IHI 0070 6.3.36",
    masks: "PRIQ_IRQ_CFG2_LO 31",
  },
]

/** Those ending in `_HI` are of bits 63:32. */
export const DESCRIPTOR_MASKS: readonly MaskVector[] = [
  {
    from: "DDI 0487 D8.3, both stages",
    masks:
      "VALID 0, TABLE 1, TYPE 1:0, ADDR_LO 31:12, ADDR_HI 15:0, LPA_OA_51_48 15:12, LPA2_ADDR_HI 17:0, " +
      "LPA2_OA_51_50 9:8, SH 9:8, AF 10, NT 16, DBM_HI 19, CONTIGUOUS_HI 20, SOFTWARE_HI 26:23",
  },
  {
    from: "DDI 0487 D8.3, stage 1",
    masks:
      "S1_ATTR_INDX 4:2, S1_NS 5, S1_AP 7:6, S1_AP1 6, S1_AP2 7, S1_NG 11, S1_GP_HI 18, S1_PXN_HI 21, " +
      "S1_UXN_HI 22, PXN_TABLE_HI 27, XN_TABLE_HI 28, AP_TABLE_HI 30:29, NS_TABLE_HI 31",
  },
  {
    from: "DDI 0487 D8.3, stage 2",
    masks: "S2_MEM_ATTR 5:2, S2_AP 7:6, S2_AP_READ 6, S2_AP_WRITE 7, S2_FNXS 11, S2_XN_HI 22:21",
  },
]
