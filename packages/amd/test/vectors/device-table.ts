/**
 * Device table entries of a Linux 6.12 guest, read from its memory.
 * `words` are the four 64-bit words of the entry.
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
