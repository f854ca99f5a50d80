/** QEMU's slips in VT-d's invalidation queue and registers. Book: Intel VT-d 5.10. */
import { commands, registers } from "@iommu/vtd"
import type { Words } from "../diff/script.ts"
import type { World } from "../diff/vendor-diff.ts"
import { PAGE_BYTES, RING } from "../diff/vendors/vtd-layout.ts"
import type { LedgerEntry } from "./entry.ts"
import { changedEntries } from "./queue-readings.ts"

/** What QEMU does nothing for that could be seen: an interrupt entry cache invalidation. */
const NOTHING: readonly bigint[] = [BigInt(commands.IEC_INV), 0n, 0n, 0n]
/** What no hardware takes. */
const ILLEGAL: readonly bigint[] = [0n, 0n, 0n, 0n]
const LAYOUTS = [
  { type: commands.DEV_TLB_INV, layout: commands.DEV_TLB_INV_DSC },
  { type: commands.P_DEV_TLB_INV, layout: commands.P_DEV_TLB_INV_DSC },
]
/** Fields that QEMU does not know: bits 11:9 of the type, and PFSID. */
const UNKNOWN_FIELDS = 0xfff0_0000_0000_fe00n
/** Bits 11:9 of a descriptor: the upper part of its type, where hardware knows one. */
const UPPER_TYPE = 0xe00n
const QUEUE_SIZE = 7n
const GRANULARITY = BigInt(commands.G_MASK << commands.G_SHIFT)
const PAGES = BigInt(commands.P_IOTLB_PAGE << commands.G_SHIFT)
/** CAIG and IAIG: the granularity that was done. */
const DONE: Readonly<Record<string, bigint>> = { CCMD: 3n << 59n, IOTLB: 3n << 57n }
const TYPE = BigInt(commands.TYPE_MASK)
const WAIT_FN = 1n << 6n
const WAIT_FLAGS = BigInt(commands.WAIT_IF | commands.WAIT_SW) | WAIT_FN
const PC_OF_ALL: readonly bigint[] = [
  BigInt(commands.PC_INV | (commands.PC_GLOBAL << commands.G_SHIFT)),
  0n,
  0n,
  0n,
]

export const VTD_COMMAND_SLIPS: readonly LedgerEntry[] = [
  {
    id: "vtd-error-record",
    vendor: "vtd",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "The Invalidation Queue Error Record register is not there.",
    book: "With IQE, IQEI says what was wrong.",
    section: "VT-d 5.10 §11.4.9.9",
    recognised: "IQERCD_REG = 0 where the model has an IQEI",
    slip: {
      kind: "state",
      explains: difference =>
        difference.kind === "register" && difference.name === "IQERCD" && difference.theirs === 0n,
    },
  },
  {
    id: "vtd-queue-address",
    vendor: "vtd",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "IQA_REG reads as the address that the queue was last enabled with, in 7.2 without DW.",
    book: "It reads as it was written.",
    section: "VT-d 5.10 §11.4.9.3",
    recognised: "another value of IQA_REG with the same QS",
    slip: {
      kind: "state",
      explains: difference =>
        difference.kind === "register" &&
        difference.name === "IQA" &&
        (difference.ours & QUEUE_SIZE) === (difference.theirs & QUEUE_SIZE),
    },
  },
  {
    id: "vtd-upper-descriptor-half",
    vendor: "vtd",
    versions: ["7.2"],
    qemu: "The upper 128 bits of a descriptor of 256 bits are not looked at.",
    book: "They are reserved: a bit that is set is IQE.",
    section: "VT-d 5.10 §6.5.2, §6.5.2.11",
    recognised: "the model agrees once they are clear",
    slip: {
      kind: "reading",
      reads: (world, memory) =>
        changedDescriptors(world, memory, ([first, second]) => [first, second, 0n, 0n]),
    },
  },
  {
    id: "vtd-device-tlb-descriptors",
    vendor: "vtd",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "Device-TLB descriptors are taken though ECAP.DT is 0.",
    book: "Without device-TLBs their type is invalid: IQE.",
    section: "VT-d 5.10 §6.5.2.5, §6.5.2.11",
    recognised: "the model agrees once such a descriptor is one that does nothing",
    slip: {
      kind: "reading",
      reads: (world, memory) => withoutTypes(world, memory, [commands.DEV_TLB_INV]),
    },
  },
  {
    id: "vtd-pasid-device-tlb-descriptors",
    vendor: "vtd",
    versions: ["10.0", "11.1"],
    qemu: "So are those with a PASID.",
    book: "Without device-TLBs their type is invalid: IQE.",
    section: "VT-d 5.10 §6.5.2.6, §6.5.2.11",
    recognised: "the model agrees once such a descriptor is one that does nothing",
    slip: {
      kind: "reading",
      reads: (world, memory) =>
        world.variant === "legacy" ? new Map() : withoutTypes(world, memory, [commands.P_DEV_TLB_INV]),
    },
  },
  {
    id: "vtd-scalable-registers",
    vendor: "vtd",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "The invalidation registers serve in scalable mode too.",
    book: "They are for legacy mode; elsewhere the request is ignored, and CAIG and IAIG are 0.",
    section: "VT-d 5.10 §6.5.1, §11.4.6.1, §11.4.6.3",
    recognised: "CAIG or IAIG set where the model has 0, all else of the register the same",
    slip: {
      kind: "state",
      explains: difference =>
        difference.kind === "register" &&
        difference.name in DONE &&
        (difference.ours & DONE[difference.name]) === 0n &&
        (difference.theirs & ~DONE[difference.name]) === difference.ours,
    },
  },
  {
    id: "vtd-pasid-iotlb-descriptors",
    vendor: "vtd",
    versions: ["7.2"],
    qemu: "PASID-based IOTLB descriptors are taken, whatever they say and in legacy mode too, and do nothing.",
    book: "A reserved bit or granularity is IQE; in legacy mode the type is invalid.",
    section: "VT-d 5.10 §6.5.2.4, §6.5.2.11, Table 26",
    recognised: "the model agrees once such a descriptor is one that does nothing",
    slip: {
      kind: "reading",
      reads: (world, memory) =>
        changedDescriptors(world, memory, entry =>
          typeOf(entry) === commands.P_IOTLB_INV ? NOTHING : entry,
        ),
    },
  },
  {
    id: "vtd-legacy-pasid-cache",
    vendor: "vtd",
    versions: ["7.2"],
    qemu: "In legacy mode, PASID cache descriptors are taken.",
    book: "Their type is invalid there: IQE.",
    section: "VT-d 5.10 §6.5.2, Table 26",
    recognised: "the model agrees once such a descriptor is one that does nothing",
    slip: {
      kind: "reading",
      reads: (world, memory) =>
        world.variant === "legacy"
          ? changedDescriptors(world, memory, entry => (typeOf(entry) === commands.PC_INV ? NOTHING : entry))
          : new Map(),
    },
  },
  {
    id: "vtd-interrupt-descriptors",
    vendor: "vtd",
    versions: ["7.2"],
    qemu: "Reserved bits of interrupt entry cache descriptors are not looked at.",
    book: "A reserved bit that is set is IQE.",
    section: "VT-d 5.10 §6.5.2.8, §6.5.2.11",
    recognised: "the model agrees once they are clear",
    slip: {
      kind: "reading",
      reads: (world, memory) =>
        changedDescriptors(world, memory, entry => (typeOf(entry) === commands.IEC_INV ? NOTHING : entry)),
    },
  },
  {
    id: "vtd-pasid-cache-descriptors",
    vendor: "vtd",
    versions: ["7.2", "10.0"],
    qemu: "Of PASID cache descriptors only the type is looked at, in 7.2 bits 3:0 of it alone.",
    book: "A reserved bit or granularity is IQE.",
    section: "VT-d 5.10 §6.5.2.2, §6.5.2.11",
    recognised: "the model agrees once the descriptor is one of all PASIDs",
    slip: {
      kind: "reading",
      reads: (world, memory) =>
        changedDescriptors(world, memory, entry => (isPasidCache(world, entry) ? PC_OF_ALL : entry)),
    },
  },
  {
    id: "vtd-wait-asserts",
    vendor: "vtd",
    versions: ["7.2", "10.0"],
    qemu: "A wait descriptor with IF and SW ends QEMU in an assertion.",
    book: "It stores its status, and interrupts.",
    section: "VT-d 5.10 §6.5.2.9",
    recognised: "QEMU's last words: vtd_process_wait_desc: Assertion failed",
    slip: {
      kind: "state",
      explains: difference =>
        difference.kind === "died" && /vtd_process_wait_desc: Assertion .* failed/.test(difference.words),
    },
  },
  {
    id: "vtd-empty-wait",
    vendor: "vtd",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "A wait descriptor with none of IF, SW and FN is IQE.",
    book: "It waits, and signals nothing.",
    section: "VT-d 5.10 §6.5.2.9",
    recognised: "the model agrees once the descriptor is illegal",
    slip: { kind: "reading", reads: (world, memory) => withoutWaits(world, memory, 0n) },
  },
  {
    id: "vtd-fence-wait",
    vendor: "vtd",
    versions: ["7.2", "10.0"],
    qemu: "A wait descriptor with FN alone is IQE.",
    book: "It is a fence, and signals nothing.",
    section: "VT-d 5.10 §6.5.2.9",
    recognised: "the model agrees once the descriptor is illegal",
    slip: { kind: "reading", reads: (world, memory) => withoutWaits(world, memory, WAIT_FN) },
  },
  {
    id: "vtd-pasid-address-mask",
    vendor: "vtd",
    versions: ["11.1"],
    qemu: "A PASID-based IOTLB descriptor with AM beyond MAMV is IQE.",
    book: "MAMV is for IOTLB descriptors; PASID-based ones may have any AM.",
    section: "VT-d 5.10 §11.4.2 (MAMV), §6.5.2.4",
    recognised: "the model agrees once the descriptor is illegal",
    slip: { kind: "reading", reads: withoutWidePasidMasks },
  },
]

/** @param flags of IF, SW and FN, those of waits that count as illegal */
function withoutWaits(world: World, memory: Words, flags: bigint): Words {
  return changedDescriptors(world, memory, entry =>
    typeOf(entry) === commands.INV_WAIT && (entry[0] & WAIT_FLAGS) === flags ? ILLEGAL : entry,
  )
}

function withoutWidePasidMasks(world: World, memory: Words): Words {
  const mamv = registers.CAP.get([world.identity["CAP"]], "MAMV")
  return changedDescriptors(world, memory, entry => {
    const isPages = typeOf(entry) === commands.P_IOTLB_INV && (entry[0] & GRANULARITY) === PAGES
    return isPages && (entry[1] & BigInt(commands.AM_MASK_LO1)) > mamv ? ILLEGAL : entry
  })
}

function withoutTypes(world: World, memory: Words, types: readonly number[]): Words {
  return changedDescriptors(world, memory, entry =>
    types.includes(typeOf(entry)) && !hasReservedBits(entry) ? NOTHING : entry,
  )
}

function hasReservedBits(entry: readonly bigint[]): boolean {
  const layout = LAYOUTS.find(({ type }) => type === typeOf(entry))?.layout
  return (
    layout === undefined ||
    (entry[0] & UNKNOWN_FIELDS) !== 0n ||
    entry.some((word, index) => (word & layout.reserved[index]) !== 0n)
  )
}

function isPasidCache({ release }: World, entry: readonly bigint[]): boolean {
  return typeOf(entry) === commands.PC_INV && (release === "7.2" || (entry[0] & UPPER_TYPE) === 0n)
}

function typeOf([first]: readonly bigint[]): number {
  return Number(first & TYPE)
}

function changedDescriptors(
  { places, variant }: World,
  memory: Words,
  read: (entry: readonly bigint[]) => readonly bigint[],
): Words {
  const entryBytes = variant === "legacy" ? 16 : 32
  const area = { entries: PAGE_BYTES / entryBytes, entryBytes }
  const bases = [places.structures + RING, places.edge - PAGE_BYTES]
  return new Map(
    bases.flatMap(base => [
      ...changedEntries(memory, { base, ...area }, entry => read(entry).slice(0, entryBytes / 8)),
    ]),
  )
}
