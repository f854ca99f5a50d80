/** What a driver offers on the hardware of a world, and which pages of it have memory behind them. */
import { iommuDomainFree, isIommuError, type PagingDomain, pagingParameters } from "@iommu/core"
import type { DriverWorld } from "./driver-world.ts"

/** Every format, granule and number of levels that a driver offers for this hardware. */
export function shapesOf(world: DriverWorld): { name: string; make: () => PagingDomain }[] {
  const { ops, endpoints } = world
  return ops.capabilities.formats.flatMap(format =>
    [12, 14, 16].flatMap(granuleLg2 =>
      [0, 3, 4].flatMap(levels => {
        const make = (): PagingDomain => {
          if (ops.domainAllocUser === undefined) throw new Error(`${ops.name} makes no user-owned domains`)
          return ops.domainAllocUser(
            endpoints[0].device,
            null,
            pagingParameters({ format, granuleLg2, levels }),
          )
        }
        return isServed(make) ? [{ name: `format ${format}, 2^${granuleLg2}, ${levels} levels`, make }] : []
      }),
    ),
  )
}

/** Whether a shape is one that the driver makes on this hardware. */
function isServed(make: () => PagingDomain): boolean {
  try {
    iommuDomainFree(make())
    return true
  } catch (error) {
    if (isIommuError(error) && (error.code === "EOPNOTSUPP" || error.code === "EINVAL")) return false
    throw error
  }
}

/** Largest first would need the most alignment; 1 GiB leaves need nothing but an aligned address behind them. */
export function sizesOf(domain: PagingDomain): bigint[] {
  const sizes: bigint[] = []
  for (let size = 1n; size <= 1n << 30n; size <<= 1n) if ((domain.pageSizes & size) !== 0n) sizes.push(size)
  return sizes
}

/** RAM at the start of a block of this size: large ones start where RAM goes beyond 4 GiB. */
export function targetFor(world: DriverWorld, size: bigint): bigint {
  return size <= 0x20_0000n ? BigInt(world.low) : BigInt(world.high)
}
