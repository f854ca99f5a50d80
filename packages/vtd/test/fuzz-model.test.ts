import { defineFuzz, type ModelMachine, type Random } from "@iommu/conformance"
import { describe, it } from "vitest"
import { modelTarget } from "./model-target.ts"

const QUEUE = 0x5000n
const IQH = 0x80
const IQT = 0x88
const IQA = 0x90
const FRCD = 0x220
const RECORDS = 8
const SCRATCH = 0x6000n

/** Types of VT-d 5.10 §6.5.2, and a few that do not exist. */
const TYPES = [1, 2, 3, 4, 5, 5, 5, 5, 6, 7, 8, 9, 0, 15]

function command(random: Random): bigint[] {
  const type = BigInt(random.pick(TYPES))
  if (type === 5n) return [type | (BigInt(random.below(16)) << 4n) | (1n << 32n), SCRATCH, 0n, 0n]
  const granularity = BigInt(1 + random.below(3)) << 4n
  const domain = BigInt(random.below(10)) << 16n
  const odd = random.below(8) === 0 ? BigInt(random.below(0x1_0000_0000)) << 32n : 0n
  const address = BigInt(random.below(0x800)) << 12n
  return [type | granularity | domain | odd, address | BigInt(random.below(4)), 0n, 0n]
}

/** The queue of a started machine has 128 entries of 256 bits. */
function submit({ memory, model: { mmio } }: ModelMachine, commands: readonly (readonly bigint[])[]): void {
  let tail = (mmio.read32(IQT) >>> 5) & 127
  for (const words of commands) {
    words.forEach((word, i) => {
      memory.write64(QUEUE + BigInt(tail * 32 + i * 8), word)
    })
    tail = (tail + 1) & 127
  }
  mmio.write64(IQT, BigInt(tail * 32))
}

/** Null while IQA has another size or width, or an offset lies beyond. */
function waiting({ model: { mmio } }: ModelMachine): number | null {
  const [head, tail] = [mmio.read32(IQH), mmio.read32(IQT)]
  if ((mmio.read32(IQA) & 0x807) !== 0x800 || ((head | tail) & ~0xfe0) !== 0) return null
  return ((tail - head) >> 5) & 127
}

/** Records with F set, which only software clears. §11.4.7.6. */
function logged({ model: { mmio } }: ModelMachine): number {
  let count = 0
  for (let n = 0; n < RECORDS; n++) count += mmio.read32(FRCD + 16 * n + 12) >>> 31
  return count
}

const steps = Number(process.env["FUZZ_STEPS"] ?? 1_000_000)
const seed = Number(process.env["FUZZ_SEED"] ?? 20261123)

describe("VT-d: random registers, commands, tables and requests", () => {
  defineFuzz(
    { describe, it },
    modelTarget,
    {
      // Entries of root, context, directory and both stages; PASID entries of the four kinds.
      entries: [
        [0x27, 0],
        [0x67, 0],
        [0xa7, 0],
        [3, 0],
        [0x83, 0],
        [1, 0],
        [9, 0],
        [0x49, 0],
        [0x89, 0],
        [0xc9, 0],
        [0x109, 0],
        [0, 0],
      ],
      command,
      submit,
      devices: [0, 0, 0, 1, 8],
      // Four structures, five levels, and a walk of five for each of six addresses.
      mostSteps: 4 + 5 + 6 * 5,
      logged,
      logModulus: () => RECORDS + 1,
      waiting,
    },
    { seed, steps },
  )
})
