import { hi32, lo32, NO_PASID } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { CMDBUF, DEVTAB, DTE_GIOV, DTE_GV, DTE_TV, DTE_V, IRW, Machine, ON, REG } from "./machine.ts"

const SEED = 48882
const u64 = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n })
/** Mostly addresses that exist, so that walks go on. */
const near = fc.oneof(u64, fc.bigInt({ min: 0n, max: 0x3ff_ffffn }))
const access = fc.integer({ min: 0, max: 15 })
const pasid = fc.oneof(fc.constant(NO_PASID), fc.integer({ min: 0, max: 0x1f_ffff }), fc.integer())

/** Status and result agree, and the fault can be read. */
function check(machine: Machine, device: number, id: number, iova: bigint, kind: number): void {
  const { model } = machine
  const status = model.translate(device, id, hi32(iova), lo32(iova), kind)
  if (status === 0) {
    expect(model.result.sizeLg2).toBeGreaterThanOrEqual(12)
    expect(model.result.paHi >>> 0).toBe(model.result.paHi)
    return
  }
  const { fault } = model.result
  expect(fault?.reason).toMatch(/^[A-Z_]+$/)
  expect(fault?.detail.length).toBeGreaterThan(0)
  if (fault?.record) expect(Number((fault.record[0] as bigint) >> 60n)).toBe(fault.code)
}

/** Random words over the pages that tables lie in. */
function scatter(machine: Machine, words: readonly (readonly [at: bigint, word: bigint])[]): void {
  for (const [at, word] of words) machine.memory.write64(0x100_0000n + ((at % 0x1_0000n) & ~7n), word)
}

describe("nothing that a guest writes throws or hangs", () => {
  it("random device table entries over random tables", () => {
    fc.assert(
      fc.property(
        fc.array(near, { minLength: 4, maxLength: 4 }),
        fc.array(fc.tuple(near, near), { maxLength: 64 }),
        pasid,
        near,
        access,
        (dte, tables, id, iova, kind) => {
          const machine = new Machine()
          machine.dte(1, ...dte)
          scatter(machine, tables)
          check(machine, 1, id, iova, kind)
        },
      ),
      { seed: SEED, numRuns: 200 },
    )
  })

  it("walks through tables full of entries that lead to themselves", () => {
    const flags = fc.bigInt({ min: 0n, max: 0xfffn })
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(7), flags, fc.boolean()), { minLength: 32, maxLength: 32 }),
        fc.nat(7),
        fc.bigInt({ min: 0n, max: 2n }),
        fc.constantFrom(0n, DTE_GV | DTE_GIOV),
        near,
        access,
        (entries, mode, glx, guest, iova, kind) => {
          const machine = new Machine()
          const root = machine.table()
          for (let i = 0; i < 512; i++) {
            const [page, low, odd] = entries[i % 32] as [number, bigint, boolean]
            machine.set(root, { [i]: (root + BigInt(page) * 0x1000n) | low | IRW | (odd ? 1n << 63n : 0n) })
          }
          const low = DTE_V | DTE_TV | IRW | (BigInt(mode) << 9n) | root | (glx << 56n) | guest
          machine.dte(1, low, (root >> 15n) << 16n, 1n << 54n)
          for (let i = 0; i < 8; i++) check(machine, 1, NO_PASID, iova + BigInt(i) * 0x1000n, kind)
        },
      ),
      { seed: SEED, numRuns: 60 },
    )
  })

  it("random registers, by value and by offset, with random requests between", () => {
    const offset = fc.oneof(fc.constantFrom(...Object.values(REG)), fc.integer({ min: -16, max: 0x5000 }))
    fc.assert(
      fc.property(
        fc.array(fc.tuple(offset, near, fc.constantFrom(4, 8)), { maxLength: 24 }),
        fc.integer({ min: -1, max: 0x1_0001 }),
        near,
        access,
        (writes, device, iova, kind) => {
          const machine = new Machine()
          const { mmio } = machine.model
          for (const [at, value, bytes] of writes) {
            if (bytes === 8) mmio.write64(at, value)
            else mmio.write32(at, lo32(value))
            expect(mmio.read64(at)).toBeGreaterThanOrEqual(0n)
            check(machine, device, NO_PASID, iova, kind)
          }
        },
      ),
      { seed: SEED, numRuns: 200 },
    )
  })

  it("random commands: the buffer runs on or stops with an event", () => {
    const command = fc.tuple(
      fc.oneof(
        u64,
        fc.bigInt({ min: 0n, max: 15n }).map(opcode => opcode << 60n),
      ),
      fc.oneof(u64, fc.constant(0n)),
    )
    fc.assert(
      fc.property(
        fc.array(command, { minLength: 1, maxLength: 40 }),
        fc.bigInt({ min: 0n, max: 0x7_fff0n }),
        (commands, tail) => {
          const machine = new Machine()
          machine.model.onInvalidate = ({ command: name, fields }) => expect([name, fields]).toBeDefined()
          for (const [i, [low, high]] of commands.entries()) {
            machine.memory.write64(CMDBUF + BigInt(i * 16), low)
            machine.memory.write64(CMDBUF + BigInt(i * 16) + 8n, high)
          }
          machine.model.mmio.write64(REG.CMD_TAIL, tail)
          const running = (machine.status & 0x10n) !== 0n
          const head = machine.model.mmio.read64(REG.CMD_HEAD)
          if (running) expect(head).toBe(tail & 0xff0n)
          else expect(machine.events().length).toBe(1)
        },
      ),
      { seed: SEED, numRuns: 200 },
    )
  })

  it("random restored registers, under names of any kind", () => {
    const name = fc.oneof(
      fc.constantFrom(
        "CONTROL",
        "DEVTAB_BASE",
        "CMDBUF_BASE",
        "EVTLOG_BASE",
        "EXT_FEATURES",
        "STATUS",
        "CMD_TAIL",
        "EVT_TAIL",
      ),
      fc.string(),
    )
    fc.assert(
      fc.property(
        fc.dictionary(name, near),
        fc.integer({ min: 0, max: 0xffff }),
        near,
        access,
        (values, device, iova, kind) => {
          const machine = new Machine()
          machine.model.restoreRegisters(values)
          machine.dte(device, ...Array.from({ length: 4 }, () => values["CONTROL"] ?? 0n))
          check(machine, device, NO_PASID, iova, kind)
          machine.model.mmio.write64(REG.CMD_TAIL, 0x40n)
        },
      ),
      { seed: SEED, numRuns: 200 },
    )
  })

  it("random bytes as a whole device table", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 4096, maxLength: 4096 }), near, pasid, (bytes, iova, id) => {
        const machine = new Machine({}, ON)
        machine.memory.write(DEVTAB, bytes)
        for (let device = 0; device < 128; device += 9) check(machine, device, id, iova, 3)
      }),
      { seed: SEED, numRuns: 30 },
    )
  })
})
