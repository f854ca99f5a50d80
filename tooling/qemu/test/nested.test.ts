/** Both stages at once on QEMU's SMMUv3: the guest's tables by our driver, under the host's by our driver. */
import { IOMMU_READ, IOMMU_WRITE } from "@iommu/core"
import { afterEach, describe, expect, test } from "vitest"
import { describeBinary, discoverQemu, recipesOf } from "../src/index.ts"
import { DriverWorld, MAILBOX_IOVA } from "./driver-world.ts"
import { GUEST_DATA, SmmuGuest } from "./smmuv3-guest.ts"

const { binaries } = discoverQemu()
const machines = binaries.flatMap(binary =>
  recipesOf(binary, "smmuv3")
    .recipes.filter(({ variant }) => variant === "nested")
    .map(recipe => ({ binary, recipe, name: describeBinary(binary) })),
)
if (machines.length === 0) {
  console.log("no QEMU with a nested SMMUv3 here: both stages are not tried on one")
  test.skip("no QEMU with a nested SMMUv3 here: both stages are not tried on one")
}

describe.each(machines)("$name", ({ binary, recipe }) => {
  let world: DriverWorld | null = null
  afterEach(() => world?.machine.close())

  test.each([12, 14, 16])("a guest's stage 1 of 2^%i granules over the host's stage 2", async granuleLg2 => {
    world = await DriverWorld.start(binary, recipe)
    const [endpoint] = world.endpoints
    const guest = new SmmuGuest(world, endpoint.device, granuleLg2)
    const page = 2n ** BigInt(granuleLg2)
    const both = IOMMU_READ | IOMMU_WRITE
    // The mailbox is a page of the guest's, and of the host's behind it.
    guest.parent.map(0xd000_0000n, world.mailbox, 0x1_0000n, both)
    guest.domain.map(MAILBOX_IOVA, 0xd000_0000n, page, both)

    guest.domain.map(0x10_0000_0000n, GUEST_DATA, page, both)
    expect(world.writeLands(endpoint, 0x10_0000_0040n, world.low + 0x40)).toBe(true)
    expect(world.readFinds(endpoint, 0x10_0000_0ff8n, world.low + 0xff8)).toBe(true)
    expect(world.writeLands(endpoint, 0x10_0000_0000n + page, world.low)).toBe(false)

    // The guest changes its mind, and says so.
    guest.domain.unmap(0x10_0000_0000n, page)
    expect(world.writeLands(endpoint, 0x10_0000_0040n, world.low + 0x40)).toBe(false)
    guest.domain.map(0x10_0000_0000n, GUEST_DATA, page, IOMMU_READ)
    expect(world.readFinds(endpoint, 0x10_0000_0040n, world.low + 0x40)).toBe(true)
    expect(world.writeLands(endpoint, 0x10_0000_0040n, world.low + 0x40)).toBe(false)

    // The host moves a page under the guest's feet, and takes one away.
    guest.parent.unmap(GUEST_DATA, 0x1_0000n)
    expect(world.readFinds(endpoint, 0x10_0000_0040n, world.low + 0x40)).toBe(false)
    guest.parent.map(GUEST_DATA, world.low + 0x10_0000, 0x1_0000n, both)
    expect(world.readFinds(endpoint, 0x10_0000_0040n, world.low + 0x10_0040)).toBe(true)

    guest.end()
    expect(world.readFinds(endpoint, 0x10_0000_0040n, world.low + 0x10_0040)).toBe(false)
  })
})
