import { IOMMU_READ, IOMMU_WRITE, type IommuDevice, iommuDomainFree, type PagingDomain } from "@iommu/core"
import { assertEqual, assertErrno, assertTrue } from "../assert.ts"
import { iovaFor, nestedContract, pageSizes, type TestBench, testBench } from "../bench.ts"
import type { ConformanceTarget, TestRunner } from "../target.ts"

/** Something that userspace makes the driver do, and that costs pages. */
interface Costly {
  readonly name: string
  /** Prepares; what it costs is not what the test is about. */
  prepare(bench: TestBench, device: IommuDevice): { run(): void; undo(): void }
}

export function accountingChapter({ it }: TestRunner, target: ConformanceTarget): void {
  for (const costly of costlyActions(target)) {
    it(`${costly.name}: fails whole with ENOMEM at every page of the limit, and leaks nothing`, () => {
      failAtEveryPage(target, costly)
    })
  }

  it("charges the owner for tables, and ends at zero", () => {
    const bench = testBench(target)
    const device = bench.probed(0)
    const held = bench.machine.pagesInUse?.()
    const domain = bench.paging(device)
    mapScattered(domain)
    assertTrue(bench.account.usagePages > 0, "tables cost pages")
    iommuDomainFree(domain)
    assertEqual(bench.account.usagePages, 0, "pages charged at the end")
    assertEqual(bench.machine.pagesInUse?.(), held, "pages in use at the end")
  })

  it("charges each owner for what is its own", () => {
    const bench = testBench(target)
    const mine = bench.probed(0)
    const domain = bench.paging(mine)
    mapScattered(domain)
    const usage = bench.account.usagePages
    const elsewhere = testBench(target)
    mapScattered(elsewhere.paging(elsewhere.probed(0)))
    assertEqual(bench.account.usagePages, usage, "my pages after another owner mapped")
  })
}

function failAtEveryPage(target: ConformanceTarget, costly: Costly): void {
  const bench = testBench(target)
  const device = bench.probed(0)
  const action = costly.prepare(bench, device)
  const before = bench.account.usagePages
  const heldBefore = bench.machine.pagesInUse?.()
  for (let allowed = 0; ; allowed++) {
    assertTrue(allowed < 10_000, "the action ends")
    bench.account.limitPages = before + allowed
    if (succeeds(() => action.run())) break
    assertErrno("ENOMEM", `${costly.name} with ${allowed} pages allowed`, () => action.run())
    assertEqual(bench.account.usagePages, before, `pages charged after failing at page ${allowed}`)
    assertEqual(bench.machine.pagesInUse?.(), heldBefore, `pages in use after failing at page ${allowed}`)
  }
  bench.account.limitPages = Number.POSITIVE_INFINITY
  action.undo()
  assertEqual(bench.account.usagePages, before, "pages charged after undoing it")
  assertEqual(bench.machine.pagesInUse?.(), heldBefore, "pages in use after undoing it")
}

function succeeds(run: () => void): boolean {
  try {
    run()
    return true
  } catch {
    return false
  }
}

function costlyActions(target: ConformanceTarget): Costly[] {
  const { capabilities } = testBench(target).ops
  const actions = [allocPlain, mapInFreshDomain]
  if (capabilities.nesting) actions.push(allocNestParent, allocNested(target))
  if (capabilities.pasidBits > 0) actions.push(attachPasid)
  return actions
}

const allocPlain: Costly = {
  name: "allocating a paging domain",
  prepare: (bench, device) => freeable(() => bench.paging(device)),
}

const allocNestParent: Costly = {
  name: "allocating a nest parent",
  prepare: (bench, device) => freeable(() => bench.nestParent(device)),
}

function allocNested(target: ConformanceTarget): Costly {
  return {
    name: "allocating and attaching a nested domain",
    prepare: (bench, device) => {
      const contract = nestedContract(target)
      const parent = bench.nestParent(device)
      contract.valid(bench.machine, parent)
      let nested: ReturnType<TestBench["nested"]> | null = null
      const undo = (): void => {
        if (nested === null) return
        nested.detachDev(device)
        iommuDomainFree(nested)
        nested = null
      }
      return {
        run: () => {
          const fresh = bench.nested(device, parent, contract)
          try {
            fresh.attachDev(device)
          } catch (error) {
            iommuDomainFree(fresh)
            throw error
          }
          nested = fresh
        },
        undo,
      }
    },
  }
}

/** Allocation and mapping together, so that the free at the end gives back all that mapping cost. */
const mapInFreshDomain: Costly = {
  name: "mapping pages of every size",
  prepare: (bench, device) =>
    freeable(() => {
      const domain = bench.paging(device)
      try {
        mapScattered(domain)
      } catch (error) {
        iommuDomainFree(domain)
        throw error
      }
      return domain
    }),
}

const attachPasid: Costly = {
  name: "attaching a PASID",
  prepare: (bench, device) => {
    const rid = bench.pasidDomain(device)
    rid.attachDev(device)
    let domain: PagingDomain | null = null
    return {
      run: () => {
        const fresh = bench.pasidDomain(device)
        try {
          fresh.setDevPasid?.(device, 1)
        } catch (error) {
          iommuDomainFree(fresh)
          throw error
        }
        domain = fresh
      },
      undo: () => {
        domain?.removeDevPasid?.(device, 1)
        if (domain) iommuDomainFree(domain)
        rid.detachDev(device)
        iommuDomainFree(rid)
        bench.ops.releaseDevice(device)
        bench.ops.probeDevice(device)
        const again = bench.pasidDomain(device)
        again.attachDev(device)
      },
    }
  },
}

function freeable(make: () => PagingDomain): { run(): void; undo(): void } {
  let domain: PagingDomain | null = null
  return {
    run: () => {
      domain = make()
    },
    undo: () => {
      if (domain) iommuDomainFree(domain)
      domain = null
    },
  }
}

/** A page of each size, each in a place of its own, so that tables of all levels are needed. */
function mapScattered(domain: PagingDomain): void {
  const sizes = pageSizes(domain).slice(0, 4)
  const span = (sizes.at(-1) as bigint) * 4n
  sizes.forEach((size, i) => {
    domain.map(iovaFor(domain, span, span * 8n) + span * BigInt(i), span, size, IOMMU_READ | IOMMU_WRITE)
  })
}
