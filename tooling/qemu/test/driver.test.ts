/**
 * Our drivers on hardware that we did not write: QEMU's IOMMUs walk the tables that they build, and `edu` does the
 * DMA. Every domain has a mailbox page, through which the tests see what a device has read.
 */
import { IOMMU_READ, IOMMU_WRITE, iommuDomainFree, PageTableFormatId, type PagingDomain } from "@iommu/core"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { describeBinary, discoverQemu, recipesOf, VENDORS } from "../src/index.ts"
import { shapesOf, sizesOf, targetFor } from "./driver-shapes.ts"
import { DriverWorld, START_TIMEOUT_MS } from "./driver-world.ts"

const READ_WRITE = IOMMU_READ | IOMMU_WRITE
const { binaries } = discoverQemu()
const machines = binaries.flatMap(binary =>
  VENDORS.flatMap(vendor => recipesOf(binary, vendor).recipes.map(recipe => ({ binary, recipe }))),
)
if (machines.length === 0) {
  console.log("no QEMU here: our drivers are not tried on its IOMMUs")
  test.skip("no QEMU here: our drivers are not tried on its IOMMUs")
}

/** Formats whose leaves can be writable without being readable. */
const WRITE_ONLY: readonly number[] = [
  PageTableFormatId.VTD_SECOND_STAGE,
  PageTableFormatId.AMD_V1,
  PageTableFormatId.ARM_64_LPAE_S2,
]

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

  /** A domain with the mailbox and the first device on it, for one test. */
  function onDomain(make: () => PagingDomain, use: (domain: PagingDomain) => void): void {
    const domain = make()
    const [{ device }] = world.endpoints
    world.openMailbox(domain)
    domain.attachDev(device)
    try {
      use(domain)
    } finally {
      world.ops.blockedDomain.attachDev(device)
      iommuDomainFree(domain)
    }
  }

  test("pages of every size of every format are where the driver said, and nothing else is", () => {
    const [endpoint] = world.endpoints
    const shapes = shapesOf(world)
    expect(shapes.length).toBeGreaterThan(0)
    for (const { name, make } of shapes) {
      onDomain(make, domain => {
        const sizes = sizesOf(domain)
        let iova = 0x40_0000_0000n
        for (const size of sizes) {
          iova = (iova + size - 1n) & -size
          const pa = targetFor(world, size)
          domain.map(iova, pa, size, READ_WRITE)
          const offsets = [0n, 4n, 0x1ff8n % size].filter(offset => pa + offset < pa + size)
          for (const offset of offsets) {
            const address = Number(pa + offset)
            expect(domain.iovaToPhys(iova + offset)).toBe(BigInt(address))
            expect(world.writeLands(endpoint, iova + offset, address), `${name}: write, page ${size}`).toBe(
              true,
            )
            expect(world.readFinds(endpoint, iova + offset, address), `${name}: read, page ${size}`).toBe(
              true,
            )
          }
          for (const outside of [iova - 4n, iova + size]) {
            expect(world.readFinds(endpoint, outside, Number(pa)), `${name}: outside of page ${size}`).toBe(
              false,
            )
            expect(world.writeLands(endpoint, outside, Number(pa))).toBe(false)
          }
          expect(domain.unmap(iova, size)).toBe(size)
          expect(world.writeLands(endpoint, iova, Number(pa)), `${name}: write after unmap`).toBe(false)
          expect(world.readFinds(endpoint, iova, Number(pa)), `${name}: read after unmap`).toBe(false)
          iova += size * 2n
        }
      })
    }
  })

  test("an access that its page does not allow is refused", () => {
    const [endpoint] = world.endpoints
    for (const { name, make } of shapesOf(world)) {
      onDomain(make, domain => {
        const page = domain.pageSizes & -domain.pageSizes
        const pa = world.low
        domain.map(0x1000_0000n, pa, page, IOMMU_READ)
        expect(world.writeLands(endpoint, 0x1000_0000n, pa), `${name}: write to a read-only page`).toBe(false)
        expect(world.readFinds(endpoint, 0x1000_0000n, pa), `${name}: read of a read-only page`).toBe(true)
        // Again, with the page in QEMU's IOTLB.
        expect(world.writeLands(endpoint, 0x1000_0000n, pa)).toBe(false)
        if (!WRITE_ONLY.includes(domain.format)) return
        domain.map(0x2000_0000n, pa, page, IOMMU_WRITE)
        expect(world.readFinds(endpoint, 0x2000_0000n, pa), `${name}: read of a write-only page`).toBe(false)
        expect(world.writeLands(endpoint, 0x2000_0000n, pa), `${name}: write to a write-only page`).toBe(true)
        expect(world.readFinds(endpoint, 0x2000_0000n, pa)).toBe(false)
      })
    }
  })

  test("pages that are mapped anew are found at the new place at once", () => {
    const [endpoint] = world.endpoints
    for (const { make } of shapesOf(world)) {
      onDomain(make, domain => {
        const page = domain.pageSizes & -domain.pageSizes
        for (const round of [0, 1, 2, 3]) {
          const pa = world.low + round * Number(page)
          domain.map(0x1234_0000n, pa, page * 2n, READ_WRITE)
          expect(world.writeLands(endpoint, 0x1234_0000n, pa)).toBe(true)
          expect(world.readFinds(endpoint, 0x1234_0000n + page, pa + Number(page))).toBe(true)
          domain.unmap(0x1234_0000n, page * 2n)
        }
      })
    }
  })

  test("a device follows its attachments, and its neighbour stays where it is", () => {
    const [first, second] = world.endpoints
    const [{ make }] = shapesOf(world)
    const domains = [make(), make()]
    domains.forEach((domain, index) => {
      world.openMailbox(domain)
      domain.map(0x1000_0000n, world.low + index * 0x1_0000, 0x1_0000, READ_WRITE)
    })
    const [a, b] = domains
    a.attachDev(first.device)
    a.attachDev(second.device)
    expect(world.readFinds(first, 0x1000_0000n, world.low)).toBe(true)
    b.attachDev(first.device)
    expect(world.readFinds(first, 0x1000_0000n, world.low + 0x1_0000)).toBe(true)
    expect(world.readFinds(second, 0x1000_0000n, world.low)).toBe(true)
    b.detachDev(first.device)
    const word = world.tag()
    for (const place of [0, 0x1_0000]) world.poke(world.low + place, word)
    expect(world.read(first, 0x1000_0000n, a), "read while detached").not.toBe(word)
    expect(world.readFinds(first, 0x1000_0000n, world.low)).toBe(true)
    world.ops.blockedDomain.attachDev(first.device)
    expect(world.read(first, 0x1000_0000n, b), "read while blocked").not.toBe(word)
    expect(world.readFinds(first, 0x1000_0000n, world.low + 0x1_0000)).toBe(true)
    for (const { device } of world.endpoints) world.ops.blockedDomain.attachDev(device)
    for (const domain of domains) iommuDomainFree(domain)
  })

  test("the identity domain passes addresses through", () => {
    const [endpoint] = world.endpoints
    const { identityDomain } = world.ops
    if (identityDomain === undefined) return
    const [{ make }] = shapesOf(world)
    onDomain(make, domain => {
      const word = world.tag()
      world.arm(endpoint, word)
      identityDomain.attachDev(endpoint.device)
      world.poke(world.low, 0)
      world.machine.dmaWrite(endpoint.edu, BigInt(world.low), 4)
      expect(world.peek(world.low)).toBe(word)
      domain.attachDev(endpoint.device)
    })
  })
})
