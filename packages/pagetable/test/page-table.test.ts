import {
  createMemory,
  ERRNO,
  fromHalves,
  hi32,
  isIommuError,
  lo32,
  MemoryAccount,
  PageAllocator,
} from "@iommu/core"
import { describe, expect, it } from "vitest"
import { createPageTable } from "../src/index.ts"
import { dump, newTable } from "./bench-table.ts"
import { RW } from "./model.ts"
import { contiguous, growing, moved, plain } from "./toy-formats.ts"

const K4 = 0x1000n
const M2 = 0x20_0000n
const G1 = 0x4000_0000n
const given = { format: plain, levels: 4, inputBits: 48, outputBits: 40 }

const halves = (address: bigint): [number, number] => [hi32(address), lo32(address)]
const code = (call: () => unknown): string | null => {
  try {
    call()
    return null
  } catch (error) {
    return isIommuError(error) ? error.code : String(error)
  }
}

describe("map", () => {
  it("answers the same in numbers and in words", () => {
    const { table } = newTable({ ...given, apertureStart: M2, apertureLast: G1 * 4n - 1n })
    table.map(M2, 0n, K4, RW)
    const cases: [string, bigint, bigint, number, number][] = [
      ["EINVAL", M2 + 1n, 0n, 1, RW],
      ["EINVAL", M2 + K4, 8n, 1, RW],
      ["EINVAL", M2 + K4, 0n, 0, RW],
      ["EINVAL", M2 + K4, 0n, 1, 0],
      ["EINVAL", M2 + K4, 0n, 1, 2],
      ["ERANGE", 0n, 0n, 1, RW],
      ["ERANGE", G1 * 4n - K4, 0n, 2, RW],
      ["ERANGE", G1 * 4n, 0n, 1, RW],
      ["ERANGE", M2 + K4, 1n << 40n, 1, RW],
      ["ERANGE", M2 + K4, (1n << 40n) - K4, 2, RW],
      ["EEXIST", M2, 0n, 1, RW],
      ["EEXIST", M2, 0n, 600, RW],
    ]
    for (const [errno, iova, pa, pages, prot] of cases) {
      expect(code(() => table.map(iova, pa, BigInt(pages) * K4, prot))).toBe(errno)
      expect(table.mapPages(...halves(iova), ...halves(pa), pages, prot)).toBe(ERRNO[errno as "EINVAL"])
    }
    expect(table.mapPages(...halves(M2 + K4), 0, 0, Number.NaN, RW)).toBe(ERRNO.EINVAL)
    expect(table.mapPages(...halves(M2 + K4), 0, 0, 0.5, RW)).toBe(ERRNO.EINVAL)
    expect(table.iovaToPhys(M2 + K4)).toBe(null)
  })

  it("page by page gives the words that a range gives", () => {
    for (const format of [plain, growing, contiguous]) {
      const options = { ...given, format, pageSizes: K4 }
      const [one, many] = [newTable(options), newTable(options)]
      for (let n = 0n; n < 1200n; n++) {
        const at = halves(M2 * 3n + n * K4)
        expect(one.table.mapPages(...at, ...halves(0x12_3456_7000n + n * K4), 1, RW)).toBe(0)
        expect(one.table.mapPages(...at, 0, 0, 1, RW)).toBe(ERRNO.EEXIST)
      }
      many.table.map(M2 * 3n, 0x12_3456_7000n, K4 * 1200n, RW)
      expect(dump(one)).toEqual(dump(many))
      for (let n = 0n; n < 1200n; n++) expect(one.table.unmapPages(...halves(M2 * 3n + n * K4), 1)).toBe(1)
      expect(one.table.gather.count).toBe(1)
      expect([one.table.gather.firstPage(0), one.table.gather.lastPage(0)]).toEqual([1536, 1536 + 1199])
    }
  })

  it("page by page knows the output width, and the bits that do not stand in place", () => {
    const { table } = newTable(given)
    expect(table.mapPages(0, 0, 0, 0, 1, RW)).toBe(0)
    expect(table.mapPages(0, 0x1000, ...halves(1n << 40n), 1, RW)).toBe(ERRNO.ERANGE)
    expect(table.mapPages(0, 0x1000, ...halves((1n << 40n) - K4), 1, RW)).toBe(0)
    const wide = newTable({ format: moved, levels: 4, inputBits: 52, outputBits: 52 }).table
    for (let n = 0n; n < 4n; n++) {
      expect(wide.mapPages(...halves(n * 0x4000n), ...halves((n << 50n) | 0x4000n), 4, RW)).toBe(0)
      expect(wide.iovaToPhys(n * 0x4000n + 9n)).toBe((n << 50n) | 0x4009n)
    }
  })

  it("keeps permissions of different maps apart, also across growth", () => {
    const bench = newTable({ format: growing, levels: 1, inputBits: 64, outputBits: 52 })
    bench.table.map(0n, 0n, K4, 1)
    bench.table.map(K4, K4, K4, RW)
    bench.table.map(G1 * 1024n, 0n, K4, 1)
    bench.table.map(G1 * 1024n + K4, 0n, K4, RW)
    const leaves = dump(bench).filter(line => line.startsWith("0:"))
    expect(leaves.map(line => line.slice(-1))).toEqual(["1", "3", "1", "3"])
    expect(bench.table.levels).toBe(4)
  })

  it("lets a large leaf take the place of emptied tables, which wait in the gather", () => {
    const { table, account } = newTable(given)
    table.map(0n, 0n, K4, RW)
    table.map(G1 - K4, 0n, K4, RW)
    table.unmap(0n, K4)
    table.unmap(G1 - K4, K4)
    table.gatherDone()
    expect(account.usagePages).toBe(5)
    table.map(0n, 0n, G1, RW)
    expect(table.iovaToPhys(G1 - 1n)).toBe(G1 - 1n)
    expect(table.gather.count).toBe(1)
    expect(table.gather.lostTables(0)).toBe(true)
    expect([table.gather.firstPage(0), table.gather.lastPage(0)]).toEqual([0, 2 ** 18 - 1])
    expect(account.usagePages).toBe(5)
    table.gatherDone()
    expect(account.usagePages).toBe(2)
  })

  it("puts emptied tables back when the map fails after them", () => {
    const bench = newTable(given)
    const { table, account } = bench
    table.map(M2, 0n, K4, RW)
    table.unmap(M2, K4)
    table.map(M2 * 2n, 0n, K4, RW)
    table.gatherDone()
    const before = dump(bench)
    expect(code(() => table.map(M2, 0n, M2 * 2n, RW))).toBe("EEXIST")
    expect(dump(bench)).toEqual(before)
    expect(table.gather.count).toBe(0)
    expect(account.usagePages).toBe(table.tablePages)
    table.map(M2, K4, M2, 1)
    expect(table.iovaToPhys(M2 * 2n - 1n)).toBe(M2 + K4 - 1n)
  })

  it("moves address bits that do not stand in place, also where a range crosses into them", () => {
    const { table } = newTable({ format: moved, levels: 4, inputBits: 52, outputBits: 52 })
    const edge = (1n << 50n) - 0x8000n
    table.map(0x4000n, edge, 0x10000n, RW)
    for (let n = 0n; n < 4n; n++)
      expect(table.iovaToPhys(0x4000n * (n + 1n) + 5n)).toBe(edge + n * 0x4000n + 5n)
  })
})

describe("unmap", () => {
  it("removes a large leaf whole when the range ends inside it, and says so", () => {
    const { table } = newTable(given)
    table.map(0n, 0n, M2 * 2n, RW)
    expect(table.unmap(0n, M2 + K4)).toBe(M2 * 2n)
    expect(table.gather.count).toBe(1)
    expect(table.gather.lastPage(0)).toBe(1023)
  })

  it("leaves a leaf that the range begins inside, and everything after it", () => {
    const { table } = newTable(given)
    table.map(0n, 0n, M2 * 2n, RW)
    expect(table.unmap(K4, M2 * 2n)).toBe(0n)
    expect(table.iovaToPhys(M2)).toBe(M2)
    expect(table.gather.count).toBe(0)
  })

  it("leaves a leaf that the range ends inside, where the format says so", () => {
    const { table } = newTable({ ...given, format: contiguous })
    table.map(0n, 0n, M2 * 2n, RW)
    expect(table.unmap(0n, M2 + K4)).toBe(M2)
    expect(table.iovaToPhys(M2)).toBe(M2)
    expect(table.unmap(M2, K4)).toBe(0n)
  })

  it("keeps emptied tables linked until a range covers them whole", () => {
    const { table } = newTable(given)
    table.map(0n, 0n, K4, RW)
    const tables = table.tablePages
    table.unmap(0n, K4)
    table.gatherDone()
    expect(table.tablePages).toBe(tables)
    expect(table.unmap(0n, M2)).toBe(0n)
    expect(table.gather.count).toBe(1)
    expect(table.gather.lostTables(0)).toBe(true)
    expect(table.tablePages).toBe(tables)
    table.gatherDone()
    expect(table.tablePages).toBe(tables - 1)
  })

  it("does nothing outside the aperture and refuses what is misaligned or empty", () => {
    const { table } = newTable({ ...given, apertureStart: M2, apertureLast: M2 * 2n - 1n })
    table.map(M2, 0n, M2, RW)
    expect(table.unmap(0n, M2)).toBe(0n)
    expect(table.unmapPages(...halves(M2 + 1n), 1)).toBe(0)
    expect(code(() => table.unmap(M2 + 1n, K4))).toBe("EINVAL")
    expect(code(() => table.unmap(M2, 0n))).toBe("EINVAL")
    expect(table.unmap(0n, 0xffff_ffff_ffff_f000n)).toBe(M2)
  })
})

describe("a table", () => {
  it("works where its pages do not lie in line: beyond a 4 GiB boundary", () => {
    const range = { base: 0xffff_8000n, size: 0x10_0000n }
    const memory = createMemory([range])
    const pages = new PageAllocator(memory, range)
    const account = new MemoryAccount("test")
    const table = createPageTable({ memory, pages, account, ...given })
    for (let n = 0n; n < 40n; n++) table.map(n * G1, n * K4, K4, RW)
    expect(table.geometry.isLinear).toBe(false)
    for (let n = 0n; n < 40n; n++) {
      expect(table.iovaToPhysHalves(...halves(n * G1 + 7n))).toBe(0)
      expect(fromHalves(table.physHi, table.physLo)).toBe(n * K4 + 7n)
    }
    expect(table.unmap(0n, G1 * 40n)).toBe(40n * K4)
    table.gatherDone()
    table.free()
    expect([account.usagePages, pages.pagesInUse]).toEqual([0, 0])
  })

  it("works where tables larger than a page are not aligned in the buffer behind the memory", () => {
    const range = { base: 0x1_0000_1000n, size: 0x40_0000n }
    const memory = createMemory([range])
    const pages = new PageAllocator(memory, range)
    const account = new MemoryAccount("test")
    const options = { format: moved, levels: 3, inputBits: 47, outputBits: 48, pageSizes: 0x4000n }
    const table = createPageTable({ memory, pages, account, ...options })
    const size = 0x4000n * 5000n
    table.map(0x4000n * 3n, 0x8000n, size, RW)
    for (let n = 0n; n < 5000n; n += 7n) {
      expect(table.iovaToPhys(0x4000n * (3n + n))).toBe(0x8000n + 0x4000n * n)
    }
    expect(table.unmap(0x4000n * 3n, size)).toBe(size)
    expect(table.unmap(0n, 1n << 40n)).toBe(0n)
  })

  it("refuses shapes that its format does not have, and charges nothing", () => {
    const wrong: [string, object][] = [
      ["too many levels", { levels: 6 }],
      ["too few levels", { levels: 3 }],
      ["input width", { inputBits: 58, levels: 5 }],
      ["output width", { outputBits: 53 }],
      ["page sizes", { pageSizes: 0x2000n }],
      ["aperture", { apertureStart: 0x1000n, apertureLast: 0n }],
      ["aperture end", { apertureLast: 1n << 48n }],
      ["aperture in a page", { apertureStart: 1n }],
    ]
    for (const [what, options] of wrong)
      expect(
        code(() => newTable({ ...given, ...options })),
        what,
      ).toBe("EINVAL")
  })

  it("answers after free: nothing is there and nothing can be mapped", () => {
    const { table, account } = newTable(given)
    table.map(0n, 0n, M2 + K4, RW)
    table.unmap(0n, K4 * 0n + M2)
    table.free()
    table.free()
    expect(account.usagePages).toBe(0)
    expect(table.iovaToPhys(M2)).toBe(null)
    expect(table.unmap(0n, M2 * 2n)).toBe(0n)
    expect(code(() => table.map(0n, 0n, K4, RW))).toBe("EINVAL")
    expect(table.mapPages(0, 0, 0, 0, 1, RW)).toBe(ERRNO.EINVAL)
  })

  it("is refused without memory for its root", () => {
    const range = { base: 0n, size: 0x1000n }
    const memory = createMemory([range])
    const pages = new PageAllocator(memory, range)
    const account = new MemoryAccount("poor", 0)
    expect(code(() => createPageTable({ memory, pages, account, ...given }))).toBe("ENOMEM")
    expect(pages.pagesInUse).toBe(0)
  })
})
