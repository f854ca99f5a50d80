/** Whatever bytes the model meets: it answers, in bounded steps, and its two ways of walking agree. */
import { ACCESS_READ, ACCESS_WRITE, createMemory, NO_PASID, type PhysicalMemory } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { type VtdModel, vtdModel } from "../src/model/device.ts"
import { EVERYTHING, FIRST_STAGE_ONLY, LEGACY_ONLY } from "../src/model/options.ts"
import { FAULT_REASONS } from "../src/spec/events.ts"
import { GUEST_OFFSET, Unit } from "./unit.ts"

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
    const flip = fc.tuple(fc.nat(1000), fc.oneof(fc.nat(12), fc.nat(63)))
    const access = fc.constantFrom(ACCESS_READ, ACCESS_WRITE, ACCESS_READ | ACCESS_WRITE)
    const visit = fc.record({ page: fc.nat(PLACES.length - 1), offset: fc.nat(0xfff), access })
    const setup = fc.record({
      levels: fc.constantFrom(3, 4, 5),
      pgtt: fc.constantFrom(1n, 2n, 3n),
      ssade: fc.boolean(),
      eafe: fc.boolean(),
      snoop: fc.boolean(),
    })
    let allowed = 0
    fc.assert(
      fc.property(
        setup,
        fc.array(flip, { maxLength: 2 }),
        fc.array(visit, { minLength: 4, maxLength: 12 }),
        (how, flips, visits) => {
          const fast = mappedUnit(how)
          const slow = mappedUnit(how)
          slow.unit.model.trace = () => {}
          for (const { unit, entries } of [fast, slow]) {
            for (const [entry, bit] of flips) {
              const address = entries[entry % entries.length] as bigint
              unit.put(address, unit.get(address) ^ (1n << BigInt(bit)))
            }
          }
          for (const { page, offset, access } of visits) {
            const iova = (PLACES[page] as bigint) + BigInt(offset)
            const outcome = fast.unit.dma(iova, access)
            expect(outcome).toEqual(slow.unit.dma(iova, access))
            if (outcome.ok) allowed++
          }
          const flags = ({ unit, entries }: typeof fast): bigint[] => entries.map(entry => unit.get(entry))
          expect(flags(fast)).toEqual(flags(slow))
        },
      ),
      { ...RUNS, numRuns: 100 },
    )
    expect(allowed).toBeGreaterThan(200)
  })
})

describe("random requests of devices with a TLB", () => {
  it("get an answer of PCIe, and faults of the book", () => {
    fc.assert(
      fc.property(
        fc.integer(),
        fc.nat(3),
        fc.array(request, { minLength: 1, maxLength: 20 }),
        (seed, mode, requests) => {
          const model = vtdModel({ memory: plausibleMemory(seed) })
          const answers: number[] = []
          model.connect(0, {
            invalidate: () => true,
            pageGroupResponse: (_g, _p, code) => answers.push(code),
          })
          enable(model, mode)
          for (const { device, pasid, hi, lo, access } of requests) {
            expect([0, 1, 2]).toContain(model.translationRequest(device, pasid, hi, lo, access))
            model.translatedRequest(device, pasid, hi, lo, access)
            const name = model.atsFault === null ? "" : FAULT_REASONS.get(model.atsFault.code)?.name
            expect(name).toBe(model.atsFault?.reason ?? "")
            const [read, write] = [(access & 1) !== 0, (access & 2) !== 0]
            const address = (BigInt(hi) << 32n) | BigInt(lo)
            const common = { address, read, write, execute: false, privileged: false, group: lo & 511 }
            model.pageRequest({ device: 0, pasid: pasid < 0 ? null : pasid, last: true, ...common })
            expect([undefined, 0, 1]).toContain(answers.pop())
          }
        },
      ),
      RUNS,
    )
  })

  it("may do with a translation what they may do without", () => {
    const setup = fc.record({
      levels: fc.constantFrom(3, 4, 5),
      pgtt: fc.constantFrom(1n, 2n, 3n),
      ssade: fc.boolean(),
      eafe: fc.boolean(),
      snoop: fc.boolean(),
    })
    const flip = fc.tuple(fc.nat(1000), fc.nat(63))
    let granted = 0
    fc.assert(
      fc.property(setup, fc.array(flip, { maxLength: 3 }), (how, flips) => {
        const { unit, entries } = mappedUnit(how)
        unit.set(0x2000n, 4n)
        for (const [entry, bit] of flips) {
          const address = entries[entry % entries.length] as bigint
          unit.put(address, unit.get(address) ^ (1n << BigInt(bit)))
        }
        const { model } = unit
        for (const place of PLACES) {
          const [hi, lo] = [Number(place >> 32n), Number(place & 0xffff_ffffn)]
          const status = model.translationRequest(0, NO_PASID, hi, lo, ACCESS_READ | ACCESS_WRITE)
          const { allowed, addressHi, addressLo, sizeLg2 } = model.completion
          const fault = model.atsFault?.code ?? 0
          const [read, write] = [unit.dma(place, ACCESS_READ), unit.dma(place, ACCESS_WRITE)]
          const codes = [read, write].map(outcome => (outcome.ok ? 0 : outcome.fault.code))
          if (status !== 0) {
            expect(codes).toContain(fault)
            continue
          }
          const base = (BigInt(addressHi) << 32n) | BigInt(addressLo)
          const pa = base + (place & ((1n << BigInt(sizeLg2)) - 1n))
          for (const [bit, outcome] of [
            [ACCESS_READ, read],
            [ACCESS_WRITE, write],
          ] as const) {
            if ((allowed & bit) !== 0) expect(outcome).toMatchObject({ ok: true, pa })
            else if (how.snoop) expect(outcome.ok).toBe(false)
            if ((allowed & bit) !== 0) granted++
          }
        }
      }),
      { ...RUNS, numRuns: 60 },
    )
    expect(granted).toBeGreaterThan(100)
  })
})

const PLACES = [0x1000n, 0x3f_f000n, 0x4000_1000n, 0x7fff_ffff_f000n, 0x1234_5678_9000n, 0x1234_5678_a000n]

/** Every place mapped to a page of its own, in the stages that PGTT asks for; flags set in every other table. */
function mappedUnit(how: { levels: number; pgtt: bigint; ssade: boolean; eafe: boolean; snoop: boolean }): {
  unit: Unit
  entries: bigint[]
} {
  const unit = new Unit()
  const ssRoot = unit.page()
  const entries: bigint[] = []
  const nested = how.pgtt === 3n
  const fsRoot = nested ? 0x5000n : unit.page()
  for (const [i, place] of PLACES.entries()) {
    const page = 0x7_0000n + BigInt(i) * 0x1000n
    const flags = i % 2 === 0 ? 0x467n : 0x7n
    if (how.pgtt === 2n) entries.push(...unit.mapSecond(ssRoot, how.levels, place, page | 0x303n))
    else if (nested) entries.push(...unit.mapGuest(fsRoot, 4, place, page | flags))
    else entries.push(...unit.mapFirst(fsRoot, 4, place, page | flags))
  }
  if (nested) {
    for (let gpa = 0n; gpa < 0x20_0000n; gpa += 0x1000n) {
      const used = unit.mapSecond(
        ssRoot,
        how.levels,
        gpa,
        (gpa + GUEST_OFFSET) | (gpa % 0x2000n === 0n ? 0x303n : 0x3n),
      )
      if (gpa < 0x8000n || gpa >= 0x7_0000n) entries.push(...used)
    }
  }
  const word0 = ssRoot | 1n | (BigInt(how.levels - 2) << 2n) | (how.pgtt << 6n) | (how.ssade ? 1n << 9n : 0n)
  unit.scalable(word0, 5n | (how.snoop ? 1n << 23n : 0n), fsRoot | (how.eafe ? 1n << 7n : 0n))
  return { unit, entries }
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
