/**
 * Bit positions as AMD 48882 rev. 3.10 has them, each compared with sources that were written from the book by others:
 *
 * - "VirtualBox": include/VBox/iommu-amd.h, which has every structure with bit ranges (revision 3.05).
 * - "OpenVMM": vm/devices/iommu/amd_iommu/src/spec (revision 3.08).
 * - "NOVA": src/x86_64/smmu_amd.hpp, registers and STATUS (revision 3.10).
 * - "Linux": drivers/iommu/amd/amd_iommu_types.h, and its io_pgtable_v2.c for the v2 tables.
 *
 * Where they disagree, docs/amd.md says which one these follow.
 */
import type { LayoutVector, MaskVector } from "@iommu/conformance"

const V2 = "P 0, RW 1, US 2, PWT 3, PCD 4, A 5, AVL 11:9, Address 51:12, Available 62:52, NX 63"
const V2_LARGE = "P 0, RW 1, US 2, PWT 3, PCD 4, A 5, D 6, AVL 11:9, Address 51:21, Available 62:52, NX 63"
const PAGE_REQUEST =
  "DeviceID 15:0, PASID_15_0 31:16, Tag 40:32, Last 41, PASID_19_16 45:42, EX 49, RD 50, WR 53, US 54, RZ 55, " +
  "GN 56, Code 63:60"

export const TABLES: readonly LayoutVector[] = [
  {
    layout: "DTE",
    from: "§2.2.2.1, VirtualBox, OpenVMM",
    fields:
      "V 0, TV 1, CxlMemAttr 6:4, HAD 8:7, Mode 11:9, HostPageTableRootPtr 51:12, PPR 52, GPRP 53, " +
      "GIOV 54, GV 55, GLX 57:56, GCR3_14_12 60:58, IR 61, IW 62, DomainID 79:64, GCR3_30_15 95:80, " +
      "I 96, SE 97, SA 98, IoCtl 100:99, Cache 101, SD 102, EX 103, SysMgt 105:104, SATS 106, " +
      "GCR3_51_31 127:107, IV 128, IntTabLen 132:129, IG 133, IntTabRootPtr 179:134, " +
      "GuestPagingMode 183:182, InitPass 184, EIntPass 185, NMIPass 186, HPTMode 187, IntCtl 189:188, " +
      "Lint0Pass 190, Lint1Pass 191, vImuEn 207, GDeviceID 223:208, GuestID 239:224, AttrV 246, " +
      "Mode0FC 247, SnoopAttribute 255:248",
  },
  {
    layout: "GCR3",
    from: "§2.2.6, Linux",
    fields: "V 0, Address 51:12",
  },
  {
    layout: "V1Pte",
    from: "§2.2.3, VirtualBox, OpenVMM",
    fields:
      "PR 0, Ignored1 4:1, A 5, D 6, Ignored7 8:7, NextLevel 11:9, PageAddress 51:12, U 59, FC 60, " +
      "IR 61, IW 62, Ignored63 63",
  },
  {
    layout: "V1Pde",
    from: "§2.2.3, VirtualBox, OpenVMM",
    fields:
      "PR 0, Ignored1 4:1, A 5, Ignored6 8:6, NextLevel 11:9, NextTableAddress 51:12, IR 61, IW 62, " +
      "Ignored63 63",
  },
  { layout: "V2Table", from: "§2.2.6, Linux", fields: `${V2}, Ignored6 6, PS 7, Ignored8 8` },
  { layout: "V2Pte", from: "§2.2.6, Linux", fields: `${V2}, D 6, PAT 7, G 8` },
  { layout: "V2Large", from: "§2.2.6, Linux", fields: `${V2_LARGE}, PS 7, G 8, PAT 12` },
]

export const COMMAND_LAYOUTS: readonly LayoutVector[] = [
  {
    layout: "COMPLETION_WAIT",
    from: "§2.4.1, VirtualBox, OpenVMM",
    fields: "S 0, I 1, F 2, StoreAddress 51:3, Opcode 63:60, StoreData 127:64",
  },
  {
    layout: "INVALIDATE_DEVTAB_ENTRY",
    from: "§2.4.2, VirtualBox",
    fields: "DeviceID 15:0, Opcode 63:60",
  },
  {
    layout: "INVALIDATE_IOMMU_PAGES",
    from: "§2.4.3, VirtualBox, OpenVMM",
    fields: "PASID 19:0, DomainID 47:32, Opcode 63:60, S 64, PDE 65, GN 66, Address 127:76",
  },
  {
    layout: "INVALIDATE_IOTLB_PAGES",
    from: "§2.4.4, VirtualBox, Linux",
    fields:
      "DeviceID 15:0, PASID_15_8 23:16, MaxPend 31:24, QueueID 47:32, PASID_7_0 55:48, " +
      "PASID_19_16 59:56, Opcode 63:60, S 64, GN 66, Type 69:68, Address 127:76",
  },
  {
    layout: "INVALIDATE_INTERRUPT_TABLE",
    from: "§2.4.5, VirtualBox",
    fields: "DeviceID 15:0, Opcode 63:60",
  },
  {
    layout: "PREFETCH_IOMMU_PAGES",
    from: "§2.4.6",
    fields:
      "DeviceID 15:0, PASID_15_8 23:16, PFCount 31:24, PASID_7_0 55:48, PASID_19_16 59:56, Opcode 63:60, " +
      "S 64, GN 66, Inval 68, Address 127:76",
  },
  {
    layout: "COMPLETE_PPR_REQUEST",
    from: "§2.4.7, VirtualBox",
    fields: "DeviceID 15:0, PASID 51:32, Opcode 63:60, GN 66, CompletionTag 111:96",
  },
  {
    layout: "INVALIDATE_IOMMU_ALL",
    from: "§2.4.8, VirtualBox",
    fields: "Opcode 63:60",
  },
]

export const EVENT_LAYOUTS: readonly LayoutVector[] = [
  {
    layout: "ILLEGAL_DEV_TABLE_ENTRY",
    from: "§2.5.2, VirtualBox",
    fields:
      "DeviceID 15:0, PASID_19_16 19:16, PASID_15_0 47:32, GN 48, I 51, RW 53, RZ 55, TR 56, Code 63:60, " +
      "Address 127:66",
  },
  {
    layout: "IO_PAGE_FAULT",
    from: "§2.5.3, VirtualBox",
    fields:
      "DeviceID 15:0, PASID_19_16 19:16, DomainID 47:32, GN 48, NX 49, US 50, I 51, PR 52, RW 53, PE 54, " +
      "RZ 55, TR 56, Code 63:60, Address 127:64",
  },
  {
    layout: "DEV_TAB_HARDWARE_ERROR",
    from: "§2.5.4, VirtualBox",
    fields: "DeviceID 15:0, I 51, RW 53, TR 56, Type 58:57, Code 63:60, Address 127:68",
  },
  {
    layout: "PAGE_TAB_HARDWARE_ERROR",
    from: "§2.5.5, VirtualBox",
    fields:
      "DeviceID 15:0, PASID_19_16 19:16, DomainID 47:32, GN 48, I 51, RW 53, TR 56, Type 58:57, " +
      "Code 63:60, Address 127:67",
  },
  {
    layout: "ILLEGAL_COMMAND_ERROR",
    from: "§2.5.6, VirtualBox",
    fields: "Code 63:60, Address 127:68",
  },
  {
    layout: "COMMAND_HARDWARE_ERROR",
    from: "§2.5.7",
    fields: "Type 58:57, Code 63:60, Address 127:68",
  },
  {
    layout: "IOTLB_INV_TIMEOUT",
    from: "§2.5.8, VirtualBox",
    fields: "DeviceID 15:0, Code 63:60, Address 127:68",
  },
  {
    layout: "INVALID_DEVICE_REQUEST",
    from: "§2.5.9, VirtualBox",
    fields:
      "DeviceID 15:0, PASID_19_16 19:16, PASID_15_0 47:32, GN 48, NX 49, US 50, TR 56, Type 59:57, " +
      "Code 63:60, Address 127:64",
  },
  { layout: "INVALID_PPR_REQUEST", from: "§2.5.10, Linux", fields: `${PAGE_REQUEST}, Address 127:64` },
  { layout: "PAGE_SERVICE_REQUEST", from: "§2.6, Linux", fields: `${PAGE_REQUEST}, Address 127:76` },
]

export const REGISTER_LAYOUTS: readonly LayoutVector[] = [
  {
    layout: "CONTROL",
    from: "§3.4, 0018h, VirtualBox, OpenVMM",
    fields:
      "IommuEn 0, HtTunEn 1, EventLogEn 2, EventIntEn 3, ComWaitIntEn 4, InvTimeOut 7:5, PassPW 8, " +
      "ResPassPW 9, Coherent 10, Isoc 11, CmdBufEn 12, PPRLogEn 13, PPRIntEn 14, PPREn 15, GTEn 16, " +
      "GAEn 17, CRW 21:18, SmiFEn 22, SlfWBDis 23, SmiFLogEn 24, GAMEn 27:25, GALogEn 28, GAIntEn 29, " +
      "DualPprLogEn 31:30, DualEventLogEn 33:32, DevTblSegEn 36:34, PrivAbrtEn 38:37, PprAutoRspEn 39, " +
      "MarcEn 40, BlkStopMrkEn 41, PprAutoRspAon 42, NumIntRemapMode 44:43, EPHEn 45, HADUpdate 47:46, " +
      "GDUpdateDis 48, XTEn 50, IntCapXTEn 51, vCmdEn 52, vIommuEn 53, GAUpdateDis 54, GAPPIEn 55, " +
      "TMPMEn 56, GCR3TRPMode 58, IRTCacheDis 59, GstBufferTRPMode 60, SNPAVICEn 63:61",
  },
  {
    layout: "EXT_FEATURES",
    from: "§3.4, 0030h, VirtualBox, OpenVMM",
    fields:
      "PreFSup 0, PPRSup 1, XTSup 2, NXSup 3, GTSup 4, GAPPISup 5, IASup 6, GASup 7, HESup 8, PCSup 9, " +
      "HATS 11:10, GATS 13:12, GLXSup 15:14, SmiFSup 17:16, SmiFRC 20:18, GAMSup 23:21, " +
      "DualPprLogSup 25:24, DualEventLogSup 29:28, SATSSup 31, PASmax 36:32, USSup 37, " +
      "DevTblSegSup 39:38, PprOvrflwEarlySup 40, PprAutoRspSup 41, MarcSup 43:42, BlkStopMrkSup 44, " +
      "PerfOptSup 45, MsiCapMmioSup 46, SnoopAttrSup 47, GIoSup 48, HASup 49, EPHSup 50, AttrFWSup 51, " +
      "HDSup 52, V2HDDisSup 53, InvIotlbTypeSup 54, vIommuSup 55, VmGuardIoSup 56, GAUpdateDisSup 61, " +
      "ForcePhyDestSup 62, SNPSup 63",
  },
  {
    layout: "EXT_FEATURES2",
    from: "§3.4, 01A0h, Linux",
    fields: "SEVSNPIOSup 1, TMPMSup 2, GCR3TRPModeSup 3, GAPPIDisSup 4, SNPAVICSup 7:5",
  },
  {
    layout: "MISC_INFO_0",
    from: "§3.4, 0150h, VirtualBox, QEMU",
    fields: "MsiNum 4:0, GVAsize 7:5, PAsize 14:8, VAsize 21:15, HtAtsResv 22, MsiNumPPR 31:27",
  },
  {
    layout: "PPR_AUTO_RESPONSE",
    from: "§3.4, 2080h, VirtualBox",
    fields: "PprAutoRespCode 3:0, PprAutoRespMaskGn 4",
  },
  {
    layout: "PPR_OVERFLOW_EARLY",
    from: "§3.4, 2088h, VirtualBox",
    fields: "PprOvrflwEarlyThreshold 14:0, PprOvrflwEarlyIntEn 30, PprOvrflwEarlyEn 31",
  },
  {
    layout: "STATUS",
    from: "§3.4, 2020h, VirtualBox, NOVA",
    fields:
      "EventOverflow 0, EventLogInt 1, ComWaitInt 2, EventLogRun 3, CmdBufRun 4, PprOverflow 5, " +
      "PprInt 6, PprLogRun 7, GALogRun 8, GALOverflow 9, GAInt 10, PprOvrflwB 11, PprLogActive 12, " +
      "EvtOvrflwB 15, EvtLogActive 16, PprOvrflwEarlyB 17, PprOvrflwEarly 18",
  },
]

/** Those ending in `_HI` are of bits 63:32 of their register. */
export const REGISTER_MASKS: readonly MaskVector[] = [
  {
    from: "§3.4, 0000h to 0028h, VirtualBox",
    masks: "DEVTAB_SIZE 8:0, DEVTAB_SEG_SIZE 7:0, BASE_LO 31:12, BASE_HI 19:0, EXCL_ExEn 0, EXCL_Allow 1",
  },
  {
    from: "§3.4, 0018h, VirtualBox, OpenVMM",
    masks:
      "CONTROL_IommuEn 0, CONTROL_HtTunEn 1, CONTROL_EventLogEn 2, CONTROL_EventIntEn 3, CONTROL_ComWaitIntEn 4, " +
      "CONTROL_PassPW 8, CONTROL_ResPassPW 9, CONTROL_Coherent 10, CONTROL_Isoc 11, CONTROL_CmdBufEn 12, " +
      "CONTROL_PPRLogEn 13, CONTROL_PPRIntEn 14, CONTROL_PPREn 15, CONTROL_GTEn 16, CONTROL_GAEn 17, " +
      "CONTROL_PprAutoRspEn_HI 7, CONTROL_PprAutoRspAon_HI 10, CONTROL_GDUpdateDis_HI 16, CONTROL_XTEn_HI 18, " +
      "CONTROL_IntCapXTEn_HI 19, CONTROL_GAUpdateDis_HI 22, CONTROL_GCR3TRPMode_HI 26",
  },
  {
    from: "§3.4, 0030h, VirtualBox, OpenVMM",
    masks:
      "EFR_PreFSup 0, EFR_PPRSup 1, EFR_XTSup 2, EFR_NXSup 3, EFR_GTSup 4, EFR_IASup 6, EFR_GASup 7, EFR_HESup 8, " +
      "EFR_USSup_HI 5, EFR_PprOvrflwEarlySup_HI 8, EFR_PprAutoRspSup_HI 9, EFR_GIoSup_HI 16, EFR_HASup_HI 17, " +
      "EFR_HDSup_HI 20",
  },
  { from: "§3.4, 01A0h, Linux", masks: "EFR2_GCR3TRPModeSup 3" },
  {
    from: "§3.4, 2020h, VirtualBox, NOVA",
    masks:
      "STATUS_EventOverflow 0, STATUS_EventLogInt 1, STATUS_ComWaitInt 2, STATUS_EventLogRun 3, STATUS_CmdBufRun 4, " +
      "STATUS_PprOverflow 5, STATUS_PprInt 6, STATUS_PprLogRun 7, STATUS_PprOvrflwEarly 18",
  },
  { from: "§3.4, 2000h to 2018h, OpenVMM", masks: "POINTER_MASK 18:4" },
  {
    from: "§3.4, 0170h, VirtualBox, OpenVMM",
    masks: "XT_DestMode 2, XT_Vector_HI_MASK 7:0, XT_DeliveryMode_HI 8",
  },
  {
    from: "§3.4, 2080h and 2088h, VirtualBox",
    masks:
      "AUTO_PprAutoRespCode 3:0, AUTO_PprAutoRespMaskGn 4, EARLY_Threshold 14:0, EARLY_IntEn 30, EARLY_En 31",
  },
]

export const PAGE_MASKS: readonly MaskVector[] = [
  {
    from: "§2.2.3, VirtualBox",
    masks: "V1_PR 0, V1_A 5, V1_D 6, V1_NEXT_LEVEL 11:9, V1_U_HI 27, V1_FC_HI 28, V1_IR_HI 29, V1_IW_HI 30",
  },
  {
    from: "§2.2.6, Linux",
    masks:
      "V2_P 0, V2_RW 1, V2_US 2, V2_PWT 3, V2_PCD 4, V2_A 5, V2_D 6, V2_PS 7, V2_PAT 7, V2_G 8, V2_PAT_LARGE 12, V2_NX_HI 31",
  },
]
