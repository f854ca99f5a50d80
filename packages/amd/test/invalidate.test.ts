import { PAGING_PASID } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { coveringBlocks } from "../src/driver/invalidate.ts"
import { expectErrno, Host } from "./driver-machine.ts"

const RW = 3

/** Pages that INVALIDATE_IOMMU_PAGES names, by §2.4.3 read from the words: the lowest 0 of bits 63:12 ends the size. */
function named([low, high]: readonly bigint[]): { domain: bigint; first: bigint; pages: bigint } {
  const address = (high as bigint) >> 12n
  let ones = 0n
  if (((high as bigint) & 1n) === 1n) {
    ones = 1n
    while (((address >> (ones - 1n)) & 1n) === 1n) ones++
  }
  return {
    domain: ((low as bigint) >> 32n) & 0xffffn,
    first: (address >> ones) << ones,
    pages: 1n << ones,
  }
}

function setUp() {
  const host = new Host()
  const device = host.device(5)
  const domain = host.alloc(device)
  domain.attachDev(device)
  return { host, device, domain }
}

describe("invalidation after unmap", () => {
  it("names one page without S", () => {
    const { host, device, domain } = setUp()
    domain.map(0x7000n, 0x5000n, 0x1000n, RW)
    const [command, ...rest] = host.commands(() => domain.unmap(0x7000n, 0x1000n))
    const id = (host.entry(device)[1] as bigint) & 0xffffn
    expect(command?.words).toEqual([(3n << 60n) | (id << 32n), 0x7000n])
    expect(rest).toEqual([])
  })

  it("names 2 MiB at 6 MiB by its ones", () => {
    const { host, domain } = setUp()
    domain.map(0x60_0000n, 0x20_0000n, 0x20_0000n, RW)
    const [command] = host.commands(() => domain.unmap(0x60_0000n, 0x20_0000n))
    expect((command?.words[1] as bigint) & ~2n).toBe(0x6f_f000n | 1n)
  })

  it("covers exactly what went, whatever was mapped and unmapped", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 0, max: 200 }), fc.integer({ min: 1, max: 40 })), {
          maxLength: 4,
        }),
        ranges => {
          const { host, domain } = setUp()
          for (let page = 0n; page < 256n; page++) domain.map(page << 12n, (page * 2n) << 12n, 0x1000n, RW)
          const gone = new Set<bigint>()
          const commands = host.commands(() => {
            for (const [first, count] of ranges) {
              domain.unmapFast(BigInt(first) << 12n, BigInt(count) << 12n)
              for (let page = first; page < first + count; page++) gone.add(BigInt(page))
            }
            domain.iotlbSync()
          })
          const dropped = new Set<bigint>()
          for (const { words, fields } of commands) {
            const { first, pages } = named(words)
            if (fields["PDE"] === 1n) continue
            for (let page = first; page < first + pages; page++) dropped.add(page)
          }
          if (commands.some(({ fields }) => fields["PDE"] === 1n)) return
          expect([...dropped].sort()).toEqual([...gone].sort())
        },
      ),
      { seed: 3, numRuns: 60 },
    )
  })

  it("drops directory entries when tables have gone", () => {
    const { host, domain } = setUp()
    domain.map(0x4000_0000n, 0x1000n, 0x1000n, RW)
    domain.unmap(0x4000_0000n, 0x1000n)
    const commands = host.commands(() => domain.map(0x4000_0000n, 0n, 0x4000_0000n, RW))
    expect(commands.some(({ fields }) => fields["PDE"] === 1n)).toBe(true)
    expect(host.pages.pagesInUse).toBeGreaterThan(0)
  })

  it("is silent where nothing can be cached: no device, nothing unmapped", () => {
    const host = new Host()
    const device = host.device(5)
    const domain = host.alloc(device)
    domain.map(0x7000n, 0x5000n, 0x1000n, RW)
    expect(host.commands(() => domain.unmap(0x7000n, 0x1000n))).toEqual([])
    domain.attachDev(device)
    expect(host.commands(() => domain.unmap(0x7000n, 0x1000n))).toEqual([])
    expect(host.commands(() => domain.iotlbSync())).toEqual([])
  })

  it("goes to the IOTLB of each device that has one", () => {
    const host = new Host()
    const [plain, ats] = [host.device(5), host.device(6, { ats: true })]
    const domain = host.alloc(plain)
    domain.attachDev(plain)
    domain.attachDev(ats)
    domain.map(0x7000n, 0x5000n, 0x1000n, RW)
    const commands = host.commands(() => domain.unmap(0x7000n, 0x1000n))
    expect(commands.map(({ command }) => command)).toEqual([
      "INVALIDATE_IOMMU_PAGES",
      "INVALIDATE_IOTLB_PAGES",
    ])
    expect(commands[1]?.words).toEqual([(4n << 60n) | (6n << 32n) | (1n << 24n) | 6n, 0x7000n])
  })

  it("puts the PASID of an IOTLB invalidation into its three places", () => {
    const host = new Host()
    const device = host.device(6, { ats: true, pasidBits: 20 })
    const domain = host.paging(device, { flags: PAGING_PASID })
    domain.map(0x7000n, 0x5000n, 0x1000n, RW)
    domain.setDevPasid?.(device, 0xa_bc_de)
    const iotlb = host.commands(() => domain.unmap(0x7000n, 0x1000n))[1]
    const pieces = (0xan << 56n) | (0xden << 48n) | (0xbcn << 16n)
    expect(iotlb?.words).toEqual([(4n << 60n) | pieces | (6n << 32n) | (1n << 24n) | 6n, 0x7000n | 4n])
  })

  it("drops all of a domain at flushIotlbAll", () => {
    const { host, domain } = setUp()
    const [command] = host.commands(() => domain.flushIotlbAll())
    expect(command?.words[1]).toBe(0x7fff_ffff_ffff_f003n)
  })
})

describe("coveringBlocks", () => {
  it("is exact with few blocks, and one block around many", () => {
    expect(coveringBlocks(0, 0)).toEqual([[0, 0]])
    expect(coveringBlocks(0, 511)).toEqual([[0, 511]])
    expect(coveringBlocks(1, 6)).toEqual([
      [1, 1],
      [2, 3],
      [4, 5],
      [6, 6],
    ])
    expect(coveringBlocks(1, 0xfffff)).toEqual([[1, 0xfffff]])
    expect(coveringBlocks(0, 2 ** 52 - 1)).toEqual([[0, 2 ** 52 - 1]])
  })

  it("gives aligned powers of two, side by side", () => {
    const page = fc.integer({ min: 0, max: 2 ** 20 })
    fc.assert(
      fc.property(page, fc.integer({ min: 0, max: 300 }), (first, more) => {
        let next = first
        const blocks = coveringBlocks(first, first + more)
        for (const [from, to] of blocks) {
          const size = to - from + 1
          expect(from).toBe(next)
          if (blocks.length > 1) expect([Math.log2(size) % 1, from % size]).toEqual([0, 0])
          next = to + 1
        }
        expect(next).toBe(first + more + 1)
      }),
      { seed: 4, numRuns: 500 },
    )
  })
})

describe("a unit without INVALIDATE_IOMMU_ALL", () => {
  it("is emptied entry by entry at bring-up", () => {
    const host = new Host({ extFeatures: 0n })
    expect(host.ops.capabilities).toMatchObject({
      nesting: false,
      dirtyTracking: false,
      pasidBits: 0,
      formats: [3],
    })
    const device = host.device(5)
    expectErrno("EOPNOTSUPP", () => host.paging(device, { flags: 1 }))
  })
})
