import { defineFuzz, type ModelMachine, type Random } from "@iommu/conformance"
import { describe, it } from "vitest"
import { modelTarget } from "./model-target.ts"

const CMDQ = 0x4000_1000n
const CMDQ_BASE = 0x90
const CMDQ_PROD = 0x98
const CMDQ_CONS = 0x9c
const EVENTQ_BASE = 0xa0
const EVENTQ_PROD = 0x1_00a8
const SCRATCH = 0x4000_3000n

/** Opcodes of IHI 0070 G.b §4.1.1, Non-secure and a few that do not exist. */
const OPCODES = [
  0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x20, 0x21, 0x22, 0x23, 0x28, 0x2a, 0x30, 0x40,
  0x41, 0x44, 0x45, 0x46, 0x46, 0x46, 0x46, 0x46, 0x50, 0x00, 0xff,
]

function command(random: Random): bigint[] {
  const opcode = BigInt(random.pick(OPCODES))
  if (opcode === 0x46n) {
    return [opcode | (BigInt(random.below(4)) << 12n) | (1n << 32n), random.flip() ? SCRATCH : 0n]
  }
  const stream = BigInt(random.below(8)) << 32n
  const flags = BigInt(random.below(8) === 0 ? random.below(0x100_0000) << 8 : 0) & 0xffff_ffffn
  const address = BigInt(random.below(0x10)) << 12n
  return [opcode | stream | flags, address | BigInt(random.pick([0, 0, 1, 2, random.below(0x1000)]))]
}

/** The queue of a started machine has eight entries. */
function submit({ memory, model: { mmio } }: ModelMachine, commands: readonly (readonly bigint[])[]): void {
  let prod = mmio.read32(CMDQ_PROD)
  for (const words of commands) {
    words.forEach((word, i) => {
      memory.write64(CMDQ + BigInt((prod & 7) * 16 + i * 8), word)
    })
    prod = (prod + 1) & 0xf
  }
  mmio.write32(CMDQ_PROD, prod)
}

/** §3.5.1: what PROD and CONS say, unless they contradict each other. */
function waiting({ model: { mmio } }: ModelMachine): number | null {
  const size = 1 << Math.min(Number(mmio.read64(CMDQ_BASE) & 0x1fn), 19)
  const between = (mmio.read32(CMDQ_PROD) - mmio.read32(CMDQ_CONS)) & (2 * size - 1)
  return size !== 8 || between > size ? null : between
}

/** The index of the Event queue and its wrap bit. §3.5.1. */
function logModulus({ model: { mmio } }: ModelMachine): number {
  return 2 << Math.min(Number(mmio.read64(EVENTQ_BASE) & 0x1fn), 19)
}

const steps = Number(process.env["FUZZ_STEPS"] ?? 1_000_000)
const seed = Number(process.env["FUZZ_SEED"] ?? 20261123)

describe("SMMUv3: random registers, commands, tables and requests", () => {
  defineFuzz(
    { describe, it },
    modelTarget,
    {
      // Tables and pages of both stages, an L1STD, a valid STE and CD.
      entries: [
        [0x743, 0],
        [0x7ff, 0],
        [0x741, 0],
        [0x7fd, 0],
        [3, 0],
        [1, 0],
        [0xb, 0],
        [0xd, 0],
        [0xf, 0],
        [0x8000_0010, 0x6205],
        [0, 0],
      ],
      command,
      submit,
      devices: [1, 2, 3, 4],
      // An STE of two levels, a CD of two, four levels of tables, and a walk of four for each of six addresses.
      mostSteps: 40,
      logged: machine => machine.model.mmio.read32(EVENTQ_PROD) & (logModulus(machine) - 1),
      logModulus,
      waiting,
    },
    { seed, steps },
  )
})
