/** Access classes: what writes change, what reads give, in 32 and 64 bits. */
import type { RegisterSpec } from "@iommu/core"
import { assertEqual, assertTrue } from "../assert.ts"
import type { TestRunner } from "../target.ts"
import { hex32, runSteps, started } from "./script.ts"
import type { ModelMachine, ModelTarget } from "./target.ts"

const ALL = 0xffff_ffff_ffff_ffffn

export function registersChapter({ describe, it }: TestRunner, target: ModelTarget): void {
  const { registers } = target
  const specs = Object.entries(registers.specs)

  it("reset to the values of the book", () => {
    const machine = target.create("none")
    for (const [name, value] of Object.entries(registers.reset)) {
      assertEqual(read(machine, specOf(target, name)), value, name)
    }
  })

  it("have an access class each", () => {
    const { writable, active, clearable } = registers
    const known = new Set([...Object.keys(writable), ...active, ...clearable.map(({ register }) => register)])
    const changing = specs.filter(([, spec]) => spec[2] === "RW" || spec[2] === "RW1C")
    for (const [name] of changing) assertTrue(known.has(name), `${name} has no class`)
  })

  describe("that are read-only", () => {
    for (const [name, spec] of specs.filter(([, spec]) => spec[2] === "RO")) {
      it(`${name} keeps its value`, () => {
        const machine = target.create("none")
        const before = read(machine, spec)
        for (const value of [ALL, 0n, ~before & ALL]) {
          write(machine, spec, value)
          assertEqual(read(machine, spec), before, `${name} after a write of 0x${value.toString(16)}`)
        }
      })
    }
  })

  it("that are write-only read as zero", () => {
    const machine = target.create("none")
    for (const [name, spec] of specs.filter(([, spec]) => spec[2] === "WO")) {
      assertEqual(read(machine, spec), 0n, name)
    }
  })

  describe("that are writable", () => {
    for (const [name, mask] of Object.entries(registers.writable)) {
      it(`${name} keeps each bit of its fields and no other`, () => {
        const spec = specOf(target, name)
        const machine = target.create("none")
        for (const value of [ALL, 0n, ...walkingOnes(spec[1] * 8)]) {
          write(machine, spec, value)
          assertEqual(read(machine, spec), value & mask, `${name} after 0x${value.toString(16)}`)
        }
      })
    }
    for (const [name, mask] of Object.entries(registers.writable)) {
      const spec = specOf(target, name)
      if (spec[1] === 8) it(`${name} is the same by halves`, () => byHalves(target, spec, mask))
    }
  })

  for (const { register, bits, raise } of registers.clearable) {
    it(`${register}: a one clears ${hex32(bits)}, and nothing else does`, () => {
      const [offset] = specOf(target, register)
      const machine = started(target)
      raise(machine)
      const { mmio } = machine.model
      const now = (): number => mmio.read32(offset) & bits
      assertEqual(hex32(now()), hex32(bits), "raised")
      mmio.write32(offset, 0)
      assertEqual(hex32(now()), hex32(bits), "after writing 0")
      mmio.write32(offset, ~bits >>> 0)
      assertEqual(hex32(now()), hex32(bits), "after writing all others")
      mmio.write32(offset, bits)
      assertEqual(hex32(now()), "0x0", "after writing them")
    })
  }

  for (const { register, source, lock, unlock, value } of registers.locked) {
    it(`${register} is locked, ${source}`, () => {
      const spec = specOf(target, register)
      const machine = target.create("none")
      runSteps(machine, lock, "lock")
      const before = read(machine, spec)
      assertTrue(before !== value, "the value is another")
      write(machine, spec, value)
      assertEqual(read(machine, spec), before, "locked")
      runSteps(machine, unlock, "unlock")
      write(machine, spec, value)
      assertEqual(read(machine, spec), value, "unlocked")
    })
  }

  it("are not where the book has none, or at odd offsets", () => {
    const machine = started(target)
    const { mmio } = machine.model
    for (const offset of [...registers.holes, -8, 1 << 30]) {
      mmio.write32(offset, 0xffff_ffff)
      mmio.write64(offset, ALL)
      assertEqual(mmio.read32(offset), 0, `offset ${offset}`)
      assertEqual(mmio.read64(offset), 0n, `offset ${offset} in 64 bits`)
    }
    for (const [, [offset]] of specs) {
      for (const odd of [offset + 1, offset + 2, offset + 3]) {
        const value = mmio.read32(odd)
        assertTrue(Number.isInteger(value) && value >= 0, `offset ${odd} gives ${value}`)
      }
    }
  })
}

function byHalves(target: ModelTarget, [offset]: RegisterSpec, mask: bigint): void {
  const { mmio } = target.create("none").model
  for (const [high, low] of [
    [0x5a5a_5a5a, 0xa5a5_a5a5],
    [0xa5a5_a5a5, 0x5a5a_5a5a],
  ] as const) {
    const value = (BigInt(high) << 32n) | BigInt(low)
    mmio.write32(offset, low)
    mmio.write32(offset + 4, high)
    assertEqual(mmio.read64(offset), value & mask, "written by halves, read whole")
    mmio.write64(offset, 0n)
    mmio.write64(offset, value)
    assertEqual(mmio.read32(offset), Number(value & mask & 0xffff_ffffn), "written whole, low half")
    assertEqual(mmio.read32(offset + 4), Number((value & mask) >> 32n), "written whole, high half")
  }
}

function* walkingOnes(bits: number): Generator<bigint> {
  for (let bit = 0; bit < bits; bit++) yield 1n << BigInt(bit)
}

function specOf(target: ModelTarget, name: string): RegisterSpec {
  const spec = target.registers.specs[name]
  assertTrue(spec !== undefined, `${name} is a register`)
  return spec
}

function read({ model }: ModelMachine, [offset, bytes]: RegisterSpec): bigint {
  return bytes === 8 ? model.mmio.read64(offset) : BigInt(model.mmio.read32(offset))
}

function write({ model }: ModelMachine, [offset, bytes]: RegisterSpec, value: bigint): void {
  if (bytes === 8) model.mmio.write64(offset, value)
  else model.mmio.write32(offset, Number(value & 0xffff_ffffn))
}
