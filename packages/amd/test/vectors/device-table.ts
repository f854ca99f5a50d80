/**
 * Device table entries of a Linux 6.12 guest, read from its memory, and the pieces of one entry written out from the
 * book's figure 7. `words` are the four 64-bit words of the entry.
 */
export const LINUX_NVME = {
  words: [0x6000000140ba8603n, 0x2n, 0x200000014020c013n, 0x0n],
  fields: {
    V: 1n,
    TV: 1n,
    Mode: 3n,
    HostPageTableRootPtr: 0x140ba8n,
    IR: 1n,
    IW: 1n,
    DomainID: 2n,
    IV: 1n,
    IntTabLen: 9n,
    IntTabRootPtr: 0x14020c000n >> 6n,
    IntCtl: 2n,
  },
} as const

/** "Unused" entry of the same machine: valid, translation valid, no levels, no rights. */
export const LINUX_UNUSED = { words: [0x3n, 0x0n, 0x200000014020e013n, 0x0n] } as const

/** One bit or field at a time: `[word, value]`. Positions typed from figure 7 and table 7 of AMD 48882. */
export const DTE_BITS = {
  V: [0, 0x0000_0000_0000_0001n],
  TV: [0, 0x0000_0000_0000_0002n],
  HAD: [0, 0x0000_0000_0000_0180n],
  Mode: [0, 0x0000_0000_0000_0e00n],
  HostPageTableRootPtr: [0, 0x000f_ffff_ffff_f000n],
  PPR: [0, 0x0010_0000_0000_0000n],
  GPRP: [0, 0x0020_0000_0000_0000n],
  GIOV: [0, 0x0040_0000_0000_0000n],
  GV: [0, 0x0080_0000_0000_0000n],
  GLX: [0, 0x0300_0000_0000_0000n],
  GCR3_14_12: [0, 0x1c00_0000_0000_0000n],
  IR: [0, 0x2000_0000_0000_0000n],
  IW: [0, 0x4000_0000_0000_0000n],
  DomainID: [1, 0x0000_0000_0000_ffffn],
  GCR3_30_15: [1, 0x0000_0000_ffff_0000n],
  I: [1, 0x0000_0001_0000_0000n],
  SE: [1, 0x0000_0002_0000_0000n],
  SA: [1, 0x0000_0004_0000_0000n],
  IoCtl: [1, 0x0000_0018_0000_0000n],
  Cache: [1, 0x0000_0020_0000_0000n],
  SD: [1, 0x0000_0040_0000_0000n],
  EX: [1, 0x0000_0080_0000_0000n],
  SysMgt: [1, 0x0000_0300_0000_0000n],
  SATS: [1, 0x0000_0400_0000_0000n],
  GCR3_51_31: [1, 0xffff_f800_0000_0000n],
  IV: [2, 0x0000_0000_0000_0001n],
  IntTabLen: [2, 0x0000_0000_0000_001en],
  IG: [2, 0x0000_0000_0000_0020n],
  IntTabRootPtr: [2, 0x000f_ffff_ffff_ffc0n],
  GuestPagingMode: [2, 0x00c0_0000_0000_0000n],
  InitPass: [2, 0x0100_0000_0000_0000n],
  EIntPass: [2, 0x0200_0000_0000_0000n],
  NMIPass: [2, 0x0400_0000_0000_0000n],
  HPTMode: [2, 0x0800_0000_0000_0000n],
  IntCtl: [2, 0x3000_0000_0000_0000n],
  Lint0Pass: [2, 0x4000_0000_0000_0000n],
  Lint1Pass: [2, 0x8000_0000_0000_0000n],
  vImuEn: [3, 0x0000_0000_0000_8000n],
  GDeviceID: [3, 0x0000_0000_ffff_0000n],
  GuestID: [3, 0x0000_ffff_0000_0000n],
  AttrV: [3, 0x0040_0000_0000_0000n],
  Mode0FC: [3, 0x0080_0000_0000_0000n],
  SnoopAttribute: [3, 0xff00_0000_0000_0000n],
} as const
