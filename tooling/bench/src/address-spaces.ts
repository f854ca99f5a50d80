/** What iommufd's address spaces cost: an area among many, and the dirty pages of a terabyte. */
import { areaField } from "../../../packages/iommufd/bench/areas.ts"
import type { Work } from "./bench-case.ts"
import { dirtyBitmapQuantities } from "./dirty-bitmap.ts"
import { sample } from "./measure.ts"
import type { QuantityCase } from "./quantity.ts"

const SIZES = [1e3, 1e4, 1e5, 1e6] as const
const OPERATIONS = ["map", "mapAnywhere", "unmap", "copy"] as const
const NAMES = {
  map: "map an area",
  mapAnywhere: "map, place found",
  unmap: "unmap an area",
  copy: "copy an area",
}
/** Areas of a first field that is not looked at. */
const WARM_UP = 1e4
const SAMPLES = 5
const SAMPLE_MS = 8
const SUBJECT = "iommufd"
/**
 * A tree is twice as high with a thousand times as many areas, and half of each path is in no cache any more (4 to 9
 * times on a busy machine); whatever looks at all areas would be a thousand times as slow.
 */
const GROWTH_LIMIT = 15

type Prices = Readonly<Record<(typeof OPERATIONS)[number], number>>

export function addressSpaceQuantities(): QuantityCase[] {
  const prices = new Map<number, Prices>()
  const price = (size: number, operation: (typeof OPERATIONS)[number]): number => {
    if (prices.size === 0) pricesAmong(WARM_UP)
    const known = prices.get(size) ?? pricesAmong(size)
    prices.set(size, known)
    return known[operation]
  }
  const each = SIZES.flatMap(size =>
    OPERATIONS.map(operation => ({
      what: `${NAMES[operation]} among 10^${Math.log10(size)}`,
      subject: SUBJECT,
      unit: "µs",
      limit: null,
      measure: () => price(size, operation),
    })),
  )
  const growth = OPERATIONS.map(operation => ({
    what: `${NAMES[operation]}, growth 10^3 to 10^6 areas`,
    subject: SUBJECT,
    unit: "times",
    limit: GROWTH_LIMIT,
    measure: () => price(1e6, operation) / price(1e3, operation),
  }))
  return [...each, ...growth, ...dirtyBitmapQuantities()]
}

/** One field at a time: a million areas take some 350 MB. */
function pricesAmong(areas: number): Prices {
  const field = areaField(areas)
  return {
    map: microseconds(field.map),
    mapAnywhere: microseconds(field.mapAnywhere),
    unmap: microseconds(field.unmap),
    copy: microseconds(field.copy),
  }
}

function microseconds(work: Work): number {
  sample(work, SAMPLE_MS)
  return Math.min(...Array.from({ length: SAMPLES }, () => sample(work, SAMPLE_MS))) / 1000
}
