/**
 * Bit positions as the figures of Intel VT-d 5.10 (D51397-018) have them, each compared with a second source that was
 * written from the book by others:
 *
 * - "VirtualBox": include/VBox/iommu-intel.h, which has every structure of chapters 9 and 11 and the descriptors of
 *   6.5.2. It calls the stages "first level" and "second level", and has EMT, PWT, PCD, ERE, NXE and SMEP in the PASID
 *   table entry, which the book has dropped since.
 * - "Linux": drivers/iommu/intel/iommu.h and pasid.h, QI_*, DMA_*, ecap_* and cap_*.
 * - "QEMU": hw/i386/intel_iommu_internal.h.
 *
 * OpenVMM's intel_vtd differs in iotlb_inv_dsc (G at 6:5), iec_inv_dsc (IM at 27:23) and IQA (DW at 3); the three above
 * agree with the book there.
 */
import type { LayoutVector, MaskVector } from "@iommu/conformance"

const FS = "P 0, RW 1, US 2, PWT 3, PCD 4, A 5, Ignored9 9, EA 10, Ignored11 11, Ignored 62:52, XD 63"
const SS = "R 0, W 1, X 2, EMT 5:3, IPAT 6, A 8, D 9, Ignored10 10, SNP 11, Ignored 61:52, Ignored63 63"
const TYPE = "Type 3:0, TypeHi 11:9"

export const STRUCTURES: readonly LayoutVector[] = [
  { layout: "ROOT", from: "§9.1, VirtualBox", fields: "P 0, CTP 63:12" },
  { layout: "SCALABLE_ROOT", from: "§9.2, VirtualBox", fields: "LP 0, LCTP 63:12, UP 64, UCTP 127:76" },
  {
    layout: "CONTEXT",
    from: "§9.3, VirtualBox, Linux",
    fields: "P 0, FPD 1, TT 3:2, SSPTPTR 63:12, AW 66:64, IGN 70:67, DID 87:72",
  },
  {
    layout: "SCALABLE_CONTEXT",
    from: "§9.4, VirtualBox, Linux",
    fields: "P 0, FPD 1, DTE 2, PASIDE 3, PRE 4, PDTS 11:9, PASIDDIRPTR 63:12, RID_PASID 83:64, RID_PRIV 84",
  },
  { layout: "PASID_DIRECTORY", from: "§9.5, VirtualBox", fields: "P 0, FPD 1, SMPTBLPTR 63:12" },
  {
    layout: "PASID_ENTRY",
    from: "§9.6, VirtualBox, Linux",
    fields:
      "P 0, FPD 1, AW 4:2, PGTT 8:6, SSADE 9, SSPTPTR 63:12, DID 79:64, PWSNP 87, PGSNP 88, CD 89, " +
      "EMTE 90, PAT 127:96, SRE 128, FSPM 131:130, WPE 132, IGN 134:133, EAFE 135, FSPTPTR 191:140",
  },
  { layout: "FsTable", from: "§9.7, VirtualBox", fields: `${FS}, Ignored6 6, PS 7, Ignored8 8, ADDR 51:12` },
  { layout: "FsPte", from: "§9.7", fields: `${FS}, D 6, PAT 7, G 8, ADDR 51:12` },
  { layout: "FsPde2M", from: "§9.7", fields: `${FS}, D 6, PS 7, G 8, PAT 12, ADDR 51:21` },
  { layout: "FsPdpe1G", from: "§9.7", fields: `${FS}, D 6, PS 7, G 8, PAT 12, ADDR 51:30` },
  {
    layout: "SsTable",
    from: "§9.8, VirtualBox",
    fields: "R 0, W 1, X 2, Ignored3 6:3, PS 7, A 8, Ignored9 10:9, ADDR 51:12, Ignored 61:52, Ignored63 63",
  },
  { layout: "SsPte", from: "§9.8, Linux", fields: `${SS}, Ignored7 7, ADDR 51:12` },
  { layout: "SsPde2M", from: "§9.8, Linux", fields: `${SS}, PS 7, ADDR 51:21` },
  { layout: "SsPdpe1G", from: "§9.8, Linux", fields: `${SS}, PS 7, ADDR 51:30` },
]

export const DESCRIPTORS: readonly LayoutVector[] = [
  {
    layout: "CC_INV_DSC",
    from: "§6.5.2.1, VirtualBox",
    fields: `${TYPE}, G 5:4, DID 31:16, SID 47:32, FM 49:48`,
  },
  { layout: "PC_INV_DSC", from: "§6.5.2.2, VirtualBox", fields: `${TYPE}, G 5:4, DID 31:16, PASID 51:32` },
  {
    layout: "IOTLB_INV_DSC",
    from: "§6.5.2.3, VirtualBox",
    fields: `${TYPE}, G 5:4, DW 6, DR 7, DID 31:16, AM 69:64, IH 70, ADDR 127:76`,
  },
  {
    layout: "P_IOTLB_INV_DSC",
    from: "§6.5.2.4, VirtualBox",
    fields: `${TYPE}, G 5:4, DID 31:16, PASID 51:32, AM 69:64, IH 70, ADDR 127:76`,
  },
  {
    layout: "DEV_TLB_INV_DSC",
    from: "§6.5.2.5, Linux",
    fields: `${TYPE}, PFSIDLo 15:12, MIP 20:16, SID 47:32, PFSIDHi 63:52, S 64, ADDR 127:76`,
  },
  {
    layout: "P_DEV_TLB_INV_DSC",
    from: "§6.5.2.6, Linux",
    fields: `${TYPE}, MIP 8:4, PFSIDLo 15:12, SID 31:16, PASID 51:32, PFSIDHi 63:52, GI 64, S 75, ADDR 127:76`,
  },
  { layout: "IEC_INV_DSC", from: "§6.5.2.7, Linux", fields: `${TYPE}, G 4, IM 31:27, IIDX 47:32` },
  {
    layout: "INV_WAIT_DSC",
    from: "§6.5.2.8, Linux, OpenVMM",
    fields: `${TYPE}, IF 4, SW 5, FN 6, PD 7, STDATA 63:32, STADDR 127:66`,
  },
  {
    layout: "PAGE_GRP_RESP_DSC",
    from: "§7.7.1, Linux",
    fields: `${TYPE}, PP 4, RC 15:12, RID 31:16, PASID 51:32, LPIG 66, PRGI 75:67`,
  },
  {
    layout: "PAGE_REQ_DSC",
    from: "§7.4.1.1, Linux",
    fields:
      "Type 7:0, PP 8, RID 31:16, PASID 51:32, EXR 52, PMR 53, RDR 64, WRR 65, LPIG 66, PRGI 75:67, ADDR 127:76",
  },
]

export const REGISTERS: readonly LayoutVector[] = [
  {
    layout: "CAP",
    from: "§11.4.2, VirtualBox, OpenVMM",
    fields:
      "ND 2:0, AFL 3, RWBF 4, PLMR 5, PHMR 6, CM 7, SAGAW 12:8, MGAW 21:16, ZLR 22, FRO 33:24, " +
      "SSLPS 37:34, PSI 39, NFR 47:40, MAMV 53:48, DWD 54, DRD 55, FS1GP 56, PI 59, FS5LP 60, ECMDS 61, " +
      "ESIRTPS 62, ESRTPS 63",
  },
  {
    layout: "ECAP",
    from: "§11.4.3, VirtualBox, OpenVMM",
    fields:
      "C 0, QI 1, DT 2, IR 3, EIM 4, PT 6, SC 7, IRO 17:8, MHMV 23:20, MTS 25, NEST 26, PRS 29, ERS 30, " +
      "SRS 31, NWFS 33, EAFS 34, PSS 39:35, PASID 40, DIT 41, PDS 42, SMTS 43, VCS 44, SSADS 45, " +
      "SSTS 46, FSTS 47, SMPWCS 48, RPS 49, PMS 51, ADMS 52, RPRIVS 53, SMS 58",
  },
  { layout: "RTADDR", from: "§11.4.5, VirtualBox", fields: "TTM 11:10, RTA 63:12" },
  {
    layout: "CCMD",
    from: "§11.4.6.1, VirtualBox",
    fields: "DID 15:0, SID 31:16, FM 33:32, CAIG 60:59, CIRG 62:61, ICC 63",
  },
  {
    layout: "IOTLB",
    from: "§11.4.6.3, VirtualBox",
    fields: "DID 47:32, DW 48, DR 49, IAIG 58:57, IIRG 61:60, IVT 63",
  },
  { layout: "IVA", from: "§11.4.6.4, VirtualBox", fields: "AM 5:0, IH 6, ADDR 63:12" },
  {
    layout: "FRCD",
    from: "§11.4.7.6, VirtualBox",
    fields:
      "FI 63:12, SID 79:64, T2 92, PRIV 93, EXE 94, PP 95, FR 103:96, PV 123:104, AT 125:124, T1 126, F 127",
  },
  { layout: "IQA", from: "§11.4.9.3, Linux, QEMU", fields: "QS 2:0, DW 11, IQA 63:12" },
  { layout: "IQERCD", from: "§11.4.9.9, Linux", fields: "IQEI 3:0, ITESID 47:32, ICESID 63:48" },
  { layout: "IRTA", from: "§11.4.10, OpenVMM", fields: "S 3:0, EIME 11, IRTA 63:12" },
]

export const MASKS: readonly MaskVector[] = [
  {
    from: "§9.8, VirtualBox, Linux",
    masks: "SS_R 0, SS_W 1, SS_X 2, SS_IPAT 6, SS_PS 7, SS_A 8, SS_D 9, SS_SNP 11, SS_RSVD_HI 30",
  },
  {
    from: "§9.7, VirtualBox",
    masks:
      "FS_P 0, FS_RW 1, FS_US 2, FS_PWT 3, FS_PCD 4, FS_A 5, FS_D 6, FS_PS 7, FS_PAT 7, FS_G 8, FS_EA 10, " +
      "FS_PAT_LARGE 12, FS_XD_HI 31, ADDR_LO 31:12, ADDR_HI 19:0",
  },
  {
    from: "§11.4.4.1, VirtualBox",
    masks: "CFI 23, SIRTP 24, IRE 25, QIE 26, WBF 27, EAFL 28, SFL 29, SRTP 30, TE 31",
  },
  { from: "§11.4.7.1, VirtualBox", masks: "PFO 0, PPF 1, AFO 2, APF 3, IQE 4, ICE 5, ITE 6" },
  { from: "§11.4.7.2, VirtualBox", masks: "IM 31, IP 30" },
  { from: "§11.4.8.1, Linux", masks: "EPM 31, PMEN_PRS 0" },
  { from: "§11.4.9.4, VirtualBox", masks: "IWC 0" },
  { from: "§11.4.9.1, OpenVMM", masks: "QUEUE_OFFSET_MASK 18:4" },
  { from: "§11.4.11.4, Linux", masks: "PPR 0, PRO 1" },
]

/** Offsets of registers: Linux's drivers/iommu/intel/iommu.h. */
export const REGISTER_VECTORS: readonly (readonly [name: string, offset: number])[] = [
  ["VER", 0x0],
  ["CAP", 0x8],
  ["ECAP", 0x10],
  ["GCMD", 0x18],
  ["GSTS", 0x1c],
  ["RTADDR", 0x20],
  ["CCMD", 0x28],
  ["FSTS", 0x34],
  ["FECTL", 0x38],
  ["FEDATA", 0x3c],
  ["FEADDR", 0x40],
  ["FEUADDR", 0x44],
  ["AFLOG", 0x58],
  ["PMEN", 0x64],
  ["PLMBASE", 0x68],
  ["PLMLIMIT", 0x6c],
  ["PHMBASE", 0x70],
  ["PHMLIMIT", 0x78],
  ["IQH", 0x80],
  ["IQT", 0x88],
  ["IQA", 0x90],
  ["ICS", 0x9c],
  ["IQERCD", 0xb0],
  ["IRTA", 0xb8],
  ["PQH", 0xc0],
  ["PQT", 0xc8],
  ["PQA", 0xd0],
  ["PRS", 0xdc],
  ["PECTL", 0xe0],
  ["PEDATA", 0xe4],
  ["PEADDR", 0xe8],
  ["PEUADDR", 0xec],
]

/** Fault reasons: Table 30 of the book; SGN.3 only in earlier revisions and in Linux's dmar.c. */
export const REASON_VECTORS: readonly (readonly [name: string, code: number, qualified: boolean])[] = [
  ["29h", 0x29, false],
  ["LRT.1", 0x8, false],
  ["LRT.2", 0x1, false],
  ["LRT.3", 0xa, false],
  ["LCT.1", 0x9, false],
  ["LCT.2", 0x2, true],
  ["LCT.3", 0xb, true],
  ["LCT.4", 0x3, true],
  ["LCT.5", 0xd, true],
  ["LSS.1", 0x7, true],
  ["LSS.2", 0xc, true],
  ["LGN.1", 0x4, true],
  ["LGN.2", 0x5, true],
  ["LGN.3", 0x6, true],
  ["LGN.4", 0xe, true],
  ["RTA.1", 0x30, false],
  ["RTA.2", 0x31, false],
  ["RTA.3", 0x32, false],
  ["RTA.4", 0x33, false],
  ["RTA.5", 0x34, false],
  ["SRT.1", 0x38, false],
  ["SRT.2", 0x39, false],
  ["SRT.3", 0x3a, false],
  ["SCT.1", 0x40, false],
  ["SCT.2", 0x41, true],
  ["SCT.3", 0x42, true],
  ["SCT.4", 0x43, true],
  ["SCT.5", 0x44, true],
  ["SCT.6", 0x45, true],
  ["SCT.7", 0x46, true],
  ["SCT.8", 0x47, true],
  ["SCT.9", 0x48, true],
  ["SPD.1", 0x50, false],
  ["SPD.2", 0x51, true],
  ["SPD.3", 0x52, true],
  ["SPT.1", 0x58, false],
  ["SPT.2", 0x59, true],
  ["SPT.3", 0x5a, true],
  ["SPT.4", 0x5b, true],
  ["SPT.5", 0x5c, true],
  ["SPT.6", 0x5d, true],
  ["SFS.1", 0x70, true],
  ["SFS.2", 0x71, true],
  ["SFS.3", 0x72, true],
  ["SFS.4", 0x73, true],
  ["SFS.5", 0x74, true],
  ["SFS.6", 0x75, true],
  ["SFS.7", 0x76, true],
  ["SFS.8", 0x77, true],
  ["SFS.9", 0x90, true],
  ["SFS.10", 0x91, true],
  ["SSS.1", 0x78, true],
  ["SSS.2", 0x79, true],
  ["SSS.3", 0x7a, true],
  ["SSS.4", 0x7b, true],
  ["SSS.5", 0x7c, true],
  ["SSS.6", 0x7d, true],
  ["SGN.1", 0x80, true],
  ["SGN.2", 0x81, true],
  ["SGN.3", 0x82, true],
  ["SGN.4", 0x83, true],
  ["SGN.5", 0x84, true],
  ["SGN.6", 0x85, true],
  ["SGN.7", 0x86, true],
  ["SGN.8", 0x87, true],
  ["SGN.10", 0x89, true],
]
