import { defineFuzz, type ModelMachine, type Random } from "@iommu/conformance"
import { describe, it } from "vitest"
import { modelTarget } from "./model-target.ts"

const CMDBUF = 0x2000n
const CMDBUF_BASE = 0x08
const CMD_HEAD = 0x2000
const CMD_TAIL = 0x2008
const EVTLOG_BASE = 0x10
const EVT_TAIL = 0x2018
const SCRATCH = 0x4000n

/** Opcodes of AMD 48882 rev 3.10 §2.4, and a few that do not exist. */
const OPCODES = [1, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0, 15]

function command(random: Random): bigint[] {
  const opcode = BigInt(random.pick(OPCODES))
  if (opcode === 1n) return [(opcode << 60n) | SCRATCH | BigInt(random.below(4)), 7n]
  const odd = random.below(8) === 0 ? BigInt(random.below(0x1_0000)) << 16n : 0n
  const domain = BigInt(random.below(8)) << 32n
  const address = BigInt(random.below(0x800)) << 12n
  const low = (opcode << 60n) | odd | (opcode === 3n ? domain : BigInt(random.below(4)))
  return [low, opcode === 3n || opcode === 4n ? address | BigInt(random.below(8)) : 0n]
}

/** The buffer of a started machine has 256 entries. */
function submit({ memory, model: { mmio } }: ModelMachine, commands: readonly (readonly bigint[])[]): void {
  let tail = (mmio.read32(CMD_TAIL) >>> 4) & 255
  for (const [low, high] of commands) {
    memory.write64(CMDBUF + BigInt(tail * 16), low as bigint)
    memory.write64(CMDBUF + BigInt(tail * 16 + 8), high as bigint)
    tail = (tail + 1) & 255
  }
  mmio.write32(CMD_TAIL, tail * 16)
}

/** Null while the buffer has another length, or a pointer lies beyond. */
function waiting({ model: { mmio } }: ModelMachine): number | null {
  const [head, tail] = [mmio.read32(CMD_HEAD), mmio.read32(CMD_TAIL)]
  const length = (mmio.read32(CMDBUF_BASE + 4) >>> 24) & 0xf
  if (length !== 8 || ((head | tail) & ~0xff0) !== 0) return null
  return ((tail - head) >> 4) & 255
}

/** Entries of the event log; 1 for a reserved length, with which nothing is logged. */
function logModulus({ model: { mmio } }: ModelMachine): number {
  const length = (mmio.read32(EVTLOG_BASE + 4) >>> 24) & 0xf
  return length < 8 ? 1 : 1 << length
}

const steps = Number(process.env["FUZZ_STEPS"] ?? 1_000_000)
const seed = Number(process.env["FUZZ_SEED"] ?? 20261123)

describe("AMD: random registers, commands, tables and requests", () => {
  defineFuzz(
    { describe, it },
    modelTarget,
    {
      // Guest and host tables and pages, a DTE, a GCR3 entry.
      entries: [
        [0x27, 0],
        [0x67, 0],
        [0xa7, 0],
        [1, 0x6000_0000],
        [0x201, 0x6000_0000],
        [0x401, 0x6000_0000],
        [0x601, 0x6000_0000],
        [0x803, 0x6000_0000],
        [0x803, 0x60c0_0000],
        [0xe01, 0x6000_0000],
        [1, 0],
        [0, 0],
      ],
      command,
      submit,
      devices: [1, 2, 3, 4],
      // An entry, GCR3 tables of three levels, guest tables of five, and a host walk of six for each of nine addresses.
      mostSteps: 1 + 3 + 5 + 9 * 6,
      logged: machine => (machine.model.mmio.read32(EVT_TAIL) >>> 4) % logModulus(machine),
      logModulus,
      waiting,
    },
    { seed, steps },
  )
})
