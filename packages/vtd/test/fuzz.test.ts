/** Whatever bytes the model meets: it answers, in bounded steps, and its two ways of walking agree. */
import { ACCESS_READ, createMemory, NO_PASID, type PhysicalMemory } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { type VtdModel, vtdModel } from "../src/model/device.ts"
import { EVERYTHING, FIRST_STAGE_ONLY, LEGACY_ONLY } from "../src/model/options.ts"
import { FAULT_REASONS } from "../src/spec/events.ts"

const PAGES = 32
const RUNS = { seed: 20260923, numRuns: 300 }

/** Small numbers of a generator that needs no state of fast-check, so that a counterexample is one seed. */
function numbers(seed: number): () => number {
  let state = seed | 1
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return state >>> 0
  }
}

/**
 * Tables that lead somewhere: entries point to pages of this memory, with plausible flags most of the time, so that
 * walks get deep before they meet something odd.
 */
function plausibleMemory(seed: number): PhysicalMemory {
  const memory = createMemory([{ base: 0n, size: BigInt(PAGES * 4096) }])
  const next = numbers(seed)
  const flags = [
    0x67, 0x27, 0x3, 0x1, 0x2, 0xe7, 0x83, 0x303, 0x103, 0x6f, 0x401, 0x89, 0xc9, 0x49, 0x109, 0x289, 0,
  ]
  for (let word = 0; word < memory.words.length; word += 2) {
    const roll = next() % 16
    const pointer = (next() % PAGES) * 4096
    memory.words[word] = roll === 0 ? next() : pointer | (flags[next() % flags.length] as number)
    memory.words[word + 1] = next() % 32 === 0 ? next() : 0
  }
  return memory
}

interface Request {
  readonly device: number
  readonly pasid: number
  readonly hi: number
  readonly lo: number
  readonly access: number
}

const request: fc.Arbitrary<Request> = fc.record({
  device: fc.integer({ min: 0, max: 0xffff }),
  pasid: fc.oneof(fc.constant(NO_PASID), fc.integer({ min: 0, max: 0x1fffff })),
  hi: fc.oneof(fc.constant(0), fc.nat(0xffff), fc.nat(0xffffffff)),
  lo: fc.nat(0xffffffff),
  access: fc.nat(15),
})

function translate(model: VtdModel, r: Request): number {
  return model.translate(r.device, r.pasid, r.hi, r.lo, r.access)
}

function enable(model: VtdModel, mode: number): void {
  model.mmio.write64(0x20, BigInt(mode) << 10n)
  model.mmio.write32(0x18, 1 << 30)
  model.mmio.write32(0x18, 0x8000_0000)
}

describe("random tables", () => {
  it("end in an address or a fault of the book", () => {
    fc.assert(
      fc.property(
        fc.integer(),
        fc.nat(3),
        fc.array(request, { minLength: 1, maxLength: 20 }),
        (seed, mode, requests) => {
          for (const capabilities of [EVERYTHING, FIRST_STAGE_ONLY, LEGACY_ONLY]) {
            const model = vtdModel({ memory: plausibleMemory(seed), capabilities })
            enable(model, mode)
            for (const r of requests) {
              const status = translate(model, r)
              if (status === 0) expect(model.result.fault).toBeNull()
              else expect(FAULT_REASONS.get(status)?.name).toBe(model.result.fault?.reason)
            }
          }
        },
      ),
      RUNS,
    )
  })

  it("are read in at most 4 + 5 * 6 + 5 steps", () => {
    fc.assert(
      fc.property(fc.integer(), fc.nat(1), request, (seed, mode, r) => {
        const model = vtdModel({ memory: plausibleMemory(seed) })
        enable(model, mode)
        let steps = 0
        model.trace = () => steps++
        translate(model, r)
        expect(steps).toBeLessThanOrEqual(39)
      }),
      RUNS,
    )
  })

  it("give the same answer and flags step by step as at full speed", () => {
    fc.assert(
      fc.property(fc.integer(), fc.array(request, { minLength: 1, maxLength: 30 }), (seed, requests) => {
        const fast = vtdModel({ memory: plausibleMemory(seed) })
        const slow = vtdModel({ memory: plausibleMemory(seed) })
        slow.trace = () => {}
        for (const model of [fast, slow]) {
          connect(model, seed)
          enable(model, 1)
        }
        for (const r of requests) {
          // A device whose entries stand.
          const sent = { ...r, device: 0, pasid: NO_PASID }
          expect(translate(fast, sent)).toBe(translate(slow, sent))
          expect(fast.result).toEqual(slow.result)
        }
        expect(fast.memory.words).toEqual(slow.memory.words)
      }),
      RUNS,
    )
  })
})

/** Entries for device 0 that lead to tables in page 8 and up. */
function connect(model: VtdModel, seed: number): void {
  const { memory } = model
  const pgtt = BigInt(1 + (Math.abs(seed) % 3))
  const aw = BigInt(1 + (Math.abs(seed >> 3) % 3))
  const ssade = BigInt((seed >> 6) & 1)
  memory.write64(0n, 0x1001n)
  memory.write64(8n, 0n)
  for (const [i, word] of [0x2001n, 0n, 0n, 0n].entries()) memory.write64(0x1000n + 8n * BigInt(i), word)
  memory.write64(0x2000n, 0x3001n)
  const entry = [
    0x8001n | (pgtt << 6n) | (aw << 2n) | (ssade << 9n),
    5n | (1n << 23n),
    0x9000n,
    0n,
    0n,
    0n,
    0n,
    0n,
  ]
  for (const [i, word] of entry.entries()) memory.write64(0x3000n + 8n * BigInt(i), word)
}

describe("random registers", () => {
  const write = fc.record({
    offset: fc.oneof(
      fc.nat(0x5100),
      fc.constantFrom(0x18, 0x20, 0x28, 0x2c, 0x34, 0x38, 0x80, 0x88, 0x90, 0x9c, 0xa0, 0xf8, 0xfc),
    ),
    value: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
    wide: fc.boolean(),
  })

  it("never throw, hang or change the capabilities", () => {
    fc.assert(
      fc.property(fc.integer(), fc.array(write, { maxLength: 60 }), (seed, writes) => {
        const model = vtdModel({ memory: plausibleMemory(seed) })
        let calls = 0
        model.onInvalidate = () => calls++
        model.onInterrupt = () => calls++
        for (const { offset, value, wide } of writes) {
          if (wide) model.mmio.write64(offset, value)
          else model.mmio.write32(offset, Number(value & 0xffffffffn))
          model.mmio.read64(offset)
          model.translate(seed & 0xffff, NO_PASID, 0, seed >>> 0, ACCESS_READ)
        }
        expect(model.mmio.read64(8)).toBe(EVERYTHING.cap)
        expect(calls).toBeLessThan(writes.length * 40_000 + 1)
      }),
      RUNS,
    )
  })

  it("restore from any dump", () => {
    const names = [
      "VER",
      "CAP",
      "ECAP",
      "GSTS",
      "RTADDR",
      "FSTS",
      "IQA",
      "IQH",
      "IQT",
      "IVA",
      "IOTLB",
      "FRCD0_HI",
      "FRCD255_LO",
    ]
    const value = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n })
    fc.assert(
      fc.property(
        fc.integer(),
        fc.dictionary(fc.constantFrom(...names, "X"), value),
        request,
        (seed, dump, r) => {
          const model = vtdModel({ memory: plausibleMemory(seed) })
          const unknown = model.restoreRegisters(dump)
          for (const name of unknown) expect(["X", "FRCD255_LO"]).toContain(name)
          translate(model, r)
          model.mmio.write32(0x88, 0x7fff0)
          model.mmio.write32(0x34, 0xff)
          model.mmio.read64(0x220)
        },
      ),
      RUNS,
    )
  })
})
