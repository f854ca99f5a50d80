/**
 * Invalidation descriptors as Linux 6.12 submitted them (ftrace `qi_submit` of real guests), with the fields that the
 * figures of Intel VT-d 5.10 §6.5.2 give them.
 */
export interface DescriptorVector {
  readonly layout: string
  readonly words: readonly bigint[]
  readonly fields: Readonly<Record<string, bigint>>
}

export const DESCRIPTOR_VECTORS: readonly DescriptorVector[] = [
  {
    layout: "iotlb_inv_dsc",
    words: [0x300f2n, 0xffffd040n],
    fields: { Type: 2n, G: 3n, DW: 1n, DR: 1n, TypeHi: 0n, DID: 3n, AM: 0n, IH: 1n, ADDR: 0xffffdn },
  },
  {
    layout: "p_iotlb_inv_dsc",
    words: [0x30036n, 0xffffd040n, 0n, 0n],
    fields: { Type: 6n, G: 3n, TypeHi: 0n, DID: 3n, PASID: 0n, AM: 0n, IH: 1n, ADDR: 0xffffdn },
  },
  {
    layout: "pc_inv_dsc",
    words: [0x70017n, 0n, 0n, 0n],
    fields: { Type: 7n, G: 1n, TypeHi: 0n, DID: 7n, PASID: 0n },
  },
  {
    layout: "iec_inv_dsc",
    words: [0x1500000014n, 0n, 0n, 0n],
    fields: { Type: 4n, G: 1n, TypeHi: 0n, IM: 0n, IIDX: 0x15n },
  },
]
