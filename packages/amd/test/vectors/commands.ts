/**
 * Commands as a Linux 6.12 guest wrote them into its buffer, and one of each other kind with its fields written out
 * from the figures of AMD 48882 §2.4.
 */
export const COMMANDS = [
  {
    name: "COMPLETION_WAIT",
    words: [0x1000_0001_4022_6001n, 0x0000_0000_0000_1234n],
    fields: { S: 1n, I: 0n, F: 0n, StoreAddress: 0x1_4022_6000n >> 3n, StoreData: 0x1234n },
  },
  {
    name: "COMPLETION_WAIT",
    words: [0x100f_ffff_ffff_fffan, 0xffff_ffff_ffff_ffffn],
    fields: { S: 0n, I: 1n, F: 0n, StoreAddress: 0x1_ffff_ffff_ffffn, StoreData: 0xffff_ffff_ffff_ffffn },
  },
  { name: "INVALIDATE_DEVTAB_ENTRY", words: [0x2000_0000_0000_0108n, 0n], fields: { DeviceID: 0x108n } },
  {
    name: "INVALIDATE_IOMMU_PAGES",
    words: [0x3000_000f_0000_0000n, 0x7fff_ffff_ffff_f003n],
    fields: { DomainID: 15n, PASID: 0n, S: 1n, PDE: 1n, GN: 0n, Address: 0x7_ffff_ffff_ffffn },
  },
  {
    name: "INVALIDATE_IOMMU_PAGES",
    words: [0x3000_0001_000a_bcden, 0x0000_0000_bf25_4004n],
    fields: { DomainID: 1n, PASID: 0xa_bcden, S: 0n, PDE: 0n, GN: 1n, Address: 0xbf254n },
  },
  {
    // Linux puts PASID 15:8 into dword 0 bits 23:16 and PASID 7:0 into dword 1 bits 23:16, queue depth above.
    name: "INVALIDATE_IOTLB_PAGES",
    words: [0x4034_0030_2012_0030n, 0x0000_0000_0000_1004n],
    fields: {
      DeviceID: 0x30n,
      PASID_15_8: 0x12n,
      PASID_7_0: 0x34n,
      PASID_19_16: 0n,
      MaxPend: 0x20n,
      QueueID: 0x30n,
      S: 0n,
      GN: 1n,
      Address: 1n,
    },
  },
  { name: "INVALIDATE_INTERRUPT_TABLE", words: [0x5000_0000_0000_00a0n, 0n], fields: { DeviceID: 0xa0n } },
  {
    name: "COMPLETE_PPR_REQUEST",
    words: [0x7000_1234_0000_0042n, 0x0000_10ff_0000_0004n],
    fields: { DeviceID: 0x42n, PASID: 0x1234n, GN: 1n, CompletionTag: 0x10ffn },
  },
  { name: "INVALIDATE_IOMMU_ALL", words: [0x8000_0000_0000_0000n, 0n], fields: { Opcode: 8n } },
] as const
