/** Every shape of table that user data can ask for, built by the driver and walked by the hardware. */
import { ACCESS_WRITE, type HwptPaging, isIommuError, pagingParameters } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { EVERYTHING } from "../src/index.ts"
import { capabilities, machine } from "./driver-machine.ts"

const SECOND_STAGE = 1
const FIRST_STAGE = 2
const RW = 3

/** Bits of IOVA that a domain has: tables of n levels, less the upper canonical half in first stage, at most MGAW. */
const SHAPES = [
  [SECOND_STAGE, 3, 39],
  [SECOND_STAGE, 4, 48],
  [SECOND_STAGE, 5, 57],
  [FIRST_STAGE, 4, 47],
  [FIRST_STAGE, 5, 56],
] as const

describe.each(SHAPES)("format %i with %i levels", (format, levels, bits) => {
  it.each([12n, 21n, 30n])("translates leaves of 2^%i bytes at both ends of its aperture", sizeLg2 => {
    const m = machine(EVERYTHING)
    const device = m.device(0x0310)
    const domain = m.driver.domainAllocUser(device, null, pagingParameters({ format, levels }))
    const size = 1n << sizeLg2
    const last = (1n << BigInt(bits)) - size
    expect(domain.aperture).toEqual({ start: 0n, last: last + size - 1n })
    const pages = m.owner.usagePages
    domain.map(0n, size, size, RW)
    domain.map(last, size * 3n, size, RW)
    // Two paths from the root down to the level of the leaf.
    const tables = levels - 1 - Number(sizeLg2 - 12n) / 9
    expect(m.owner.usagePages - pages).toBe(2 * tables)
    domain.attachDev(device)
    expect(m.dma(device, 0x123n, ACCESS_WRITE)).toBe(size + 0x123n)
    expect(m.dma(device, last + size - 1n, ACCESS_WRITE)).toBe(size * 4n - 1n)
    expect(m.dma(device, size)).toBeNull()
    domain.unmap(last, size)
    expect(m.dma(device, last)).toBeNull()
  })
})

it("whatever user data says, it is a domain that works or an errno that says why not", () => {
  const hardware = capabilities({ cap: { SAGAW: 0b0110n, MGAW: 47n, FS5LP: 0n } })
  const m = machine(hardware)
  const device = m.device(0x0310)
  const small = (max: number) => fc.oneof(fc.constant(0), fc.integer({ min: 0, max }))
  const parameters: fc.Arbitrary<Partial<HwptPaging>> = fc.record(
    {
      flags: fc.oneof(fc.constantFrom(0, 1, 2, 8, 3), fc.integer({ min: 0, max: 0xffff_ffff })),
      format: small(4),
      levels: small(7),
      granuleLg2: fc.constantFrom(0, 0, 12, 14, 16, 255),
      inputBits: small(70),
      outputBits: small(70),
      __reserved: fc.constantFrom(0, 0, 0, 1),
      apertureStart: fc.constantFrom(0n, 0n, 0x1000n, 0x1001n, 1n << 40n),
      apertureLast: fc.constantFrom(0n, 0n, 0xffffn, 0x10000n, (1n << 47n) - 1n, (1n << 64n) - 1n),
    },
    { requiredKeys: [] },
  )
  let accepted = 0
  fc.assert(
    fc.property(parameters, given => {
      try {
        const domain = m.driver.domainAllocUser(device, null, pagingParameters(given))
        accepted++
        const { start, last } = domain.aperture
        domain.map(start, 0n, 0x1000n, RW)
        if (last - 0xfffn !== start) domain.map(last - 0xfffn, 0x1000n, 0x1000n, RW)
        domain.attachDev(device)
        expect(m.dma(device, start + 8n)).toBe(8n)
        if (last - 0xfffn !== start) expect(m.dma(device, last)).toBe(0x1fffn)
        domain.detachDev(device)
        domain.free()
      } catch (error) {
        if (!isIommuError(error)) throw error
        expect(["EINVAL", "EOPNOTSUPP"]).toContain(error.code)
      }
      expect(m.owner.usagePages).toBe(0)
    }),
    { seed: 11, numRuns: 3000 },
  )
  expect(accepted).toBeGreaterThan(100)
})
