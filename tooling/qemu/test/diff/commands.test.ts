/** Cases of queue commands: how they are put together, and what of two observations counts as a difference. */
import { describe, expect, test } from "vitest"
import { type CommandsCase, entryWords, turnedOver } from "../../src/diff/commands.ts"
import { commandsDifferences } from "../../src/diff/commands-compare.ts"
import { judgeCommands } from "../../src/diff/commands-readings.ts"
import { commandsScript } from "../../src/diff/commands-script.ts"
import { PLACES } from "../../src/diff/places.ts"
import type { Observation, Script } from "../../src/diff/script.ts"
import type { VendorDiff, World } from "../../src/diff/vendor-diff.ts"
import { amdDiff } from "../../src/diff/vendors/amd.ts"
import { amdCommands } from "../../src/diff/vendors/amd-commands.ts"
import { COMMAND_RING } from "../../src/diff/vendors/amd-layout.ts"
import { smmuv3Commands } from "../../src/diff/vendors/smmuv3-commands.ts"
import { vtdDiff } from "../../src/diff/vendors/vtd.ts"

const WORLD: World = {
  release: "11.1",
  variant: "legacy",
  profile: "commands",
  places: PLACES.x86_64,
  deviceIds: [0x20, 0x28],
  identity: { VER: 0x10n, CAP: 0xd2008c22260206n, ECAP: 0xf0000en, EXT_FEATURES: 0x29d3n },
}
const RING = WORLD.places.structures + COMMAND_RING
const TABLES = {
  mode: 1,
  levels: 3,
  type: 0,
  together: true,
  mayLoop: false,
  leaves: [{ indices: [0, 0, 0, 0, 0, 0], level: 0, frame: 0, page: 0 }],
  damage: null,
  accesses: [{ leaf: 0, offset: 0, write: false, flip: null }],
}
const CASE = {
  before: TABLES,
  isGone: false,
  place: "memory",
  fromEnd: 1,
  batches: [[{ name: "unknown", operands: 1, flip: null }]],
  registers: { isOn: true, writes: [] },
} as const

/** AMD 48882 §2.4.1: opcode 1 in bits 63:60. */
const COMPLETION_WAIT = 1n << 60n

function scriptOf<Case>(vendor: VendorDiff<Case>, given: CommandsCase<Case>): Script {
  return commandsScript(vendor, vendor.stale, vendor.commands, WORLD, given)
}

describe("a case of commands", () => {
  test("wraps at the end of the queue, and leaves out entries without memory", () => {
    const queue = { ...amdCommands.queue(WORLD, "memory"), base: 0, entries: 4, present: 3, entryBytes: 16 }
    const words = entryWords(queue, 2, [
      [1n, 2n],
      [3n, 4n],
      [5n, 6n],
    ])
    expect([...words]).toEqual([
      [0x20, 1n],
      [0x28, 2n],
      [0, 5n],
      [8, 6n],
    ])
  })

  test("has a bit turned over in the word that it is in", () => {
    expect(turnedOver([0n, 0n], 65)).toEqual([0n, 2n])
    expect(turnedOver([0n, 0n], null)).toEqual([0n, 0n])
  })

  test("puts a harmless command in place of each before it goes on", () => {
    const script = scriptOf(amdDiff, CASE)
    const last = RING + 255 * 16
    // 11 is no opcode.
    const [, , batch, recovery] = script.rounds
    expect(script.memory.get(last)).toBe(COMPLETION_WAIT)
    expect(batch?.stores.get(last)).toBe(11n << 60n)
    expect(batch?.writes).toEqual([{ offset: 0x2008, bytes: 8, value: 0n }])
    expect(recovery?.stores.get(last)).toBe(COMPLETION_WAIT)
    expect(recovery?.writes.at(-1)).toEqual({ offset: 0x2008, bytes: 8, value: 0x10n })
    expect(script.needsReset).toBe(false)
  })

  test("asks for a reset where nothing else helps", () => {
    expect(scriptOf(vtdDiff, { ...CASE, place: "nowhere" }).needsReset).toBe(true)
    expect(scriptOf(amdDiff, { ...CASE, place: "nowhere" }).needsReset).toBe(false)
  })
})

/** What an observation of one round with these registers and this log is. */
function observed(values: readonly bigint[], log: Uint8Array = new Uint8Array(0)): Observation {
  return { rounds: [{ answers: [], registers: values, areas: [log] }], changed: new Map() }
}

function logOf(...events: readonly bigint[][]): Uint8Array {
  return new Uint8Array(BigUint64Array.from(events.flat()).buffer)
}

describe("after commands", () => {
  const round = { stores: new Map(), writes: [], accesses: [], acknowledge: [] }
  const empty = { memory: new Map(), zeroed: [], bypass: [] }
  const reads = amdCommands.reads(WORLD)
  const areas = [{ address: WORLD.places.structures + 0x4000, bytes: 4096 }]
  const script: Script = { ...empty, rounds: [{ ...round, reads, areas }] }

  test("events of one kind stand side by side, others alone", () => {
    const [illegal, hardware] = [
      [5n << 60n, 0x10n],
      [6n << 60n, 0x20n],
    ]
    const tail = (events: number): bigint[] =>
      reads.map(({ name }) => (name === "EVT_TAIL" ? BigInt(16 * events) : 0n))
    const ours = observed(tail(1), logOf(hardware))
    const theirs = observed(tail(2), logOf(illegal, hardware))
    expect(commandsDifferences(amdCommands, WORLD, script, [ours], theirs)).toEqual([
      { kind: "event", index: 0, ours: null, theirs: illegal },
    ])
  })

  test("CMDQ_CONS.ERR counts while the error is active alone", () => {
    // IHI 0070 G.b §6.3.28: UNKNOWN otherwise.
    const values = (gerror: bigint) => ({
      CMDQ_PROD: 1n,
      CMDQ_CONS: 0x0100_0000n,
      GERROR: gerror,
      GERRORN: 0n,
      CR0ACK: 0n,
      CMDQ_BASE: 0n,
    })
    const start = { ...values(0n), CMDQ_CONS: 0n }
    expect(smmuv3Commands.determined(values(1n), start)["CMDQ_CONS"]).toBe(0x0100_0000n)
    expect(smmuv3Commands.determined(values(0n), start)["CMDQ_CONS"]).toBe(0n)
  })
})

describe("the ledger's readings of commands", () => {
  const script = scriptOf(amdDiff, CASE)
  const difference = { kind: "register", round: 2, name: "CMD_HEAD", ours: 0xff0n, theirs: 0n } as const

  test("explain what is not there any more when a command is taken as QEMU takes it", async () => {
    const verdict = await judgeCommands("amd", { world: WORLD, script }, async ({ rounds }) =>
      rounds[2]?.stores.get(RING + 255 * 16) === COMPLETION_WAIT ? [] : [difference],
    )
    expect(verdict).toEqual({ rows: ["amd-illegal-commands"], unexplained: [] })
  })

  test("explain nothing that stays", async () => {
    const verdict = await judgeCommands("amd", { world: WORLD, script }, async () => [difference])
    expect(verdict.unexplained).toEqual([difference])
  })

  test("are those of the release alone", async () => {
    // Only those of VT-d's descriptors have a release alone.
    const script = scriptOf(vtdDiff, {
      ...CASE,
      batches: [[{ name: "PAGE_GRP_RESP", operands: 1, flip: null }]],
    })
    const verdict = await judgeCommands(
      "vtd",
      { world: { ...WORLD, release: "10.0" }, script },
      async read => (read === script ? [difference] : []),
    )
    expect(verdict.unexplained).toEqual([difference])
  })
})
