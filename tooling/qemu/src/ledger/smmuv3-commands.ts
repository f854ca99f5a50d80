/** QEMU's slips in SMMUv3's Command queue. Book: Arm IHI 0070 G.b. */
import { commands } from "@iommu/smmuv3"
import type { Words } from "../diff/script.ts"
import type { World } from "../diff/vendor-diff.ts"
import { COMMAND_RING, RING_ENTRIES } from "../diff/vendors/smmuv3-layout.ts"
import type { LedgerEntry } from "./entry.ts"
import { changedEntries } from "./queue-readings.ts"

const OPCODE = BigInt(commands.OPCODE)
const SSEC = BigInt(commands.SSEC)
const SYNC_CS = BigInt(commands.SYNC_CS)
/** NUM and SCALE in the first word, TTL and TG in the second. §4.4.1.1. */
const NUM_SCALE = BigInt(commands.TLBI_NUM | commands.TLBI_SCALE)
const TTL_TG = BigInt(commands.TLBI_TTL | commands.TLBI_TG)
/** What QEMU does nothing for. */
const NOTHING: readonly bigint[] = [BigInt(commands.CMD_SYNC), 0n]
const OF_ABSENT_FEATURES: readonly number[] = [
  commands.CMD_TLBI_EL2_ALL,
  commands.CMD_TLBI_EL2_ASID,
  commands.CMD_TLBI_EL2_VA,
  commands.CMD_TLBI_EL2_VAA,
  commands.CMD_ATC_INV,
  commands.CMD_PRI_RESP,
  commands.CMD_RESUME,
  commands.CMD_STALL_TERM,
]
const OF_STAGE_2: readonly number[] = [commands.CMD_TLBI_S12_VMALL, commands.CMD_TLBI_S2_IPA]
const OF_CONTEXTS: readonly number[] = [commands.CMD_CFGI_CD, commands.CMD_CFGI_CD_ALL]
/** StreamID of the machine's own PCI device. */
const HOST_BRIDGE = 0
/** Of EL3, which the Non-secure queue does not have. */
const OF_EL3: readonly number[] = [0x18, 0x1a]

export const SMMUV3_COMMAND_SLIPS: readonly LedgerEntry[] = [
  {
    id: "smmuv3-absent-commands",
    vendor: "smmuv3",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "Commands of EL2, EL3, ATS, page requests and stalls, which it does not have, are consumed and do nothing.",
    book: "A command of a feature that is not there is CERROR_ILL.",
    section: "IHI 0070 G.b §7.1, §4.4.2, §4.5.1, §4.5.2, §4.7.1, §4.7.2",
    recognised: "the model agrees once such a command is one that does nothing",
    slip: {
      kind: "reading",
      reads: (world, memory) => withoutCommands(world, memory, [...OF_ABSENT_FEATURES, ...OF_EL3]),
    },
  },
  {
    id: "smmuv3-stage2-commands",
    vendor: "smmuv3",
    versions: ["7.2"],
    qemu: "So are those of stage 2.",
    book: "Without stage 2 they are CERROR_ILL.",
    section: "IHI 0070 G.b §4.4.3",
    recognised: "the model agrees once such a command is one that does nothing",
    slip: { kind: "reading", reads: (world, memory) => withoutCommands(world, memory, OF_STAGE_2) },
  },
  {
    id: "smmuv3-context-commands",
    vendor: "smmuv3",
    versions: ["10.0"],
    qemu: "Without stage 1, CMD_CFGI_CD and CMD_CFGI_CD_ALL are consumed.",
    book: "They are CERROR_ILL.",
    section: "IHI 0070 G.b §4.3.3, §4.3.4",
    recognised: "the model agrees once such a command is one that does nothing",
    slip: {
      kind: "reading",
      reads: (world, memory) => withoutCommands(world, memory, OF_CONTEXTS),
    },
  },
  {
    id: "smmuv3-context-of-nobody",
    vendor: "smmuv3",
    versions: ["11.1"],
    qemu: "Without stage 1, CMD_CFGI_CD and CMD_CFGI_CD_ALL of a StreamID without device are consumed.",
    book: "They are CERROR_ILL whatever the StreamID.",
    section: "IHI 0070 G.b §4.3.3, §4.3.4",
    recognised: "the model agrees once such a command is one that does nothing",
    slip: { kind: "reading", reads: withoutContextsOfNobody },
  },
  {
    id: "smmuv3-sync-signal",
    vendor: "smmuv3",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "CMD_SYNC with CS = 3 is consumed.",
    book: "That value is Reserved: CERROR_ILL.",
    section: "IHI 0070 G.b §4.7.3 (CS), §7.1",
    recognised: "the model agrees once CS is 0",
    slip: { kind: "reading", reads: withoutReservedSignal },
  },
  {
    id: "smmuv3-range-of-nothing",
    vendor: "smmuv3",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "A TLB invalidation with TG and neither a range nor TTL is consumed.",
    book: "NUM = 0, SCALE = 0 and TTL = 0 with TG is Reserved: CERROR_ILL.",
    section: "IHI 0070 G.b §4.4.1.1",
    recognised: "the model agrees once TG is 0",
    slip: { kind: "reading", reads: withoutLoneGranules },
  },
  {
    id: "smmuv3-secure-commands",
    vendor: "smmuv3",
    versions: ["7.2", "10.0", "11.1"],
    qemu: "SSec is looked at in CMD_CFGI_* alone.",
    book: "Any command with SSec = 1 in the Non-secure queue is CERROR_ILL.",
    section: "IHI 0070 G.b §4.1.6",
    recognised: "the model agrees once SSec is 0 in the others",
    slip: { kind: "reading", reads: withoutSecurePrefetch },
  },
]

function withoutCommands(world: World, memory: Words, opcodes: readonly number[]): Words {
  return changedCommands(world, memory, entry => (opcodes.includes(opcodeOf(entry)) ? NOTHING : entry))
}

function withoutContextsOfNobody(world: World, memory: Words): Words {
  return changedCommands(world, memory, entry => {
    const isOfNobody = ![HOST_BRIDGE, ...world.deviceIds].includes(Number(entry[0] >> 32n))
    return OF_CONTEXTS.includes(opcodeOf(entry)) && isOfNobody ? NOTHING : entry
  })
}

function withoutReservedSignal(world: World, memory: Words): Words {
  return changedCommands(world, memory, entry => {
    const isReserved = opcodeOf(entry) === commands.CMD_SYNC && (entry[0] & SYNC_CS) === SYNC_CS
    return isReserved ? [entry[0] & ~SYNC_CS, entry[1]] : entry
  })
}

function withoutLoneGranules(world: World, memory: Words): Words {
  return changedCommands(world, memory, ([first, second]) => {
    const isRange = commands.COMMANDS.get(opcodeOf([first]))?.fields["TG"] !== undefined
    const isLone = (first & NUM_SCALE) === 0n && (second & BigInt(commands.TLBI_TTL)) === 0n
    return isRange && isLone ? [first, second & ~TTL_TG] : [first, second]
  })
}

function withoutSecurePrefetch(world: World, memory: Words): Words {
  const secure: readonly number[] = [commands.CMD_PREFETCH_CONFIG, commands.CMD_PREFETCH_ADDR]
  return changedCommands(world, memory, ([first, second]) =>
    secure.includes(opcodeOf([first])) ? [first & ~SSEC, second] : [first, second],
  )
}

function opcodeOf([first]: readonly bigint[]): number {
  return Number(first & OPCODE)
}

function changedCommands(
  { places }: World,
  memory: Words,
  read: (entry: readonly bigint[]) => readonly bigint[],
): Words {
  const area = {
    base: places.structures + COMMAND_RING,
    entries: RING_ENTRIES,
    entryBytes: commands.COMMAND_BYTES,
  }
  return changedEntries(memory, area, read)
}
