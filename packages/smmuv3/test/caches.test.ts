/** Caches of the model beyond the table of scopes in model-caching.ts: what is kept, and under which tags. */
import {
  ACCESS_EXEC,
  ACCESS_PRIV,
  ACCESS_READ,
  ACCESS_WRITE,
  type CachePolicies,
  type CachePolicy,
} from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { EVERYTHING } from "../src/model/options.ts"
import * as reg from "../src/spec/registers.ts"
import {
  Machine,
  type MapShape,
  plainCd,
  plainStage2,
  RAM,
  S1_BLOCK,
  S1_PAGE,
  S2_BLOCK,
  S2_PAGE,
  SHAPE_4K,
} from "./model-machine.ts"

/** nG in a stage 1 leaf, DDI 0487 §D8.3. */
const NG = 0x800n
const DBM = 1n << 51n
const READ_ONLY = 0x80n

/** IHI 0070 G.b chapter 4, as words. */
const address = (va: bigint, leaf = false): bigint => va | (leaf ? 1n : 0n)
const vaCommand = (opcode: bigint, asid: bigint, vmid = 0n): bigint => opcode | (vmid << 32n) | (asid << 48n)
const NH_ALL = [0x10n, 0n]
const NSNH_ALL = [0x30n, 0n]
const nhVa = (va: bigint, asid = 1n, vmid = 0n): bigint[] => [vaCommand(0x12n, asid, vmid), address(va)]
const s2Ipa = (ipa: bigint, vmid = 1n): bigint[] => [0x2an | (vmid << 32n), address(ipa)]
const cfgiSte = (stream: bigint, leaf = true): bigint[] => [0x03n | (stream << 32n), leaf ? 1n : 0n]
const cfgiCd = (stream: bigint, ssid: bigint, leaf = true): bigint[] => [
  0x05n | (ssid << 12n) | (stream << 32n),
  leaf ? 1n : 0n,
]
/** TG, TTL, NUM and SCALE of a range, §4.4.1.1. */
const ranged = (command: readonly bigint[], tg: bigint, ttl: bigint, num = 0n, scale = 0n): bigint[] => [
  (command[0] as bigint) | (num << 12n) | (scale << 20n),
  (command[1] as bigint) | (ttl << 8n) | (tg << 10n),
]

const hoard = (id: ConstructorParameters<typeof Machine>[0] = {}): Machine =>
  new Machine(id, undefined, "hoard")

/** Where an access lands, or the name of its event. */
function lands(
  m: Machine,
  stream: number,
  va: bigint,
  access: number = ACCESS_READ,
  pasid?: number,
): bigint | string {
  const outcome = m.access(stream, va, access, pasid)
  return outcome.ok ? outcome.pa : outcome.fault.reason
}

/** Stream 1 with stage 1 and its root. */
function withStage1(m: Machine, changes: Parameters<Machine["cd"]>[0] = {}): bigint {
  const root = m.alloc()
  const cd = m.cd({ ...plainCd(root), ...changes })
  m.ste(1, { Config: 5n, S1ContextPtr: cd >> 6n })
  return root
}

function withStage2(m: Machine, changes: Parameters<Machine["ste"]>[1] = {}): bigint {
  const root = m.alloc()
  m.ste(1, { Config: 6n, ...plainStage2(root), ...changes })
  return root
}

/** Stream 1 with both stages; stage 2 leaves RAM where it is, in pages of 2 MiB. */
function nested(m: Machine, granule: "4K" | "2M" = "2M"): { stage1: bigint; stage2: bigint } {
  const stage1 = m.alloc()
  const stage2 = m.alloc()
  const cd = m.cd(plainCd(stage1))
  const step = granule === "2M" ? 0x20_0000n : 0x1000n
  const shape = granule === "2M" ? { ...SHAPE_4K, leafLevel: 2 } : SHAPE_4K
  const end = granule === "2M" ? RAM + 0x100_0000n : RAM + 0x60_0000n
  for (let at = RAM; at < end; at += step)
    m.map(stage2, shape, at, at | (granule === "2M" ? S2_BLOCK : S2_PAGE))
  m.ste(1, { Config: 7n, S1ContextPtr: cd >> 6n, ...plainStage2(stage2) })
  return { stage1, stage2 }
}

describe("kept pages", () => {
  it("answer like walks, with all that a result says", () => {
    for (const both of [false, true]) {
      const answers = (["none", "exact", "hoard"] as const).map(caches => {
        const m = new Machine({}, undefined, caches)
        const { stage1 } = both ? nested(m) : { stage1: withStage1(m) }
        m.map(stage1, SHAPE_4K, 0x1000n, (RAM + 0x80_3000n) | S1_PAGE)
        m.map(stage1, { ...SHAPE_4K, leafLevel: 2 }, 0x40_0000n, (RAM + 0x80_0000n) | S1_BLOCK | NG)
        m.map(stage1, { ...SHAPE_4K, leafLevel: 1 }, 0x4000_0000n, RAM | S1_BLOCK | READ_ONLY)
        const accesses = [0x1234n, 0x1ff8n, 0x43_2100n, 0x40_0008n, 0x4000_5678n, 0x4000_5000n]
        return [...accesses, ...accesses].flatMap(va =>
          [ACCESS_READ, ACCESS_READ | ACCESS_PRIV, ACCESS_WRITE, ACCESS_EXEC].map(access => {
            const outcome = m.access(1, va, access)
            const attributes = m.model.result.attributes
            return outcome.ok ? { ...outcome, attributes } : outcome.fault
          }),
        )
      })
      expect(answers[1]).toEqual(answers[0])
      expect(answers[2]).toEqual(answers[0])
    }
  })

  it("refuse what their leaf refused when it was read, in the stage that did", () => {
    const m = hoard()
    const { stage1, stage2 } = nested(m, "4K")
    m.map(stage1, SHAPE_4K, 0x1000n, (RAM + 0x30_0000n) | S1_PAGE | READ_ONLY)
    m.map(stage1, SHAPE_4K, 0x2000n, (RAM + 0x30_1000n) | S1_PAGE)
    m.map(stage2, SHAPE_4K, RAM + 0x30_1000n, (RAM + 0x30_1000n) | (S2_PAGE & ~0x80n))
    expect(lands(m, 1, 0x1000n)).toBe(RAM + 0x30_0000n)
    expect(lands(m, 1, 0x2000n)).toBe(RAM + 0x30_1000n)
    m.map(stage1, SHAPE_4K, 0x1000n, (RAM + 0x30_0000n) | S1_PAGE)
    m.map(stage2, SHAPE_4K, RAM + 0x30_1000n, (RAM + 0x30_1000n) | S2_PAGE)
    expect(m.fault(1, 0x1008n, ACCESS_WRITE)).toMatchObject({ reason: "F_PERMISSION", stage: 1 })
    const fault = m.fault(1, 0x2008n, ACCESS_WRITE)
    expect(fault).toMatchObject({ reason: "F_PERMISSION", stage: 2 })
    // §7.3.16: S2, CLASS = IN, and the IPA's page.
    expect((fault.record?.[1] as bigint) & ((1n << 39n) | (3n << 40n))).toBe((1n << 39n) | (2n << 40n))
    expect(fault.record?.[3]).toBe(RAM + 0x30_1000n)
    m.command([0x10n | (1n << 32n), 0n])
    expect(lands(m, 1, 0x1008n, ACCESS_WRITE)).toBe(RAM + 0x30_0008n)
    expect(lands(m, 1, 0x2008n, ACCESS_WRITE)).toBe("F_PERMISSION")
    m.command(s2Ipa(RAM + 0x30_1000n))
    expect(lands(m, 1, 0x2008n, ACCESS_WRITE)).toBe(RAM + 0x30_1008n)
  })

  it("never come of faults", () => {
    const m = hoard()
    const root = withStage1(m)
    expect(lands(m, 1, 0x1000n)).toBe("F_TRANSLATION")
    m.map(root, SHAPE_4K, 0x1000n, RAM | (S1_PAGE & ~0x400n))
    expect(lands(m, 1, 0x1000n)).toBe("F_ACCESS")
    m.map(root, SHAPE_4K, 0x1000n, RAM | S1_PAGE)
    expect(lands(m, 1, 0x1000n)).toBe(RAM)
  })

  it("serve no other StreamWorld, VMID or ASID", () => {
    const m = hoard()
    const roots = [m.alloc(), m.alloc(), m.alloc(), m.alloc()] as [bigint, bigint, bigint, bigint]
    for (const [n, root] of roots.entries()) {
      m.map(root, SHAPE_4K, 0x1000n, (RAM + BigInt(n) * 0x1000n) | S1_PAGE | NG)
    }
    const cds = roots.map((root, n) => m.cd({ ...plainCd(root), ASID: n === 1 ? 2n : 1n }))
    m.ste(0, { Config: 5n, S1ContextPtr: (cds[0] as bigint) >> 6n })
    m.ste(1, { Config: 5n, S1ContextPtr: (cds[1] as bigint) >> 6n })
    m.ste(2, { Config: 5n, S1ContextPtr: (cds[2] as bigint) >> 6n, S2VMID: 1n })
    m.ste(3, { Config: 5n, S1ContextPtr: (cds[3] as bigint) >> 6n, STRW: 2n })
    for (let round = 0; round < 2; round++) {
      for (const stream of [0, 1, 2, 3])
        expect(lands(m, stream, 0x1000n)).toBe(RAM + BigInt(stream) * 0x1000n)
    }
  })

  it("without stage 2 never serve a stream with stage 2 under the same VMID", () => {
    const m = hoard()
    const { stage1 } = nested(m)
    m.map(stage1, SHAPE_4K, 0x1000n, 0x1000n | S1_PAGE)
    const cd = m.cd(plainCd(stage1))
    m.ste(2, { Config: 5n, S1ContextPtr: cd >> 6n, S2VMID: 1n })
    expect(lands(m, 2, 0x1000n)).toBe(0x1000n)
    expect(lands(m, 1, 0x1000n)).toBe("F_TRANSLATION")
  })

  it("are global for one set of ASIDs, §3.17.1", () => {
    const m = hoard()
    const roots = [m.alloc(), m.alloc(), m.alloc()] as const
    for (const [n, root] of roots.entries()) {
      m.map(root, SHAPE_4K, 0x1000n, (RAM + BigInt(n) * 0x1000n) | S1_PAGE)
      const cd = m.cd({ ...plainCd(root), ASID: BigInt(n + 1), ASET: n === 2 ? 1n : 0n })
      m.ste(n, { Config: 5n, S1ContextPtr: cd >> 6n })
    }
    expect([0, 1, 2].map(stream => lands(m, stream, 0x1000n))).toEqual([RAM, RAM, RAM + 0x2000n])
    m.command([vaCommand(0x11n, 1n), 0n])
    expect(lands(m, 1, 0x1000n)).toBe(RAM)
    m.command(nhVa(0x1000n, 7n))
    expect(lands(m, 1, 0x1000n)).toBe(RAM + 0x1000n)
  })

  it("of EL2 know neither ASID nor global", () => {
    const m = hoard()
    const root = withStage1(m)
    m.ste(1, { Config: 5n, STRW: 2n, S1ContextPtr: m.cd({ ...plainCd(root), ASID: 5n }) >> 6n })
    m.ste(2, { Config: 5n, STRW: 2n, S1ContextPtr: m.cd({ ...plainCd(m.alloc()), ASID: 6n }) >> 6n })
    m.map(root, SHAPE_4K, 0x1000n, RAM | S1_PAGE | NG)
    expect(lands(m, 1, 0x1000n)).toBe(RAM)
    expect(lands(m, 2, 0x1000n)).toBe(RAM)
  })

  it("do not see the top byte where that is ignored", () => {
    const m = hoard()
    const root = withStage1(m, { TBI0: 1n })
    m.map(root, SHAPE_4K, 0x1000n, RAM | S1_PAGE | NG)
    expect(lands(m, 1, (0xabn << 56n) | 0x1000n)).toBe(RAM)
    m.map(root, SHAPE_4K, 0x1000n, (RAM + 0x5000n) | S1_PAGE | NG)
    expect(lands(m, 1, (0x12n << 56n) | 0x1008n)).toBe(RAM + 8n)
    m.command(nhVa(0x1000n))
    expect(lands(m, 1, (0xabn << 56n) | 0x1000n)).toBe(RAM + 0x5000n)
  })

  it("leave E0PD to the CD, which is not kept with them", () => {
    const m = hoard()
    const root = m.alloc()
    m.map(root, SHAPE_4K, 0x1000n, RAM | S1_PAGE | NG)
    const cd = m.cd(plainCd(root))
    m.ste(1, { Config: 5n, S1ContextPtr: cd >> 6n })
    expect(lands(m, 1, 0x1000n)).toBe(RAM)
    m.cd({ ...plainCd(root), E0PD0: 1n }, cd)
    m.command(cfgiCd(1n, 0n))
    expect(lands(m, 1, 0x1000n)).toBe("F_TRANSLATION")
    expect(lands(m, 1, 0x1000n, ACCESS_READ | ACCESS_PRIV)).toBe(RAM)
  })

  it("follow PRIVCFG and INSTCFG of the STE", () => {
    const m = hoard()
    const root = m.alloc()
    const cd = m.cd(plainCd(root))
    m.map(root, SHAPE_4K, 0x1000n, RAM | 0x703n | NG)
    m.ste(1, { Config: 5n, S1ContextPtr: cd >> 6n })
    expect(lands(m, 1, 0x1000n, ACCESS_READ | ACCESS_PRIV)).toBe(RAM)
    expect(lands(m, 1, 0x1000n)).toBe("F_PERMISSION")
    m.ste(1, { Config: 5n, S1ContextPtr: cd >> 6n, PRIVCFG: 3n })
    m.command(cfgiSte(1n))
    expect(lands(m, 1, 0x1000n)).toBe(RAM)
    expect(lands(m, 1, 0x1008n)).toBe(RAM + 8n)
  })

  it("reach beyond 4 GiB", () => {
    const m = hoard()
    const root = m.alloc()
    const shape = { granuleLg2: 12, inputBits: 48, startLevel: 0, leafLevel: 0 }
    const cd = m.cd({ ...plainCd(root), DS: 1n, IPS: 6n })
    m.ste(1, { Config: 5n, S1ContextPtr: cd >> 6n })
    m.map(root, shape, 0n, (S1_BLOCK & ~0x300n) | NG)
    expect(lands(m, 1, 0x12_3456_7890n)).toBe(0x12_3456_7890n)
    m.map(root, shape, 0n, 0n)
    expect(m.access(1, 0x7f_0000_1230n)).toMatchObject({ ok: true, pa: 0x7f_0000_1230n, size: 1n << 39n })
    m.command(nhVa(0x55_0000_0000n))
    expect(lands(m, 1, 0x7f_0000_1230n)).toBe("F_TRANSLATION")

    const root2 = withStage2(m, { S2DS: 1n, S2PS: 6n })
    m.command(cfgiSte(1n))
    m.map(root2, shape, 0n, S2_BLOCK & ~0x300n)
    expect(lands(m, 1, 0x12_3456_7890n)).toBe(0x12_3456_7890n)
    m.map(root2, shape, 0n, 0n)
    expect(lands(m, 1, 0x7f_0000_1230n)).toBe(0x7f_0000_1230n)
    m.command(s2Ipa(0x1_0000_0000n))
    expect(lands(m, 1, 0x7f_0000_1230n)).toBe("F_TRANSLATION")
  })

  it("of the upper range are dropped by addresses of the upper range", () => {
    const m = hoard()
    const root = m.alloc()
    const cd = m.cd({
      V: 1n,
      EPD0: 1n,
      T1SZ: 16n,
      TG1: 2n,
      IPS: 5n,
      AA64: 1n,
      A: 1n,
      R: 1n,
      TTB1: root >> 4n,
    })
    m.ste(1, { Config: 5n, S1ContextPtr: cd >> 6n })
    m.map(root, SHAPE_4K, 0x1000n, RAM | S1_PAGE | NG)
    const upper = 0xffff_0000_0000_0000n
    expect(lands(m, 1, upper + 0x1000n)).toBe(RAM)
    m.map(root, SHAPE_4K, 0x1000n, 0n)
    // §4.4.1.1: a range from the lower half does not reach the upper one.
    m.command(ranged(nhVa(0x1000n, 0n), 1n, 0n, 31n, 39n))
    expect(lands(m, 1, upper + 0x1000n)).toBe(RAM)
    m.command(ranged(nhVa(upper, 0n), 1n, 0n, 1n, 39n))
    expect(lands(m, 1, upper + 0x1000n)).toBe("F_TRANSLATION")
  })
})

describe("pieces of a stage 1 leaf over smaller pages of stage 2", () => {
  it("all go with an address in the leaf, §4.4", () => {
    const m = hoard()
    const { stage1 } = nested(m, "4K")
    m.map(stage1, { ...SHAPE_4K, leafLevel: 2 }, 0x40_0000n, (RAM + 0x20_0000n) | S1_BLOCK | NG)
    const vas = [0x40_0000n, 0x41_2000n, 0x5f_f000n]
    for (const va of vas) expect(lands(m, 1, va)).toBe(RAM - 0x20_0000n + va)
    m.map(stage1, { ...SHAPE_4K, leafLevel: 2 }, 0x40_0000n, (RAM + 0x40_0000n) | S1_BLOCK | NG)
    for (const va of vas) expect(lands(m, 1, va)).toBe(RAM - 0x20_0000n + va)
    m.command(nhVa(0x45_6000n, 1n, 1n))
    for (const va of vas) expect(lands(m, 1, va)).toBe(RAM + va)
  })
})

describe("ranges and hints, §4.4.1.1", () => {
  const GRANULES: readonly (MapShape & { tg: bigint; tg0: bigint; s2tg: bigint; s2sl0: bigint })[] = [
    { ...SHAPE_4K, tg: 1n, tg0: 0n, s2tg: 0n, s2sl0: 2n },
    { granuleLg2: 14, inputBits: 47, startLevel: 1, tg: 2n, tg0: 2n, s2tg: 2n, s2sl0: 2n },
    { granuleLg2: 16, inputBits: 42, startLevel: 2, tg: 3n, tg0: 1n, s2tg: 1n, s2sl0: 1n },
  ]
  const pages = 12

  for (const stage of [1, 2] as const) {
    for (const shape of GRANULES) {
      it(`drop exactly their pages: stage ${stage}, granule 2^${shape.granuleLg2}`, () => {
        const step = 1n << BigInt(shape.granuleLg2)
        const command = (va: bigint): bigint[] => (stage === 1 ? nhVa(va) : s2Ipa(va))
        const machine = (): { m: Machine; root: bigint } => {
          const m = hoard()
          const root = m.alloc(0x1_0000n, 0x1_0000n)
          if (stage === 1) {
            const cd = m.cd({ ...plainCd(root), TG0: shape.tg0, T0SZ: BigInt(64 - shape.inputBits) })
            m.ste(1, { Config: 5n, S1ContextPtr: cd >> 6n })
          } else {
            const fields = { S2TG: shape.s2tg, S2SL0: shape.s2sl0, S2T0SZ: BigInt(64 - shape.inputBits) }
            m.ste(1, { Config: 6n, ...plainStage2(root), ...fields })
          }
          return { m, root }
        }
        const leaf = stage === 1 ? S1_PAGE | NG : S2_PAGE
        fc.assert(
          fc.property(
            fc.nat(7),
            fc.nat(3),
            fc.nat(2),
            fc.constantFrom(0n, 2n, 3n),
            fc.nat(3),
            (first, num, scale, ttl, tg) => {
              fc.pre(!(tg !== 0 && num === 0 && scale === 0 && ttl === 0n))
              const { m, root } = machine()
              for (let n = 0; n < pages; n++)
                m.map(root, shape, BigInt(n) * step, (RAM + BigInt(n) * step) | leaf)
              for (let n = 0; n < pages; n++) lands(m, 1, BigInt(n) * step)
              for (let n = 0; n < pages; n++) m.map(root, shape, BigInt(n) * step, 0n)
              const granule = tg === 0 ? 1n << 12n : 1n << BigInt(10 + 2 * tg)
              const count = tg === 0 ? 1n : BigInt(num + 1) << BigInt(scale)
              const start = BigInt(first) * step
              m.command(
                ranged(
                  command(start),
                  BigInt(tg),
                  tg === 0 ? 0n : ttl,
                  tg === 0 ? 0n : BigInt(num),
                  tg === 0 ? 0n : BigInt(scale),
                ),
              )
              const fits = tg === 0 || (BigInt(tg) === shape.tg && ttl !== 2n)
              for (let n = 0; n < pages; n++) {
                const at = BigInt(n) * step
                const gone = fits && at + step > start && at < start + count * granule
                expect(lands(m, 1, at), `page ${n}`).toBe(gone ? "F_TRANSLATION" : RAM + at)
              }
            },
          ),
          { seed: 7, numRuns: 40 },
        )
      })
    }
  }

  it("leave tables at and below the level of TTL, and all tables with Leaf", () => {
    const state = (): { m: Machine; root: bigint } => {
      const m = hoard()
      const root = withStage1(m)
      m.map(root, SHAPE_4K, 0x1000n, RAM | S1_PAGE | NG)
      m.map(root, SHAPE_4K, 0x2000n, (RAM + 0x2000n) | S1_PAGE | NG)
      lands(m, 1, 0x1000n)
      // Level 1 now leads elsewhere, where nothing is mapped.
      const level1 = m.memory.read64(root) & 0xffff_ffff_f000n
      m.memory.write64(level1, m.alloc() | 3n)
      return { m, root }
    }
    const after = (command: readonly bigint[]): bigint | string => {
      const { m } = state()
      expect(lands(m, 1, 0x2000n)).toBe(RAM + 0x2000n)
      m.command(command, nhVa(0x2000n).with(1, 0x2001n))
      return lands(m, 1, 0x2000n)
    }
    expect(after(nhVa(0x2000n))).toBe("F_TRANSLATION")
    expect(after(nhVa(0x2000n).with(1, 0x2001n))).toBe(RAM + 0x2000n)
    expect(after(ranged(nhVa(0n), 1n, 3n))).toBe("F_TRANSLATION")
    expect(after(ranged(nhVa(0n), 1n, 2n))).toBe(RAM + 0x2000n)
    expect(after(ranged(nhVa(0n), 2n, 3n))).toBe(RAM + 0x2000n)
    expect(after([vaCommand(0x11n, 1n), 0n])).toBe("F_TRANSLATION")
    expect(after([vaCommand(0x11n, 2n), 0n])).toBe(RAM + 0x2000n)
  })

  it("count for nothing without IDR3.RIL", () => {
    const m = hoard({ IDR3: 0 })
    const root = withStage1(m)
    for (const va of [0x1000n, 0x2000n]) m.map(root, SHAPE_4K, va, (RAM + va) | S1_PAGE | NG)
    for (const va of [0x1000n, 0x2000n]) lands(m, 1, va)
    for (const va of [0x1000n, 0x2000n]) m.map(root, SHAPE_4K, va, 0n)
    m.command(ranged(nhVa(0x1000n), 2n, 1n, 5n))
    expect(lands(m, 1, 0x1000n)).toBe("F_TRANSLATION")
    expect(lands(m, 1, 0x2000n)).toBe(RAM + 0x2000n)
  })
})

describe("VMIDs", () => {
  it("lose their low bits in invalidations as CR0.VMW says, §3.17.6", () => {
    const IDR0 = new Machine().read("IDR0") | reg.IDR0.encode({ VMW: 1n }).map(Number)[0]!
    for (const [vmw, dropped] of [
      [0, [4]],
      [1, [4, 5]],
      [2, [4, 5, 6, 7]],
      [7, [4]],
    ] as const) {
      const m = hoard({ IDR0 })
      m.write("CR0", reg.CR0_SMMUEN | reg.CR0_EVENTQEN | reg.CR0_CMDQEN | (vmw << 6))
      const roots = Array.from({ length: 9 }, () => m.alloc())
      for (const [n, root] of roots.entries()) {
        m.map(root, SHAPE_4K, 0x1000n, (RAM + 0x1000n) | S2_PAGE)
        m.ste(n, { Config: 6n, ...plainStage2(root), S2VMID: BigInt(n) })
        lands(m, n, 0x1000n)
        m.map(root, SHAPE_4K, 0x1000n, 0n)
      }
      m.command(s2Ipa(0x1000n, 4n))
      const gone = roots.flatMap((_, n) => (lands(m, n, 0x1000n) === "F_TRANSLATION" ? [n] : []))
      expect(gone).toEqual(dropped)
    }
  })

  it("do not count without stage 2", () => {
    const m = hoard({ IDR0: new Machine().read("IDR0") & ~1 })
    const root = withStage1(m)
    m.map(root, SHAPE_4K, 0x1000n, RAM | S1_PAGE | NG)
    expect(lands(m, 1, 0x1000n)).toBe(RAM)
    m.map(root, SHAPE_4K, 0x1000n, 0n)
    m.command(nhVa(0x1000n, 1n, 9n))
    expect(lands(m, 1, 0x1000n)).toBe("F_TRANSLATION")
  })
})

describe("StreamWorlds of EL2, §4.4.2.7 to §4.4.2.10", () => {
  const ALL = [0x20n, 0n]
  const byAsid = (asid: bigint): bigint[] => [vaCommand(0x21n, asid), 0n]
  const va = (asid: bigint): bigint[] => [vaCommand(0x22n, asid), 0x1000n]
  const vaa = [0x23n, 0x1000n]

  /** Whether a page of stream 1 is gone after a command: nG, ASID 1. */
  function isGone(hosts: boolean, global: boolean, command: readonly bigint[]): boolean {
    const m = hoard()
    m.write("CR0", 0)
    m.write("CR2", reg.CR2_RECINVSID | (hosts ? reg.CR2_E2H : 0))
    m.write("CR0", reg.CR0_SMMUEN | reg.CR0_EVENTQEN | reg.CR0_CMDQEN)
    const root = withStage1(m)
    const cd = m.cd(plainCd(root))
    m.ste(1, { Config: 5n, STRW: 2n, S1ContextPtr: cd >> 6n })
    m.map(root, SHAPE_4K, 0x1000n, RAM | S1_PAGE | (global ? 0n : NG))
    expect(lands(m, 1, 0x1000n)).toBe(RAM)
    m.map(root, SHAPE_4K, 0x1000n, 0n)
    m.command(command)
    return lands(m, 1, 0x1000n) === "F_TRANSLATION"
  }

  it.each([
    ["all", ALL, true, true, true],
    ["the ASID", byAsid(1n), false, true, false],
    ["another ASID", byAsid(2n), false, false, false],
    ["the address and the ASID", va(1n), true, true, true],
    ["the address and another ASID", va(2n), true, false, true],
    ["the address in all ASIDs", vaa, true, true, true],
    ["all of EL1", NH_ALL, false, false, false],
    ["all that is not EL2", NSNH_ALL, false, false, false],
  ])("%s", (_, command, el2, hosts, hostsGlobal) => {
    expect(isGone(false, false, command)).toBe(el2)
    expect(isGone(true, false, command)).toBe(hosts)
    expect(isGone(true, true, command)).toBe(hostsGlobal)
  })
})

describe("dirty state", () => {
  it("is updated by the first write, whatever a kept clean page says", () => {
    for (const caches of ["exact", "hoard", "none"] as const satisfies CachePolicy[]) {
      const m = new Machine({}, undefined, caches)
      const root = withStage1(m, { HA: 1n, HD: 1n })
      m.map(root, SHAPE_4K, 0x1000n, RAM | S1_PAGE | READ_ONLY | DBM | NG)
      const table = [0, 1, 2].reduce(at => m.memory.read64(at) & 0xffff_ffff_f000n, root)
      expect(m.access(1, 0x1000n)).toMatchObject({
        ok: true,
        allowed: ACCESS_READ | ACCESS_WRITE | ACCESS_EXEC,
      })
      expect(m.memory.read64(table + 8n) & READ_ONLY).toBe(READ_ONLY)
      expect(lands(m, 1, 0x1000n, ACCESS_WRITE)).toBe(RAM)
      expect(m.memory.read64(table + 8n) & READ_ONLY).toBe(0n)
      expect(lands(m, 1, 0x1008n, ACCESS_WRITE)).toBe(RAM + 8n)
    }
  })

  it("of stage 2 is updated through a kept page of both stages", () => {
    const m = hoard()
    const { stage1, stage2 } = nested(m, "4K")
    m.ste(1, {
      Config: 7n,
      S1ContextPtr: m.cd(plainCd(stage1)) >> 6n,
      ...plainStage2(stage2),
      S2HA: 1n,
      S2HD: 1n,
    })
    m.map(stage1, SHAPE_4K, 0x1000n, (RAM + 0x30_0000n) | S1_PAGE | NG)
    m.map(stage2, SHAPE_4K, RAM + 0x30_0000n, (RAM + 0x30_0000n) | (S2_PAGE & ~0x80n) | DBM)
    const table = [0n, 1n, 1n].reduce(
      (at, index) => m.memory.read64(at + index * 8n) & 0xffff_ffff_f000n,
      stage2,
    )
    const leaf = (): bigint => m.memory.read64(table + 0x100n * 8n)
    expect(lands(m, 1, 0x1000n)).toBe(RAM + 0x30_0000n)
    expect(leaf() & 0x80n).toBe(0n)
    expect(lands(m, 1, 0x1000n, ACCESS_WRITE)).toBe(RAM + 0x30_0000n)
    expect(leaf() & 0x80n).toBe(0x80n)
  })
})

describe("kept structures", () => {
  it("are kept whatever they say, §3.21.3", () => {
    const m = hoard()
    const root = m.alloc()
    expect(lands(m, 1, 0x1000n)).toBe("C_BAD_STE")
    const cd = m.cd({})
    m.ste(1, { Config: 5n, S1ContextPtr: cd >> 6n })
    expect(lands(m, 1, 0x1000n)).toBe("C_BAD_STE")
    m.command(cfgiSte(1n))
    expect(lands(m, 1, 0x1000n)).toBe("C_BAD_CD")
    m.cd(plainCd(root), cd)
    expect(lands(m, 1, 0x1000n)).toBe("C_BAD_CD")
    m.command(cfgiCd(1n, 0n))
    expect(lands(m, 1, 0x1000n)).toBe("F_TRANSLATION")
    m.ste(1, { Config: 0n })
    m.command(cfgiSte(1n))
    expect(lands(m, 1, 0x1000n)).toBe("ABORT")
    expect(lands(m, 1, 0x1000n)).toBe("ABORT")
  })

  it("are fetched again after a fetch that failed, §3.21.3", () => {
    const m = hoard()
    m.ste(1, { Config: 5n, S1ContextPtr: 0x10_0000n >> 6n })
    expect(lands(m, 1, 0x1000n)).toBe("F_CD_FETCH")
    const { stage1, stage2 } = nested(m)
    m.command(cfgiSte(1n))
    m.map(stage1, SHAPE_4K, 0x1000n, RAM | S1_PAGE)
    const cdPage = m.memory.read64(m.streamTable + 64n) & 0xffff_ffff_f000n & ~0x1f_ffffn
    m.map(stage2, { ...SHAPE_4K, leafLevel: 2 }, cdPage, 0n)
    expect(m.fault(1, 0x1000n)).toMatchObject({ reason: "F_TRANSLATION", stage: 2 })
    m.map(stage2, { ...SHAPE_4K, leafLevel: 2 }, cdPage, cdPage | S2_BLOCK)
    expect(lands(m, 1, 0x1000n)).toBe(RAM)
  })

  it("outlive STRTAB_BASE and SMMUEN, and end with a restored machine", () => {
    const m = hoard()
    const root = withStage1(m)
    m.map(root, SHAPE_4K, 0x1000n, RAM | S1_PAGE | NG)
    expect(lands(m, 1, 0x1000n)).toBe(RAM)
    m.write("CR0", 0)
    expect(lands(m, 1, 0x1000n)).toBe(0x1000n)
    m.write64("STRTAB_BASE", m.alloc(0x4000n, 0x4000n))
    m.write("CR0", reg.CR0_SMMUEN | reg.CR0_EVENTQEN | reg.CR0_CMDQEN)
    expect(lands(m, 1, 0x1000n)).toBe(RAM)
    m.model.restoreRegisters({})
    expect(lands(m, 1, 0x1000n)).toBe("C_BAD_STE")
  })

  it("are at most as many as the sets of a real cache hold, under exact", () => {
    const m = new Machine({}, undefined, "exact")
    const root = withStage1(m)
    for (let stream = 0; stream < 256; stream++) {
      m.ste(stream, { Config: 5n, S1ContextPtr: m.cd({ ...plainCd(root), ASID: BigInt(stream) }) >> 6n })
    }
    m.map(root, SHAPE_4K, 0x1000n, RAM | S1_PAGE | NG)
    for (let round = 0; round < 2; round++) {
      for (let stream = 0; stream < 256; stream++) expect(lands(m, stream, 0x1000n)).toBe(RAM)
    }
    m.map(root, SHAPE_4K, 0x1000n, 0n)
    const stale = Array.from({ length: 256 }, (_, stream) => lands(m, stream, 0x1000n) === RAM)
    expect(stale.some(Boolean)).toBe(true)
  })
})

describe("first levels of structures", () => {
  /** A 2-level Stream table with SPLIT 6, streams 0 and 1 in one Level 2 array, 64 in another. */
  function twoLevels(): { m: Machine; level1: bigint; level2: bigint; other: bigint } {
    const m = hoard()
    const level1 = m.alloc()
    const [level2, other] = [m.alloc(), m.alloc()]
    m.write("CR0", 0)
    m.write64("STRTAB_BASE", level1)
    m.write("STRTAB_BASE_CFG", (1 << 16) | (6 << 6) | 8)
    m.write("CR0", reg.CR0_SMMUEN | reg.CR0_EVENTQEN | reg.CR0_CMDQEN)
    m.memory.write64(level1, level2 | 7n)
    m.memory.write64(level1 + 8n, level2 | 7n)
    // Bypass in one array, abort in the other.
    for (let n = 0n; n < 64n; n++) {
      m.memory.write64(level2 + n * 64n, 0x9n)
      m.memory.write64(other + n * 64n, 0x1n)
    }
    return { m, level1, level2, other }
  }

  it("keep where the STEs are until CMD_CFGI_STE without Leaf, or a range", () => {
    const commands: [readonly bigint[], boolean, boolean][] = [
      [cfgiSte(0n, true), false, false],
      [cfgiSte(0n, false), true, false],
      [cfgiSte(64n, false), false, true],
      [[0x04n | (2n << 32n), 0n], true, false],
      [[0x04n | (64n << 32n), 5n], false, true],
      [[0x04n, 6n], true, true],
      [[0x04n, 31n], true, true],
      [cfgiCd(0n, 0n, false), false, false],
    ]
    for (const [command, first, second] of commands) {
      const { m, level1, other } = twoLevels()
      expect([lands(m, 0, 0n), lands(m, 64, 0n)]).toEqual([0n, 0n])
      m.memory.write64(level1, other | 7n)
      m.memory.write64(level1 + 8n, other | 7n)
      expect([lands(m, 1, 0n), lands(m, 65, 0n)]).toEqual([0n, 0n])
      m.command(command)
      expect([lands(m, 2, 0n), lands(m, 66, 0n)]).toEqual([first ? "ABORT" : 0n, second ? "ABORT" : 0n])
    }
  })

  it("keep a Span of none", () => {
    const { m, level1, level2 } = twoLevels()
    m.memory.write64(level1, 0n)
    expect(lands(m, 0, 0n)).toBe("C_BAD_STREAMID")
    m.memory.write64(level1, level2 | 7n)
    expect(lands(m, 0, 0n)).toBe("C_BAD_STREAMID")
    m.command(cfgiSte(0n, false))
    expect(lands(m, 0, 0n)).toBe(0n)
  })

  it("keep where the CDs are until a command without Leaf, for all CDs, or for the STE", () => {
    const commands: [readonly bigint[], boolean][] = [
      [cfgiCd(1n, 2n, true), false],
      [cfgiCd(1n, 2n, false), true],
      [cfgiCd(1n, 64n, false), false],
      [cfgiCd(2n, 2n, false), false],
      [[0x06n | (1n << 32n), 0n], true],
      [[0x06n | (2n << 32n), 0n], false],
      [cfgiSte(1n), true],
    ]
    for (const [command, dropped] of commands) {
      const m = hoard()
      const level1 = m.alloc()
      const [leaf, other] = [m.alloc(), m.alloc()]
      const root = m.alloc()
      m.map(root, SHAPE_4K, 0x1000n, RAM | S1_PAGE | NG)
      for (let n = 0n; n < 64n; n++) m.cd(plainCd(root), leaf + n * 64n)
      m.memory.write64(level1, leaf | 1n)
      m.ste(1, { Config: 5n, S1Fmt: 1n, S1CDMax: 8n, S1ContextPtr: level1 >> 6n })
      expect(lands(m, 1, 0x1000n, ACCESS_READ, 1)).toBe(RAM)
      m.memory.write64(level1, other | 1n)
      expect(lands(m, 1, 0x1000n, ACCESS_READ, 2)).toBe(RAM)
      m.command(command)
      expect(lands(m, 1, 0x1000n, ACCESS_READ, 3)).toBe(dropped ? "C_BAD_CD" : RAM)
    }
  })
})

describe("tables of stage 1 behind stage 2", () => {
  it("are found through stage 2 again where its pages are smaller than they", () => {
    const m = hoard()
    const shape: MapShape = { granuleLg2: 16, inputBits: 42, startLevel: 2 }
    const stage1 = m.alloc(0x1_0000n, 0x1_0000n)
    const stage2 = m.alloc()
    for (let at = RAM; at < RAM + 0x40_0000n; at += 0x1000n) m.map(stage2, SHAPE_4K, at, at | S2_PAGE)
    const cd = m.cd({ ...plainCd(stage1), TG0: 1n, T0SZ: 22n })
    m.ste(1, { Config: 7n, S1ContextPtr: cd >> 6n, ...plainStage2(stage2) })
    const pages = [0n, 1n, 0x1000n, 0x1fffn]
    for (const n of pages) m.map(stage1, shape, n << 16n, (RAM + 0x10_0000n) | S1_PAGE | NG)
    for (const n of pages) expect(lands(m, 1, n << 16n)).toBe(RAM + 0x10_0000n)
  })

  it("are reached where they were, until stage 1 is told as well", () => {
    const m = hoard()
    const { stage1, stage2 } = nested(m, "4K")
    m.map(stage1, SHAPE_4K, 0x1000n, (RAM + 0x30_0000n) | S1_PAGE | NG)
    m.map(stage1, SHAPE_4K, 0x2000n, (RAM + 0x30_0000n) | S1_PAGE | NG)
    expect(lands(m, 1, 0x1000n)).toBe(RAM + 0x30_0000n)
    const level3 = [0, 1, 2].reduce(at => m.memory.read64(at) & 0xffff_ffff_f000n, stage1)
    const moved = m.alloc()
    m.memory.write64(moved + 0x10n, (RAM + 0x30_1000n) | S1_PAGE | NG)
    m.map(stage2, SHAPE_4K, level3, moved | S2_PAGE)
    m.command(s2Ipa(level3))
    expect(lands(m, 1, 0x2000n)).toBe(RAM + 0x30_0000n)
    m.command([0x10n | (1n << 32n), 0n])
    expect(lands(m, 1, 0x2000n)).toBe(RAM + 0x30_1000n)
  })
})

describe("caches kept in step", () => {
  const change = fc.record({
    stage: fc.constantFrom(1, 2),
    page: fc.nat(5),
    to: fc.nat(7),
    block: fc.boolean(),
    access: fc.constantFrom(ACCESS_READ, ACCESS_WRITE),
    at: fc.nat(5),
  })

  it("give what tables say when each change is followed by its invalidation", () => {
    fc.assert(
      fc.property(fc.array(change, { maxLength: 40 }), changes => {
        const machines = (["none", "exact", "hoard"] as const).map(caches => {
          const m = new Machine({}, undefined, caches)
          return { m, ...nested(m) }
        })
        for (const { stage, page, to, block, access, at } of changes) {
          const seen = machines.map(({ m, stage1, stage2 }) => {
            const va = (block ? 0x40_0000n : 0n) + BigInt(page) * 0x1000n
            const target = RAM + 0xa0_0000n + BigInt(to) * 0x1000n
            if (stage === 1) {
              if (block) {
                const blockAt = RAM + 0xa0_0000n + BigInt(to & 1) * 0x20_0000n
                m.map(stage1, { ...SHAPE_4K, leafLevel: 2 }, 0x40_0000n, blockAt | S1_BLOCK | NG)
              } else m.map(stage1, SHAPE_4K, va, to === 7 ? 0n : target | S1_PAGE | (to & 1 ? NG : 0n))
              m.command(nhVa(va, 1n, 1n))
            } else {
              const from = RAM + 0xa0_0000n + BigInt(page & 1) * 0x20_0000n
              const shape = { ...SHAPE_4K, leafLevel: 2 }
              const onto = RAM + 0x60_0000n + BigInt(to & 1) * 0x20_0000n
              m.map(stage2, shape, from, onto | (to > 3 ? S2_BLOCK : S2_BLOCK & ~0x80n))
              m.command(s2Ipa(from), [0x10n | (1n << 32n), 0n])
            }
            return [0n, 0x40_0000n].map(base => lands(m, 1, base + BigInt(at) * 0x1000n, access))
          })
          expect(seen[1]).toEqual(seen[0])
          expect(seen[2]).toEqual(seen[0])
        }
      }),
      { seed: 11, numRuns: 40 },
    )
  })

  it("are passed by a tracer that sees what is read", () => {
    const m = hoard()
    const root = withStage1(m)
    m.map(root, SHAPE_4K, 0x1000n, RAM | S1_PAGE | NG)
    const steps: string[] = []
    m.model.trace = step => steps.push(step.what)
    lands(m, 1, 0x1000n)
    expect(steps).toEqual(["STE", "CD", ...[0, 1, 2, 3].map(level => `level ${level} descriptor`)])
    steps.length = 0
    lands(m, 1, 0x1000n)
    expect(steps).toEqual([])
  })
})

describe("policies of their own for structures and translations", () => {
  it("keep the one and read the other anew", () => {
    const structures = new Machine({}, undefined, { structures: "hoard", translations: "none" })
    const translations = new Machine({}, undefined, { structures: "none", translations: "hoard" })
    for (const m of [structures, translations]) {
      const root = withStage1(m)
      m.map(root, SHAPE_4K, 0x1000n, RAM | S1_PAGE | NG)
      expect(lands(m, 1, 0x1000n)).toBe(RAM)
      m.map(root, SHAPE_4K, 0x1000n, (RAM + 0x1000n) | S1_PAGE | NG)
    }
    expect(lands(structures, 1, 0x1000n)).toBe(RAM + 0x1000n)
    expect(lands(translations, 1, 0x1000n)).toBe(RAM)
    for (const m of [structures, translations]) m.ste(1, { Config: 0n })
    expect(lands(structures, 1, 0x1000n)).toBe(RAM + 0x1000n)
    expect(lands(translations, 1, 0x1000n)).toBe("ABORT")
  })

  it("tag translations with what the STE says now", () => {
    const m = new Machine({}, undefined, { structures: "none", translations: "hoard" })
    const root = m.alloc()
    const cd = m.cd(plainCd(root))
    m.ste(1, { Config: 5n, S1ContextPtr: cd >> 6n, S2VMID: 1n })
    m.map(root, SHAPE_4K, 0x1000n, RAM | S1_PAGE | NG)
    expect(lands(m, 1, 0x1000n)).toBe(RAM)
    m.map(root, SHAPE_4K, 0x1000n, (RAM + 0x1000n) | S1_PAGE | NG)
    m.ste(1, { Config: 5n, S1ContextPtr: cd >> 6n, S2VMID: 2n })
    expect(lands(m, 1, 0x1000n)).toBe(RAM + 0x1000n)
  })
})

describe("prefetches, §4.2", () => {
  /** Opcode, StreamID, SSV and SubstreamID. */
  const config = (stream: bigint, ssid?: bigint): bigint[] => [
    0x01n | (stream << 32n) | (ssid === undefined ? 0n : (1n << 11n) | (ssid << 12n)),
    0n,
  ]
  const addresses = (va: bigint, size = 0n, stride = 0n, stream = 1n): bigint[] => [
    0x02n | (stream << 32n),
    va | size | (stride << 5n),
  ]

  it("keep the STE and the CD, and no translation", () => {
    const m = hoard()
    const [first, second] = [m.alloc(), m.alloc()]
    m.map(first, SHAPE_4K, 0x1000n, RAM | S1_PAGE | NG)
    m.map(second, SHAPE_4K, 0x1000n, (RAM + 0x1000n) | S1_PAGE | NG)
    const cds = m.alloc()
    for (const n of [0n, 1n]) m.cd(plainCd(first), cds + n * 64n)
    m.ste(1, { Config: 5n, S1CDMax: 1n, S1DSS: 2n, S1ContextPtr: cds >> 6n })
    m.command(config(1n, 1n))
    m.ste(1, { Config: 0n })
    for (const n of [0n, 1n]) m.cd({ ...plainCd(second), ASID: 2n }, cds + n * 64n)
    expect(lands(m, 1, 0x1000n, ACCESS_READ, 1)).toBe(RAM)
    // Without SubstreamID it is another CD.
    expect(lands(m, 1, 0x1000n)).toBe(RAM + 0x1000n)
    m.map(first, SHAPE_4K, 0x2000n, RAM | S1_PAGE | NG)
    expect(lands(m, 1, 0x2000n, ACCESS_READ, 1)).toBe(RAM)
  })

  it.each([1, 2, 3] as const)("keep 2^Size pages at the stride that they say, configuration %i", kind => {
    const m = hoard()
    const root = kind === 1 ? withStage1(m) : kind === 2 ? withStage2(m) : nested(m).stage1
    const leaf = kind === 2 ? S2_PAGE : S1_PAGE | NG
    const pages = [0n, 1n, 2n, 3n, 4n, 5n, 6n, 7n, 8n].map(n => n << 13n)
    for (const va of pages) m.map(root, SHAPE_4K, va, (RAM + 0x80_0000n + va) | leaf)
    m.command(addresses(0x2000n, 2n, 1n))
    for (const va of pages) m.map(root, SHAPE_4K, va, 0n)
    const kept = pages.filter(va => lands(m, 1, va) === RAM + 0x80_0000n + va)
    expect(kept).toEqual([0x2000n, 0x4000n, 0x6000n, 0x8000n])
  })

  it("know no stride in SMMUv3.0", () => {
    const m = hoard({ AIDR: 0, IDR3: 0, IDR5: EVERYTHING.IDR5 & ~0x400 })
    const root = withStage1(m)
    for (const va of [0x1000n, 0x2000n]) m.map(root, SHAPE_4K, va, (RAM + va) | S1_PAGE | NG)
    m.command(addresses(0x1000n, 1n, 1n))
    for (const va of [0x1000n, 0x2000n]) m.map(root, SHAPE_4K, va, 0n)
    expect([0x1000n, 0x2000n].map(va => lands(m, 1, va))).toEqual([RAM + 0x1000n, RAM + 0x2000n])
  })

  it("answer what is wrong with nothing at all: no record, no stall, no dirty state", () => {
    const m = hoard()
    const root = withStage1(m, { S: 1n, HA: 1n, HD: 1n })
    m.map(root, SHAPE_4K, 0x1000n, RAM | (S1_PAGE & ~0x400n) | READ_ONLY | DBM | NG)
    const table = [0, 1, 2].reduce(at => m.memory.read64(at) & 0xffff_ffff_f000n, root)
    m.command(
      ...[addresses(0n, 31n), addresses(-0x1000n & 0xffff_ffff_ffff_f000n, 1n), addresses(1n << 60n)],
      ...[config(9n), config(0xffff_ffffn), config(1n, 5n), addresses(0x1000n, 0n, 0n, 9n)],
    )
    expect(m.events()).toEqual([])
    expect([m.read("CMDQ_CONS"), m.read("GERROR")]).toEqual([7, 0])
    // As a read that nobody waits for: the Access flag alone.
    expect(m.memory.read64(table + 8n)).toBe(RAM | S1_PAGE | READ_ONLY | DBM | NG)
    expect(m.memory.read64(table + 16n)).toBe(0n)
  })

  it("keep nothing of a page that stage 2 refuses, nor of a stream that has no stages", () => {
    const m = hoard()
    const { stage1 } = nested(m)
    m.map(stage1, SHAPE_4K, 0x1000n, 0x7000_0000n | S1_PAGE | NG)
    m.ste(2, { Config: 4n })
    m.command(addresses(0x1000n), addresses(0x1000n, 0n, 0n, 2n))
    expect(m.events()).toEqual([])
    expect([lands(m, 1, 0x1000n), lands(m, 2, 0x1000n)]).toEqual(["F_TRANSLATION", 0x1000n])
  })

  it("do nothing while translation is off, and without caches", () => {
    for (const [caches, cr0] of [
      ["hoard", reg.CR0_CMDQEN],
      ["none", reg.CR0_CMDQEN | reg.CR0_SMMUEN],
    ] as const) {
      const m = new Machine({}, undefined, caches)
      const root = withStage1(m, { HA: 1n })
      m.map(root, SHAPE_4K, 0x1000n, RAM | (S1_PAGE & ~0x400n) | NG)
      const steps: string[] = []
      m.model.trace = step => steps.push(step.what)
      m.write("CR0", cr0)
      m.command(addresses(0x1000n), config(1n))
      expect(steps).toEqual([])
      expect(m.read("CMDQ_CONS")).toBe(2)
    }
  })
})

describe("what a transaction has in common with the last one", () => {
  const POLICIES: readonly (CachePolicy | CachePolicies)[] = [
    "none",
    "exact",
    "hoard",
    { structures: "exact", translations: "none" },
  ]

  for (const policy of POLICIES) {
    const name = typeof policy === "string" ? policy : "exact structures alone"
    const twoStreams = (): Machine => {
      const m = new Machine({}, undefined, policy)
      const root = withStage1(m)
      m.map(root, SHAPE_4K, 0x1000n, RAM | S1_PAGE | NG)
      m.map(root, SHAPE_4K, 0x2000n, (RAM + 0x1000n) | S1_PAGE | NG | READ_ONLY)
      const other = m.alloc()
      m.map(other, SHAPE_4K, 0x1000n, (RAM + 0x2000n) | S1_PAGE | NG)
      const cd = m.cd({ ...plainCd(other), ASID: 2n })
      m.ste(2, { Config: 5n, S1ContextPtr: cd >> 6n, EATS: 1n })
      // Without the privilege that stream 3 has by its STE, stream 1 must not reach this page.
      m.map(root, SHAPE_4K, 0x3000n, RAM | 0x703n | NG)
      m.ste(3, { Config: 5n, S1ContextPtr: m.cd({ V: 0n }) >> 6n, PRIVCFG: 3n })
      return m
    }

    it(`does not outlive another stream, ${name}`, () => {
      const m = twoStreams()
      for (let round = 0; round < 3; round++) {
        expect(lands(m, 1, 0x1000n)).toBe(RAM)
        expect(lands(m, 2, 0x1000n)).toBe(RAM + 0x2000n)
        expect(lands(m, 1, 0x1008n)).toBe(RAM + 8n)
        expect(lands(m, 3, 0x1000n)).toBe("C_BAD_CD")
        expect(lands(m, 1, 0x3000n)).toBe("F_PERMISSION")
        expect(lands(m, 1, 0x1000n)).toBe(RAM)
        expect(lands(m, 2, 0x1000n, ACCESS_READ, 5)).toBe("C_BAD_SUBSTREAMID")
        expect(lands(m, 1, 0x1000n)).toBe(RAM)
      }
    })

    it(`does not outlive an ATS request of another stream, ${name}`, () => {
      const m = twoStreams()
      for (let round = 0; round < 3; round++) {
        expect(lands(m, 1, 0x1000n)).toBe(RAM)
        m.model.translationRequest(2, -1, 0, 0x1000, ACCESS_READ)
        expect(lands(m, 1, 0x1000n, ACCESS_WRITE)).toBe(RAM)
        m.model.translationRequest(3, -1, 0, 0x1000, ACCESS_READ)
        expect(lands(m, 1, 0x1000n, ACCESS_READ | ACCESS_WRITE)).toBe(RAM)
      }
    })

    it(`is of one access, ${name}`, () => {
      const m = twoStreams()
      for (let round = 0; round < 3; round++) {
        expect(lands(m, 1, 0x2000n)).toBe(RAM + 0x1000n)
        expect(lands(m, 1, 0x2000n, ACCESS_WRITE)).toBe("F_PERMISSION")
        expect(lands(m, 1, 0x1000n)).toBe(RAM)
      }
    })

    it(`ends with CR0.SMMUEN, ${name}`, () => {
      const m = twoStreams()
      for (let round = 0; round < 3; round++) {
        expect(lands(m, 1, 0x1000n)).toBe(RAM)
        expect(lands(m, 1, 0x1000n)).toBe(RAM)
        m.write("CR0", 0)
        expect(lands(m, 1, 0x1000n)).toBe(0x1000n)
        m.write("CR0", reg.CR0_SMMUEN | reg.CR0_EVENTQEN | reg.CR0_CMDQEN)
      }
    })
  }
})
