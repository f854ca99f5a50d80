/** What becomes of large memory on its way through iommufd to the tables of real drivers. */
import { describe, expect, it } from "vitest"
import { Bench, VENDOR_NAMES } from "./iommufd-bench.ts"

const GIB = 1n << 30n
const MIB = 1n << 20n
/** Where the process has 4 GiB, and where they lie in physical memory: both at multiples of 1 GiB. */
const LARGE_VA = 64n * GIB
const LARGE_HPA = 16n * GIB
const IOVA = 8n * GIB

describe("large memory of a process", () => {
  for (const vendor of VENDOR_NAMES) {
    it(`is in leaves of 1 GiB and 2 MiB on ${vendor}, where it is contiguous`, () => {
      const bench = new Bench(vendor)
      bench.hwpt(bench.ioas, null)
      const { memory, account } = bench.process
      const placement = { ioasId: bench.ioas, readable: true, writeable: true }
      const tables = (call: () => void): number => {
        const before = account.usagePages
        call()
        return account.usagePages - before
      }
      const map = (userVa: bigint, length: bigint, iova: bigint) => (): void => {
        bench.iommufd.ioasMap({ ...placement, userVa, length, iova })
      }
      // Mappings of the process do not matter, where physical memory goes on.
      for (let at = 0n; at < 4n * GIB; at += GIB / 2n) memory.map(LARGE_VA + at, LARGE_HPA + at, GIB / 2n)
      const whole = tables(map(LARGE_VA, 4n * GIB, IOVA))
      bench.iommufd.ioasUnmap(bench.ioas, IOVA, 4n * GIB)
      for (let at = 0n; at < 4n * GIB; at += 2n * MIB)
        memory.map(LARGE_VA + at, LARGE_HPA + 2n * at, 2n * MIB)
      const pieces = tables(map(LARGE_VA, 4n * GIB, IOVA))
      bench.iommufd.ioasUnmap(bench.ioas, IOVA, 4n * GIB)
      // The way down from the root, at most three; and one table of 2 MiB leaves for each GiB.
      expect([whole <= 3, pieces <= 3 + 4]).toEqual([true, true])
      bench.iommufd.setHugePages(bench.ioas, false)
      expect(tables(map(LARGE_VA, 64n * MIB, IOVA))).toBeGreaterThanOrEqual(32)
    })
  }
})
