import { isIommuError } from "@iommu/core"
import { describe, expect, it } from "vitest"
import { CommandQueue } from "../src/driver/queue.ts"
import { FakeSmmu } from "./fake-smmu.ts"

const BASE = 0x4000_0000
const SIZE_LG2 = 3
/** CMD_TLBI_NH_ASID, IHI 0070 §4.1.1. */
const NH_ASID = 0x11
/** CMD_PREFETCH_CONFIG. */
const PREFETCH_CONFIG = 0x01

function setUp(): { smmu: FakeSmmu; queue: CommandQueue } {
  const smmu = new FakeSmmu()
  smmu.write64(0x90, BigInt(BASE | SIZE_LG2))
  const queue = new CommandQueue({
    memory: smmu.memory,
    mmio: smmu,
    base: BASE,
    sizeLg2: SIZE_LG2,
    pollLimit: 10,
  })
  return { smmu, queue }
}

function push(queue: CommandQueue, tag: number): void {
  queue.push(NH_ASID, tag << 16, 0, 0)
}

function tags(smmu: FakeSmmu): number[] {
  return smmu.takeCommands().map(({ words }) => Number(words[0] >> 48n))
}

function codeOf(call: () => void): string {
  try {
    call()
    return "none"
  } catch (error) {
    return isIommuError(error) ? error.code : String(error)
  }
}

describe("the Command queue", () => {
  it("hands commands over in order at a sync, with one CMD_SYNC behind them", () => {
    const { smmu, queue } = setUp()
    for (let tag = 1; tag <= 3; tag++) push(queue, tag)
    expect(smmu.commands).toHaveLength(0)
    queue.sync()
    expect(smmu.commands.map(command => command.opcode)).toEqual([NH_ASID, NH_ASID, NH_ASID, 0x46])
    expect(tags(smmu)).toEqual([1, 2, 3])
  })

  it("loses nothing when it is full or wraps, many times over", () => {
    const { smmu, queue } = setUp()
    const expected = Array.from({ length: 100 }, (_, i) => i + 1)
    for (const tag of expected) {
      push(queue, tag)
      if (tag % 23 === 0) queue.sync()
    }
    queue.sync()
    expect(tags(smmu)).toEqual(expected)
  })

  it("skips a refused command, does the others, and says which it was", () => {
    const { smmu, queue } = setUp()
    smmu.refuse = ({ opcode, words }) => (opcode === NH_ASID && words[0] >> 48n === 7n ? 1 : 0)
    const start = queue.position
    for (let tag = 1; tag <= 20; tag++) push(queue, tag)
    expect(queue.trySync()).toBe(start + 6)
    expect(tags(smmu)).toEqual([1, 2, 3, 4, 5, 6, ...Array.from({ length: 13 }, (_, i) => i + 8)])
    expect(smmu.read32(0x60)).toBe(smmu.read32(0x64))
    push(queue, 21)
    expect(queue.trySync()).toBe(-1)
    expect(tags(smmu)).toEqual([21])
  })

  it("hands over a hint at once, and says nothing of one that is refused", () => {
    const { smmu, queue } = setUp()
    queue.hint(PREFETCH_CONFIG, 5, 0, 0)
    expect(smmu.commands.map(command => command.opcode)).toEqual([PREFETCH_CONFIG])
    smmu.refuse = ({ opcode }) => (opcode === PREFETCH_CONFIG ? 1 : 0)
    queue.hint(PREFETCH_CONFIG, 6, 0, 0)
    push(queue, 1)
    expect(queue.trySync()).toBe(-1)
    smmu.takeCommands()
    queue.hint(PREFETCH_CONFIG, 7, 0, 0)
    smmu.refuse = ({ opcode }) => (opcode === NH_ASID ? 1 : 0)
    push(queue, 2)
    expect(queue.trySync()).toBe(queue.position - 2)
  })

  it("gives up on hardware that refuses even CMD_SYNC: EIO", () => {
    const { smmu, queue } = setUp()
    smmu.refuse = () => 1
    push(queue, 1)
    expect(codeOf(() => queue.sync())).toBe("EIO")
  })

  it("leaves a hint out where it is full", () => {
    const { smmu, queue } = setUp()
    for (let tag = 1; tag <= 2 ** SIZE_LG2; tag++) push(queue, tag)
    queue.hint(PREFETCH_CONFIG, 5, 0, 0)
    queue.sync()
    expect(smmu.commands.map(({ opcode }) => opcode)).not.toContain(PREFETCH_CONFIG)
    expect(tags(smmu)).toEqual([1, 2, 3, 4, 5, 6, 7, 8])
  })

  it("throws EIO from sync for a refused command", () => {
    const { smmu, queue } = setUp()
    smmu.refuse = ({ opcode }) => (opcode === NH_ASID ? 1 : 0)
    push(queue, 1)
    expect(codeOf(() => queue.sync())).toBe("EIO")
    smmu.refuse = () => 0
    expect(codeOf(() => queue.sync())).toBe("none")
  })

  it.each([
    [2, "an aborted fetch"],
    [3, "a late ATC"],
  ])("tries again after error %i, %s", error => {
    const { smmu, queue } = setUp()
    let left = 2
    smmu.refuse = ({ opcode }) => (opcode === 0x46 && left-- > 0 ? error : 0)
    push(queue, 1)
    expect(codeOf(() => queue.sync())).toBe("none")
    expect(tags(smmu)).toEqual([1])
  })

  it("gives up on an error that stays: ETIMEDOUT", () => {
    const { smmu, queue } = setUp()
    smmu.refuse = ({ opcode }) => (opcode === 0x46 ? 3 : 0)
    push(queue, 1)
    expect(codeOf(() => queue.sync())).toBe("ETIMEDOUT")
    smmu.refuse = () => 0
    expect(codeOf(() => queue.sync())).toBe("none")
  })

  it("gives up on hardware that does not consume: ETIMEDOUT, at sync and when full", () => {
    const { smmu, queue } = setUp()
    smmu.hung = true
    push(queue, 1)
    expect(codeOf(() => queue.sync())).toBe("ETIMEDOUT")
    const fill = (): void => {
      for (let tag = 2; tag < 20; tag++) push(queue, tag)
    }
    expect(codeOf(fill)).toBe("ETIMEDOUT")
  })

  it("does not believe a CONS beyond PROD: EIO", () => {
    const { smmu, queue } = setUp()
    smmu.hung = true
    smmu.registers.set(0x9c, 5)
    push(queue, 1)
    expect(codeOf(() => queue.sync())).toBe("EIO")
  })
})
