/**
 * Our drivers behind QEMU's `iommu-testdev`, which knows what `edu` does not: whether a write was refused or went
 * somewhere else. What is not mapped has to be refused, by name.
 */
import { IOMMU_READ, IOMMU_WRITE, iommuDomainFree, type PagingDomain } from "@iommu/core"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { describeBinary, discoverQemu, recipesOf, VENDORS } from "../src/index.ts"
import { TestDevice, testWriteOf } from "../src/machine/test-device.ts"
import { shapesOf, sizesOf, targetFor } from "./driver-shapes.ts"
import { DriverWorld, START_TIMEOUT_MS } from "./driver-world.ts"

const READ_WRITE = IOMMU_READ | IOMMU_WRITE
/** Arm IHI 0070 G.b §6.3, SMMU_S_IDR1: whether the SMMU knows secure streams. */
const S_IDR1 = 0x8004
const SECURE_IMPL = 1 << 31
const MISSING = "no QEMU with iommu-testdev here (11 has it): our drivers are not tried behind it"
const machines = discoverQemu()
  .binaries.filter(binary => TestDevice.isIn(binary))
  .flatMap(binary =>
    VENDORS.flatMap(vendor => recipesOf(binary, vendor).recipes.map(recipe => ({ binary, recipe }))),
  )
if (machines.length === 0) {
  console.log(MISSING)
  test.skip(MISSING)
}

test("an answer that the device does not have is no answer", () => {
  expect(testWriteOf("0x0")).toBe("arrived")
  expect(testWriteOf("0xdead0002")).toBe("refused")
  expect(testWriteOf("0xdead0003")).toBe("astray")
  expect(testWriteOf("0xdead0004")).toBe("astray")
  // Armed, and never set off.
  expect(() => testWriteOf("0xfffffffe")).toThrow("0xfffffffe")
})

describe.each(
  machines.map(({ binary, recipe }) => ({
    binary,
    recipe,
    name: `${describeBinary(binary)} ${recipe.vendor} ${recipe.variant}`,
  })),
)("$name", ({ binary, recipe }) => {
  let world: DriverWorld

  beforeAll(async () => {
    world = await DriverWorld.start(binary, recipe)
  }, START_TIMEOUT_MS)
  afterAll(() => world?.machine.close())

  /** A domain with the first device on it, for one test. */
  function onDomain(make: () => PagingDomain, use: (domain: PagingDomain) => void): void {
    const domain = make()
    const [{ device }] = world.testers
    domain.attachDev(device)
    try {
      use(domain)
    } finally {
      world.ops.blockedDomain.attachDev(device)
      iommuDomainFree(domain)
    }
  }

  test("writes to pages of every size of every format arrive, and all others are refused", () => {
    const [tester] = world.testers
    for (const { name, make } of shapesOf(world)) {
      onDomain(make, domain => {
        let iova = 0x40_0000_0000n
        for (const size of sizesOf(domain)) {
          iova = (iova + size - 1n) & -size
          const pa = targetFor(world, size)
          const last = pa + (size < 0x10_0000n ? size : 0x10_0000n) - 4n
          domain.map(iova, pa, size, READ_WRITE)
          expect(world.tryWrite(tester, iova, pa), `${name}: first word, page ${size}`).toBe("arrived")
          expect(world.tryWrite(tester, iova + last - pa, last), `${name}: page ${size}`).toBe("arrived")
          expect(world.tryWrite(tester, iova, pa + 4n), `${name}: looked for elsewhere`).toBe("astray")
          expect(world.tryWrite(tester, iova - 4n, pa), `${name}: before page ${size}`).toBe("refused")
          expect(world.tryWrite(tester, iova + size, pa), `${name}: behind page ${size}`).toBe("refused")
          domain.unmap(iova, size)
          expect(world.tryWrite(tester, iova, pa), `${name}: unmapped page ${size}`).toBe("refused")
          iova += size * 2n
        }
      })
    }
  })

  test("a write to a page that may be read alone is refused, also when the page is cached", () => {
    const [tester] = world.testers
    for (const { name, make } of shapesOf(world)) {
      onDomain(make, domain => {
        const page = domain.pageSizes & -domain.pageSizes
        domain.map(0x1000_0000n, world.low, page, IOMMU_READ)
        for (const round of ["first", "second"]) {
          expect(world.tryWrite(tester, 0x1000_0000n, world.low), `${name}: ${round}`).toBe("refused")
        }
      })
    }
  })

  test("a device that is blocked is refused, and its neighbour is not", () => {
    const [first, second] = world.testers
    const [{ make }] = shapesOf(world)
    onDomain(make, domain => {
      domain.map(0x1000_0000n, world.low, 0x1_0000, READ_WRITE)
      domain.attachDev(second.device)
      for (const tester of world.testers) {
        expect(world.tryWrite(tester, 0x1000_0000n, world.low)).toBe("arrived")
      }
      world.ops.blockedDomain.attachDev(first.device)
      expect(world.tryWrite(first, 0x1000_0000n, world.low)).toBe("refused")
      expect(world.tryWrite(second, 0x1000_0000n, world.low)).toBe("arrived")
      world.ops.blockedDomain.attachDev(second.device)
    })
  })

  if (recipe.vendor === "smmuv3") {
    test("a transaction that calls itself secure is one like any other where the SMMU has no secure side", () => {
      const [tester] = world.testers
      const hasSecureSide = (world.machine.mmio.read32(S_IDR1) & SECURE_IMPL) !== 0
      if (hasSecureSide) return
      const [{ make }] = shapesOf(world)
      onDomain(make, domain => {
        domain.map(0x1000_0000n, world.low, 0x1_0000, READ_WRITE)
        for (const attributes of ["plain", "nonSecure", "secure"] as const) {
          expect(world.tryWrite(tester, 0x1000_0000n, world.low, attributes), attributes).toBe("arrived")
          expect(world.tryWrite(tester, 0x2000_0000n, world.low, attributes), attributes).toBe("refused")
        }
      })
    })
  }

  test("the identity domain passes addresses through", () => {
    const [tester] = world.testers
    const { identityDomain } = world.ops
    if (identityDomain === undefined) return
    const [{ make }] = shapesOf(world)
    onDomain(make, () => {
      identityDomain.attachDev(tester.device)
      expect(world.tryWrite(tester, BigInt(world.low), world.low)).toBe("arrived")
    })
  })
})
