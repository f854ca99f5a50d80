/**
 * Event log entries, word for word. Flags as logs of real machines print them (`flags=0x0070`: present, write, no
 * permission); positions typed from the figures of AMD 48882 §2.5.
 */
export const EVENTS = [
  {
    name: "IO_PAGE_FAULT",
    // "IO_PAGE_FAULT domain=0x000f address=0x12df06008 flags=0x0070", device 00:06.0
    words: [0x2070_000f_0000_0030n, 0x1_2df0_6008n],
    fields: {
      DeviceID: 0x30n,
      DomainID: 15n,
      PR: 1n,
      RW: 1n,
      PE: 1n,
      RZ: 0n,
      GN: 0n,
      Address: 0x1_2df0_6008n,
    },
  },
  {
    name: "IO_PAGE_FAULT",
    words: [0x2007_bcde_000a_1234n, 0xffff_8000_0000_0000n],
    fields: {
      DeviceID: 0x1234n,
      PASID_19_16: 0xan,
      DomainID: 0xbcden,
      GN: 1n,
      NX: 1n,
      US: 1n,
      PR: 0n,
      Address: 0xffff_8000_0000_0000n,
    },
  },
  {
    name: "ILLEGAL_DEV_TABLE_ENTRY",
    words: [0x10a0_0000_0000_0030n, 0x1000n],
    fields: { DeviceID: 0x30n, RW: 1n, RZ: 1n, TR: 0n, Address: 0x400n },
  },
  {
    name: "DEV_TAB_HARDWARE_ERROR",
    words: [0x3200_0000_0000_ffffn, 0xf_ffff_ffe0n],
    fields: { DeviceID: 0xffffn, Type: 1n, RW: 0n, Address: 0xffff_fffen },
  },
  {
    name: "PAGE_TAB_HARDWARE_ERROR",
    words: [0x4420_0007_0000_0001n, 0x8_0000_0ff8n],
    fields: { DeviceID: 1n, DomainID: 7n, Type: 2n, RW: 1n, Address: 0x1_0000_01ffn },
  },
  {
    name: "ILLEGAL_COMMAND_ERROR",
    words: [0x5000_0000_0000_0000n, 0x1_401f_e6e0n],
    fields: { Address: 0x1401_fe6en },
  },
  {
    name: "COMMAND_HARDWARE_ERROR",
    words: [0x6600_0000_0000_0000n, 0xdead_0000n],
    fields: { Type: 3n, Address: 0xdead_000n },
  },
  {
    name: "IOTLB_INV_TIMEOUT",
    words: [0x7000_0000_0000_0042n, 0x2010n],
    fields: { DeviceID: 0x42n, Address: 0x201n },
  },
  {
    name: "INVALID_DEVICE_REQUEST",
    words: [0x8a00_0000_0000_0010n, 0xfee0_0000n],
    fields: { DeviceID: 0x10n, Type: 5n, TR: 0n, Address: 0xfee0_0000n },
  },
  {
    // Linux prints pasid=0xabcde flags=0x0164 tag=0x355 of this.
    name: "INVALID_PPR_REQUEST",
    words: [0x9164_2b55_bcde_0142n, 0x7fff_1234_5678n],
    fields: {
      DeviceID: 0x142n,
      PASID_15_0: 0xbcden,
      PASID_19_16: 0xan,
      Tag: 0x155n,
      Last: 1n,
      EX: 0n,
      RD: 1n,
      WR: 1n,
      US: 1n,
      RZ: 0n,
      GN: 1n,
      Address: 0x7fff_1234_5678n,
    },
  },
  {
    // A PPR log entry; flags 0x002 execute and 0x080 reserved bit in Linux's names.
    name: "PAGE_SERVICE_REQUEST",
    words: [0x1082_0001_0000_0030n, 0x8000_0000_0000_3000n],
    fields: {
      DeviceID: 0x30n,
      PASID_15_0: 0n,
      PASID_19_16: 0n,
      Tag: 1n,
      Last: 0n,
      EX: 1n,
      RD: 0n,
      WR: 0n,
      US: 0n,
      RZ: 1n,
      GN: 0n,
      Address: 0x8_0000_0000_0003n,
    },
  },
] as const
