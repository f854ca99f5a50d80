/** An AMD-Vi case as memory and register writes. AMD 48882 rev 3.10. */
import { commands, deviceTable, registers } from "@iommu/amd"
import { Image } from "../image.ts"
import { buildTables, TableAllocator, type TableShape } from "../radix.ts"
import type { RegisterRead, RegisterWrite, Script } from "../script.ts"
import type { World } from "../vendor-diff.ts"
import type { AmdCase } from "./amd-case.ts"
import { COMMAND_BUFFER, DEVICE_TABLE, EVENT_LOG } from "./amd-layout.ts"
import { accessOf, damaged, damageEntry, mappingOf } from "./script-parts.ts"

const { REGISTERS } = registers
/** 256 entries of 16 bytes. */
const LOG_LEN = 8n
export const DOMAIN = 5n
/** PR, IR and IW, in tables and leaves alike. §2.2.3. */
const ENTRY = 1n | (3n << 61n)

export const EVENT_LOG_BYTES = 4096
export const EVT_TAIL = "EVT_TAIL"

/** Off, everything passes. */
export const AMD_BYPASS: readonly RegisterWrite[] = [write64("CONTROL", 0n)]

const READS: readonly RegisterRead[] = [
  { name: EVT_TAIL, offset: REGISTERS.EVT_TAIL[0], bytes: 8 },
  { name: "CMD_HEAD", offset: REGISTERS.CMD_HEAD[0], bytes: 8 },
]

export function amdScript(world: World, given: AmdCase): Script {
  const { places, deviceIds } = world
  const base = places.structures
  const image = new Image()
  const shape: TableShape = {
    granuleLg2: 12,
    levels: given.mode,
    // The book's level 1 is the last; an entry says the level of the table that it leads to.
    table: (level, address) => address | ENTRY | (BigInt(level) << 9n),
    leaf: (_, address) => address | ENTRY,
  }
  const mappings = given.leaves.map(leaf => mappingOf(shape, Math.min(64, 12 + 9 * given.mode), leaf, places))
  const stage = {
    shape,
    mappings,
    tables: buildTables(image, shape, mappings, new TableAllocator(places.tables)),
  }
  if (given.mayLoop || !isLoop(given.damage)) damageEntry(image, stage, "stage 2", given.damage)
  const dte = deviceTable.DTE.encode({
    V: 1n,
    TV: 1n,
    Mode: BigInt(given.mode),
    HostPageTableRootPtr: BigInt(stage.tables.root) >> 12n,
    IR: 1n,
    IW: 1n,
    DomainID: DOMAIN,
  })
  const entry = damaged(dte, "DTE", isShape(given.damage) ? null : given.damage)
  for (const id of deviceIds) image.store(base + DEVICE_TABLE + id * deviceTable.DTE_BYTES, entry)
  const queue = invalidateEverything(deviceIds)
  image.store(base + COMMAND_BUFFER, queue)
  return {
    memory: image.words,
    zeroed: [base + EVENT_LOG],
    bypass: AMD_BYPASS,
    rounds: [
      {
        stores: new Map(),
        writes: setUp(base, queue.length * 8),
        accesses: given.accesses.map((access, device) => accessOf(access, device, stage)),
        reads: READS,
        areas: [{ address: base + EVENT_LOG, bytes: EVENT_LOG_BYTES }],
        acknowledge: [],
      },
    ],
  }
}

/** Mode, or a bit of the root that leads to another table of the case: tables of another level are walked. */
function isShape(damage: AmdCase["damage"]): boolean {
  return damage?.at === "DTE" && damage.bit >= 9 && damage.bit < 20
}

/** A bit of NextLevel, or one of the address that leads to another table of the case. §2.2.3. */
function isLoop(damage: AmdCase["damage"]): boolean {
  return damage?.at === "stage 2" && damage.bit >= 9 && damage.bit < 20
}

/**
 * §2.4.8. Pages of one domain would not do: an entry that is damaged in an earlier case names another one. QEMU 11
 * takes note of new entries by their own command alone.
 */
function invalidateEverything(deviceIds: readonly number[]): bigint[] {
  return [
    ...commands.INVALIDATE_IOMMU_ALL.encode({ Opcode: BigInt(commands.OPCODE.INVALIDATE_IOMMU_ALL) }),
    ...deviceIds.flatMap(id =>
      commands.INVALIDATE_DEVTAB_ENTRY.encode({
        DeviceID: BigInt(id),
        Opcode: BigInt(commands.OPCODE.INVALIDATE_DEVTAB_ENTRY),
      }),
    ),
  ]
}

function setUp(base: number, queueBytes: number): RegisterWrite[] {
  const queues = BigInt(registers.CONTROL_CmdBufEn | registers.CONTROL_EventLogEn)
  return [
    write64("CONTROL", 0n),
    // Size 1: two pages, 256 entries.
    write64("DEVTAB_BASE", BigInt(base + DEVICE_TABLE) | 1n),
    write64("CMDBUF_BASE", BigInt(base + COMMAND_BUFFER) | (LOG_LEN << 56n)),
    write64("EVTLOG_BASE", BigInt(base + EVENT_LOG) | (LOG_LEN << 56n)),
    write64("CMD_HEAD", 0n),
    write64("CMD_TAIL", 0n),
    write64("EVT_HEAD", 0n),
    write64("EVT_TAIL", 0n),
    write64("CONTROL", queues),
    write64("CONTROL", queues | BigInt(registers.CONTROL_IommuEn)),
    write64("CMD_TAIL", BigInt(queueBytes)),
  ]
}

export function write64(name: keyof typeof REGISTERS, value: bigint): RegisterWrite {
  return { offset: REGISTERS[name][0], bytes: 8, value }
}
