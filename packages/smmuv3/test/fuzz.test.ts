/** Random bytes as registers, structures, tables and commands: the model answers, and never throws or hangs. */
import { createMemory, translateRequest } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { smmuv3Model } from "../src/index.ts"
import { EVERYTHING, QEMU_NESTED } from "../src/model/options.ts"
import { EVENTS } from "../src/spec/events.ts"
import * as reg from "../src/spec/registers.ts"
import { Machine, plainCd, plainStage2, RAM } from "./model-machine.ts"

const REASONS = new Set<string>([...Object.keys(EVENTS), "ABORT"])
const SMALL = 0x1_0000n

const word = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n })
const offset = fc.oneof(
  fc.constantFrom(...Object.values(reg.REGISTERS).map(([at]) => at)),
  fc.integer({ min: -8, max: 0x2_0008 }),
)
const access = fc.integer({ min: 0, max: 15 })
const streamId = fc.oneof(fc.integer({ min: 0, max: 7 }), fc.integer({ min: 0, max: 0xffff_ffff }))
const pasid = fc.oneof(
  fc.constant(-1),
  fc.integer({ min: 0, max: 3 }),
  fc.integer({ min: -2, max: 0x10_0000 }),
)

function fill(m: Machine, seed: number): void {
  const { words } = m.memory
  let state = seed | 1
  for (let i = 0; i < words.length; i++) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    // Half of the words point into RAM, so that walks go on.
    words[i] = (state & 2) === 0 ? state : i % 2 === 1 ? 0 : Number(RAM) | (state & 0xffff)
  }
}

function probe(m: Machine, device: number, iova: bigint, bits: number, substream: number): void {
  const outcome = translateRequest(m.model, { device, iova, access: bits, pasid: substream })
  if (!outcome.ok) {
    expect(REASONS.has(outcome.fault.reason)).toBe(true)
    expect(outcome.fault.record === null || outcome.fault.record.length === 4).toBe(true)
  } else expect(outcome.pa >> 52n).toBe(0n)
}

describe("random bytes", () => {
  it("as memory: every structure, table, queue entry", () => {
    fc.assert(
      fc.property(
        fc.integer(),
        fc.array(fc.tuple(streamId, word, access, pasid), { minLength: 8 }),
        (seed, probes) => {
          const m = new Machine(seed % 2 === 0 ? EVERYTHING : QEMU_NESTED, SMALL)
          fill(m, seed)
          for (const [device, iova, bits, substream] of probes) probe(m, device, iova, bits, substream)
          m.write("CMDQ_PROD", seed & 0x1ff)
          m.write("GERRORN", m.read("GERROR"))
        },
      ),
      { seed: 5, numRuns: 400 },
    )
  })

  it("as tables below valid structures, at every word of STE and CD", () => {
    fc.assert(
      fc.property(
        fc.integer(),
        fc.integer({ min: 0, max: 7 }),
        fc.integer({ min: 0, max: 511 }),
        word,
        (seed, config, flip, iova) => {
          const m = new Machine({}, SMALL)
          fill(m, seed)
          const context = m.cd(plainCd(RAM + 0x8000n), RAM + 0x9000n)
          m.ste(1, { Config: BigInt(config), S1ContextPtr: context >> 6n, ...plainStage2(RAM + 0xa000n) })
          const flipped = (seed & 1) === 0 ? context : m.streamTable + 64n
          const at = flipped + 8n * BigInt(flip >> 6)
          m.memory.write64(at, m.memory.read64(at) ^ (1n << BigInt(flip & 63)))
          for (const bits of [1, 2, 5, 9]) {
            probe(m, 1, iova & 0xffff_ffff_ffffn, bits, -1)
            probe(m, 1, iova, bits, 0)
          }
        },
      ),
      { seed: 6, numRuns: 1500 },
    )
  })

  it("as register writes, in any order", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(offset, word, fc.boolean()), { minLength: 20, maxLength: 80 }),
        fc.integer(),
        (writes, seed) => {
          const m = new Machine({}, SMALL)
          fill(m, seed)
          for (const [at, value, wide] of writes) {
            if (wide) m.model.mmio.write64(at, value)
            else m.model.mmio.write32(at, Number(value & 0xffff_ffffn))
            expect(m.model.mmio.read32(at)).toBeGreaterThanOrEqual(0)
            m.model.mmio.read64(at)
          }
          probe(m, 1, 0x1000n, 1, -1)
        },
      ),
      { seed: 7, numRuns: 400 },
    )
  })

  it("as a dump's registers, identification included", () => {
    const values = fc.dictionary(fc.constantFrom(...Object.keys(reg.REGISTERS)), word, { maxKeys: 40 })
    fc.assert(
      fc.property(values, fc.integer(), streamId, word, (registers, seed, device, iova) => {
        const m = new Machine({}, SMALL)
        fill(m, seed)
        expect(m.model.restoreRegisters(registers)).toEqual([])
        probe(m, device, iova, 1, -1)
        m.model.restoreRegisters({ STRTAB_BASE: RAM, STRTAB_BASE_CFG: 3n, CR0: 0xdn })
        for (let id = 0; id < 8; id++)
          for (const substream of [-1, 0, 1]) probe(m, id, iova & 0xffff_ffffn, 3, substream)
        m.model.mmio.write32(reg.offsetOf("CMDQ_PROD"), seed & 0xffff)
      }),
      { seed: 8, numRuns: 600 },
    )
  })

  it("as commands: each is consumed or stops the queue with an error", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 0, max: 255 }), word, word), { minLength: 1, maxLength: 30 }),
        entries => {
          const m = new Machine({}, SMALL)
          m.model.onInvalidate = () => {}
          m.command(...entries.map(([opcode, low, high]) => [(low & ~0xffn) | BigInt(opcode), high]))
          const cons = m.read("CMDQ_CONS")
          const error = (cons >>> 24) & 0x7f
          expect(error).toBeLessThanOrEqual(reg.CERROR_ILL)
          expect((cons & 0x1ff) === entries.length).toBe(error === 0)
          expect(m.read("GERROR")).toBe(error === 0 ? 0 : 1)
        },
      ),
      { seed: 9, numRuns: 800 },
    )
  })

  it("and a queue as large as can be, full of commands, ends", () => {
    const memory = createMemory([{ base: 0n, size: 1n << 23n }])
    const model = smmuv3Model({ memory })
    for (let i = 0; i < memory.words.length; i += 4) memory.words[i] = 0x30
    model.mmio.write64(reg.offsetOf("CMDQ_BASE"), 19n)
    model.mmio.write32(reg.offsetOf("CMDQ_PROD"), 1 << 19)
    model.mmio.write32(reg.offsetOf("CR0"), reg.CR0_CMDQEN)
    expect(model.mmio.read32(reg.offsetOf("CMDQ_CONS"))).toBe(1 << 19)
  })
})
