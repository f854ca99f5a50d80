/** QEMU's slips in AMD-Vi's command buffer. Book: AMD 48882 rev 3.10. */
import { commands, events, registers } from "@iommu/amd"
import type { Difference } from "../diff/compare.ts"
import type { Words } from "../diff/script.ts"
import type { World } from "../diff/vendor-diff.ts"
import { COMMAND_RING, PAGE_ENTRIES } from "../diff/vendors/amd-layout.ts"
import type { LedgerEntry } from "./entry.ts"
import { changedEntries } from "./queue-readings.ts"

const CODE_SHIFT = 60n
const ILLEGAL_COMMAND = BigInt(events.EVENT.ILLEGAL_COMMAND_ERROR)
const COMMAND_HARDWARE = BigInt(events.EVENT.COMMAND_HARDWARE_ERROR)
/** QEMU's own: the command's opcode in an event. */
const OPCODE_OF_EVENT = 0xfn << 48n
const PREFETCH_EVENT = BigInt(commands.OPCODE.PREFETCH_IOMMU_PAGES) << 48n
const COM_WAIT_INT = BigInt(registers.STATUS_ComWaitInt)
const { OPCODE } = commands
/** Ends of the buffers that cases have. */
const BUFFER_ENDS = [0x1000n, 0x2000n]
/** What QEMU does nothing for. */
const NOTHING: readonly bigint[] = [BigInt(OPCODE.COMPLETION_WAIT) << 60n, 0n]
/** Bits that have a meaning, by opcode. */
const MEANING: ReadonlyMap<bigint, readonly bigint[]> = new Map(
  [
    commands.COMPLETION_WAIT,
    commands.INVALIDATE_DEVTAB_ENTRY,
    commands.INVALIDATE_IOMMU_PAGES,
    commands.INVALIDATE_IOTLB_PAGES,
    commands.INVALIDATE_INTERRUPT_TABLE,
    commands.PREFETCH_IOMMU_PAGES,
    commands.COMPLETE_PPR_REQUEST,
    commands.INVALIDATE_IOMMU_ALL,
  ].map(({ name, reserved }) => [
    BigInt(OPCODE[name as commands.CommandName]),
    reserved.map(word => BigInt.asUintN(64, ~word)),
  ]),
)

export const AMD_COMMAND_SLIPS: readonly LedgerEntry[] = [
  {
    id: "amd-illegal-commands",
    vendor: "amd",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "An illegal command does not stop the buffer: its reserved bits are dropped, and an unknown one does nothing. In 11.1 most are logged, without their address.",
    book: "ILLEGAL_COMMAND_ERROR with the address of the command is logged, and the buffer stops in front of it.",
    section: "AMD 48882 §2.4, §2.5.7",
    recognised: "the model agrees once the command is legal, but for an event of its own in 11.1",
    slip: { kind: "reading", reads: withoutIllegality, leaves: isIllegalCommand },
  },
  {
    id: "amd-fetch-goes-on",
    vendor: "amd",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "A command that cannot be read does not stop the buffer. In 11.1 each is logged, without its address.",
    book: "COMMAND_HARDWARE_ERROR with the address is logged, and the buffer stops.",
    section: "AMD 48882 §2.4, §2.5.8",
    recognised:
      "COMMAND_HARDWARE_ERROR of the model with another event or none, and what follows in CMD_HEAD and STATUS",
    slip: { kind: "states", explained: followFetchError },
  },
  {
    id: "amd-prefetch-pasid",
    vendor: "amd",
    versions: ["11.1"],
    qemu: "PREFETCH_IOMMU_PAGES with a PASID counts as illegal.",
    book: "The PASID has its place in the command.",
    section: "AMD 48882 §2.4.6",
    recognised: "ILLEGAL_COMMAND_ERROR of that opcode where the model has none",
    slip: {
      kind: "state",
      explains: difference =>
        isIllegalCommand(difference) &&
        difference.kind === "event" &&
        ((difference.theirs?.[0] ?? 0n) & OPCODE_OF_EVENT) === PREFETCH_EVENT,
    },
  },
  {
    id: "amd-prefetch-inval",
    vendor: "amd",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "PREFETCH_IOMMU_PAGES invalidates nothing.",
    book: "With Inval = 1 the translations are invalidated before they are prefetched.",
    section: "AMD 48882 §2.4.6",
    recognised: "the model agrees once Inval is 0",
    slip: { kind: "reading", reads: withoutPrefetchInval },
  },
  {
    id: "amd-head-at-end",
    vendor: "amd",
    versions: ["7.2", "10.0"],
    qemu: "CMD_HEAD is the size of the buffer when the head is at its start again.",
    book: "The pointer wraps to 0.",
    section: "AMD 48882 §2.4, §3.4 (2000h)",
    recognised: "CMD_HEAD at the end of the buffer where the model has 0",
    slip: {
      kind: "state",
      explains: difference =>
        difference.kind === "register" &&
        difference.name === "CMD_HEAD" &&
        difference.ours === 0n &&
        BUFFER_ENDS.includes(difference.theirs),
    },
  },
  {
    id: "amd-base-pointers",
    vendor: "amd",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "CMD_HEAD and CMD_TAIL keep what they said when CMDBUF_BASE is written.",
    book: "Writing it sets both to 0.",
    section: "AMD 48882 §2.4, §3.4 (0008h)",
    recognised: "both with one value where the model has 0 for both, until each is written again",
    slip: { kind: "states", explained: keepPointers },
  },
  {
    id: "amd-register-reserved",
    vendor: "amd",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "Reserved bits of CMDBUF_BASE, CMD_HEAD and CMD_TAIL keep what is written, and so do bits 7 and up of STATUS.",
    book: "Reserved bits are read-only and 0, those of STATUS are cleared by a 1.",
    section: "AMD 48882 §3.4 (0008h, 2000h, 2008h, 2020h)",
    recognised: "such bits set where the model has them clear, all else of the register the same",
    slip: { kind: "state", explains: hasReservedBits },
  },
  {
    id: "amd-status-sticks",
    vendor: "amd",
    versions: ["7.2", "10.0"],
    qemu: "ComWaitInt cannot be cleared.",
    book: "Software clears it by writing 1.",
    section: "AMD 48882 §3.4 (2020h)",
    recognised: "ComWaitInt set where the model has it clear, all else of STATUS the same",
    slip: {
      kind: "state",
      explains: difference =>
        difference.kind === "register" &&
        difference.name === "STATUS" &&
        difference.theirs === (difference.ours | COM_WAIT_INT),
    },
  },
]

function withoutIllegality(world: World, memory: Words): Words {
  return changedCommands(world, memory, legalOf)
}

function withoutPrefetchInval(world: World, memory: Words): Words {
  return changedCommands(world, memory, ([first, second]) =>
    first >> CODE_SHIFT === BigInt(OPCODE.PREFETCH_IOMMU_PAGES)
      ? [first, second & ~BigInt(commands.INVAL)]
      : [first, second],
  )
}

function changedCommands(
  { places }: World,
  memory: Words,
  read: (entry: readonly bigint[]) => readonly bigint[],
): Words {
  const bases = [places.structures + COMMAND_RING, places.edge - PAGE_ENTRIES * commands.COMMAND_BYTES]
  const area = { entries: PAGE_ENTRIES, entryBytes: commands.COMMAND_BYTES }
  return new Map(bases.flatMap(base => [...changedEntries(memory, { base, ...area }, read)]))
}

function legalOf(entry: readonly bigint[]): readonly bigint[] {
  const meaning = MEANING.get(entry[0] >> CODE_SHIFT)
  return meaning === undefined ? NOTHING : entry.map((word, index) => word & meaning[index])
}

function isIllegalCommand(difference: Difference): boolean {
  return (
    difference.kind === "event" &&
    difference.ours === null &&
    difference.theirs !== null &&
    difference.theirs[0] >> CODE_SHIFT === ILLEGAL_COMMAND
  )
}

function followFetchError(differences: readonly Difference[]): readonly Difference[] {
  const isError = (event: readonly bigint[] | null): boolean =>
    event !== null && event[0] >> CODE_SHIFT === COMMAND_HARDWARE
  if (!differences.some(difference => difference.kind === "event" && isError(difference.ours))) return []
  return differences.filter(difference =>
    difference.kind === "event"
      ? (difference.ours === null || isError(difference.ours)) &&
        (difference.theirs === null || isError(difference.theirs))
      : difference.kind === "register" && (difference.name === "CMD_HEAD" || difference.name === "STATUS"),
  )
}

/** Bits of the registers that have a meaning in QEMU. */
const DEFINED: Readonly<Record<string, bigint>> = {
  CMDBUF_BASE: 0x0f0f_ffff_ffff_f000n,
  CMD_HEAD: BigInt(registers.POINTER_MASK),
  CMD_TAIL: BigInt(registers.POINTER_MASK),
  STATUS: 0x1fn,
}

function hasReservedBits(difference: Difference): boolean {
  if (difference.kind !== "register" || !(difference.name in DEFINED)) return false
  const { ours, theirs, name } = difference
  return (theirs & DEFINED[name]) === ours
}

function keepPointers(differences: readonly Difference[]): readonly Difference[] {
  const isPointer = (difference: Difference, name: string): boolean =>
    difference.kind === "register" && difference.name === name && difference.ours === 0n
  const kept = differences.flatMap(head =>
    isPointer(head, "CMD_HEAD") && head.kind === "register"
      ? differences.filter(
          tail =>
            isPointer(tail, "CMD_TAIL") &&
            tail.kind === "register" &&
            tail.round === head.round &&
            tail.theirs === head.theirs,
        )
      : [],
  )
  return differences.filter(
    difference =>
      (isPointer(difference, "CMD_HEAD") || isPointer(difference, "CMD_TAIL")) &&
      kept.some(
        tail =>
          tail.kind === "register" && difference.kind === "register" && tail.theirs === difference.theirs,
      ),
  )
}
