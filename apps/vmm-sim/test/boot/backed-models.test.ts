/**
 * A model on memory that lives elsewhere answers as one on its own memory does. Drivers change tables behind the
 * models' backs, as a guest does: nothing that a model has found in one operation may serve in the next.
 */
import {
  ACCESS_READ,
  ACCESS_WRITE,
  type BackedMemory,
  backedMemory,
  type CachePolicy,
  createMemory,
  fromHalves,
  hi32,
  IOMMU_READ,
  IOMMU_WRITE,
  type IommuModel,
  iommuDevice,
  lo32,
  MemoryAccount,
  type Mmio,
  NO_PASID,
  PAGING_NEST_PARENT,
  PageAllocator,
  type PagingDomain,
  type PhysicalMemory,
  pagingParameters,
  type WalkStep,
} from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { WatchedModel } from "../../src/boot/machine/watched-model.ts"
import type { NestedVendor } from "../../src/nested/vendor.ts"
import { NESTED_VENDORS } from "../../src/nested/vendors.ts"

const BYTES = 4 << 20
const DEVICE = 0x18
/** Each page has tables of its own at every level below the root. */
const PAGES = 8
const STRIDE = 1n << 39n

/** The bytes of one memory, shown through another. */
function backedBy(memory: PhysicalMemory): BackedMemory {
  return backedMemory([{ base: 0, size: BYTES }], {
    load: (offset, into) => into.set(memory.read(offset, into.length)),
    store: (offset, bytes) => memory.write(offset, bytes),
  })
}

/** Registers of both, read from the first. */
function both(first: Mmio, second: Mmio): Mmio {
  return {
    read32: offset => first.read32(offset),
    read64: offset => first.read64(offset),
    write32: (offset, value) => {
      first.write32(offset, value)
      second.write32(offset, value)
    },
    write64: (offset, value) => {
      first.write64(offset, value)
      second.write64(offset, value)
    },
  }
}

function answer(model: IommuModel, iova: bigint, access: number): string {
  const status = model.translate(DEVICE, NO_PASID, hi32(iova), lo32(iova), access)
  const { result } = model
  if (status !== 0) return `refused: ${result.fault?.reason} stage ${result.fault?.stage}`
  return `0x${fromHalves(result.paHi, result.paLo).toString(16)} ${result.sizeLg2} ${result.allowed}`
}

interface Pair {
  readonly memory: PhysicalMemory
  readonly plain: IommuModel
  readonly watched: IommuModel
  readonly domain: PagingDomain
}

/** Two models of a vendor over the same bytes, and a domain of its driver on both: stage 2, four levels. */
function pairOf(vendor: NestedVendor, caches: CachePolicy): Pair {
  const memory = createMemory([{ base: 0, size: BYTES }])
  const elsewhere = backedBy(memory)
  const plain = vendor.hostModel(memory, caches)
  const watched = new WatchedModel(vendor.hostModel(elsewhere, caches), elsewhere)
  const pages = new PageAllocator(memory, { base: 0x10_0000, size: 0x30_0000 })
  const ops = vendor.hostDriver({ mmio: both(plain.mmio, watched.mmio), memory, pages }, {})
  const device = iommuDevice({ id: DEVICE, account: new MemoryAccount("test") })
  ops.probeDevice(device)
  const domain = ops.domainAllocUser?.(
    device,
    null,
    pagingParameters({ flags: PAGING_NEST_PARENT, levels: 4 }),
  )
  if (domain === undefined) throw new Error("no user-owned domains")
  domain.attachDev(device)
  return { memory, plain, watched, domain }
}

/** Where a walk's entries lie, configuration left out. */
function entriesOf(model: IommuModel, iova: bigint): bigint[] {
  const steps: WalkStep[] = []
  model.trace = step => steps.push(step)
  answer(model, iova, ACCESS_READ)
  model.trace = null
  return steps.filter(({ stage }) => stage !== 0).map(({ table, index }) => table + BigInt(index) * 8n)
}

describe.each(Object.entries(NESTED_VENDORS))("%s on memory that lives elsewhere", (_name, vendor) => {
  it.each(["none", "exact", "hoard"] as const)("answers as on its own, caches %s", caches => {
    const step = fc.record({
      page: fc.nat({ max: PAGES - 1 }),
      target: fc.nat({ max: 255 }),
      what: fc.constantFrom("map", "unmap", "read", "write"),
    })
    fc.assert(
      fc.property(fc.array(step, { minLength: 10, maxLength: 60 }), steps => {
        const { plain, watched, domain } = pairOf(vendor, caches)
        const mapped = new Set<number>()
        for (const { page, target, what } of steps) {
          const iova = BigInt(page) * STRIDE
          if (what === "map" && !mapped.has(page)) {
            domain.map(iova, BigInt(target) * 0x1000n, 0x1000n, IOMMU_READ | IOMMU_WRITE)
            mapped.add(page)
          } else if (what === "unmap" && mapped.has(page)) {
            domain.unmap(iova, 0x1000n)
            mapped.delete(page)
          } else {
            const access = what === "write" ? ACCESS_WRITE : ACCESS_READ
            expect(answer(watched, iova, access)).toBe(answer(plain, iova, access))
          }
        }
      }),
      { seed: 20_26, numRuns: 40 },
    )
  })

  it("sees at once, without caches, that others have exchanged entries of a root table", () => {
    const { memory, plain, watched, domain } = pairOf(vendor, "none")
    const iovas = [STRIDE, 2n * STRIDE] as const
    iovas.forEach((iova, n) => {
      domain.map(iova, BigInt(n + 1) * 0x1000n, 0x1000n, IOMMU_READ | IOMMU_WRITE)
    })
    for (const iova of iovas)
      expect(answer(watched, iova, ACCESS_READ)).toBe(answer(plain, iova, ACCESS_READ))
    const [first, second] = iovas.map(iova => entriesOf(plain, iova)) as [bigint[], bigint[]]
    const parting = first.findIndex((entry, n) => entry !== second[n])
    const [a, b] = [first[parting], second[parting]] as [bigint, bigint]
    const entry = memory.read64(a)
    memory.write64(a, memory.read64(b))
    memory.write64(b, entry)
    expect(answer(watched, iovas[0], ACCESS_READ)).toMatch(/^0x2000 /)
    expect(answer(watched, iovas[1], ACCESS_READ)).toMatch(/^0x1000 /)
  })
})
