/** Hardware that fails at any one point of a change: the call throws, and everything is as before. */
import {
  IOMMU_READ,
  IOMMU_WRITE,
  iommuDomainFree,
  PAGING_NEST_PARENT,
  type PagingDomain,
  pagingParameters,
} from "@iommu/core"
import { describe, expect, it } from "vitest"
import { LEGACY_ONLY, type VtdCapabilities } from "../src/index.ts"
import { capabilities, machine, type TestMachine } from "./driver-machine.ts"

const IOVA = 0x4000_0000n
const PASID = 77

interface Bench {
  /** The call under test. */
  run(): void
  /** What must not change when it fails. */
  state(): unknown
}

/** Fails each wait of a call in turn; then the call succeeds. @returns how many waits there were */
function failEverywhere(hardware: VtdCapabilities, prepare: (m: TestMachine) => Bench): number {
  for (let n = 0; ; n++) {
    const m = machine(hardware, { maxPolls: 10 })
    const bench = prepare(m)
    const before = bench.state()
    const pages = m.pages.pagesInUse
    m.loseDoorbell(n)
    try {
      bench.run()
      return n
    } catch (error) {
      expect(error).toMatchObject({ code: "ETIMEDOUT" })
    }
    expect(bench.state()).toEqual(before)
    expect(m.pages.pagesInUse).toBe(pages)
    bench.run()
    expect(bench.state()).not.toEqual(before)
  }
}

function twoDomains(m: TestMachine, flags = 0) {
  const device = m.device(0x0310, { pasidBits: 16, ats: true })
  const [first, second] = [0x5000n, 0x6000n].map(pa => {
    const domain = m.driver.domainAllocUser(device, null, pagingParameters({ flags }))
    domain.map(IOVA, pa, 0x1000n, IOMMU_READ | IOMMU_WRITE)
    return domain
  }) as [PagingDomain, PagingDomain]
  const state = () => ({
    rid: m.dma(device, IOVA),
    pasid: device.pasidBits > 0 ? m.dma(device, IOVA, 1, PASID) : null,
    charged: m.owner.usagePages,
  })
  return { device, first, second, state }
}

describe.each([
  ["legacy", LEGACY_ONLY],
  ["scalable", capabilities({})],
  ["caching mode", capabilities({ cap: { CM: 1n } })],
])("%s", (name, hardware) => {
  it("attach to a blocked device", () => {
    const waits = failEverywhere(hardware, m => {
      const { device, first, state } = twoDomains(m)
      return { run: () => first.attachDev(device), state }
    })
    expect(waits).toBe(name === "caching mode" ? 2 : 0)
  })

  it("replace", () => {
    failEverywhere(hardware, m => {
      const { device, first, second, state } = twoDomains(m)
      first.attachDev(device)
      return { run: () => second.attachDev(device), state }
    })
  })

  it("detach", () => {
    const waits = failEverywhere(hardware, m => {
      const { device, first, state } = twoDomains(m)
      first.attachDev(device)
      return { run: () => first.detachDev(device), state }
    })
    expect(waits).toBe(2)
  })
})

describe.each([
  ["scalable", capabilities({})],
  ["caching mode", capabilities({ cap: { CM: 1n } })],
])("PASIDs, %s", (_name, hardware) => {
  it("set, with a table of its own", () => {
    failEverywhere(hardware, m => {
      const { device, first, state } = twoDomains(m)
      return { run: () => first.setDevPasid?.(device, PASID), state }
    })
  })

  it("replace", () => {
    failEverywhere(hardware, m => {
      const { device, first, second, state } = twoDomains(m)
      first.setDevPasid?.(device, PASID)
      return { run: () => second.setDevPasid?.(device, PASID), state }
    })
  })

  it("remove, with the table that goes", () => {
    const waits = failEverywhere(hardware, m => {
      const { device, first, state } = twoDomains(m)
      first.setDevPasid?.(device, PASID)
      return { run: () => first.removeDevPasid?.(device, PASID), state }
    })
    expect(waits).toBe(3)
  })

  it("release of a device", () => {
    failEverywhere(hardware, m => {
      const { device, state } = twoDomains(m)
      return {
        run: () => m.driver.releaseDevice(device),
        state: () => ({ ...state(), pages: m.pages.pagesInUse }),
      }
    })
  })
})

it("an unmap that was not waited for keeps its ranges and tables for the next wait", () => {
  const m = machine(capabilities({}), { maxPolls: 10 })
  const { device, first } = twoDomains(m, PAGING_NEST_PARENT)
  first.attachDev(device)
  m.loseDoorbell(0)
  expect(() => first.unmap(IOVA, 0x1000n)).toThrow(expect.objectContaining({ code: "ETIMEDOUT" }))
  const seen = m.during(() => first.iotlbSync())
  expect(seen.map(({ fields }) => fields.ADDR)).toContain(IOVA >> 12n)
  first.detachDev(device)
  iommuDomainFree(first)
})
