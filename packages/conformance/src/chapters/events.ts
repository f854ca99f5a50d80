import {
  ACCESS_READ,
  IOMMU_READ,
  IOMMU_WRITE,
  type IommuDevice,
  iommuDomainFree,
  type ViommuEvent,
} from "@iommu/core"
import { assertEqual, assertTrue } from "../assert.ts"
import { iovaFor, smallestPage, type TestBench, testBench, viommuContract } from "../bench.ts"
import type { ConformanceTarget, GuestTables, TestRunner } from "../target.ts"
import { allocViommu } from "./viommu.ts"

/** More than any log or queue of a driver holds. */
const FLOOD = 3000
/** Guest tables lie here, in memory that the parent maps one to one. */
const GUEST_BASE = 0x4_0000n
const GUEST_BYTES = 0x1_0000n
const VIRTUAL = 0x33

export function eventsChapter({ it }: TestRunner, target: ConformanceTarget): void {
  it("are read when there are some, and only then", () => {
    const { bench, device } = refusing(target)
    assertEqual(handle(bench), 0, "records before anything happened")
    if (!refuse(bench, device)) return
    assertTrue(handle(bench) > 0, "records after a refused access")
    assertEqual(handle(bench), 0, "records when all are read")
  })

  it("may be lost in a flood, and come again after it", () => {
    const { bench, device } = refusing(target)
    for (let n = 0; n < FLOOD; n++) if (!refuse(bench, device)) return
    assertTrue(handle(bench) < FLOOD, "no queue holds that many")
    for (let round = 0; round < 3; round++) handle(bench)
    refuse(bench, device)
    assertTrue(handle(bench) > 0, "records after the flood")
  })

  it("leave translation as it is", () => {
    const { bench, device, iova, page } = refusing(target)
    if (!refuse(bench, device)) return
    handle(bench)
    assertEqual(bench.machine.dma?.(device, -1, iova, ACCESS_READ), page, "an access that is allowed")
  })
}

export function noEventsChapter({ it }: TestRunner, target: ConformanceTarget): void {
  it("has no op that reads them", () => {
    assertEqual(testBench(target).ops.handleInterrupts, undefined, "handleInterrupts")
  })
}

/** Events of a guest's devices, as the guest knows them. */
export function guestEventsChapter({ it }: TestRunner, target: ConformanceTarget): void {
  it("carry the guest's number of the device, and what its own tables refused", () => {
    const guest = guestMachine(target)
    if (guest === null) return
    const { bench, device, events, tables } = guest
    assertEqual(bench.machine.dma?.(device, -1, tables.refusedByGuest, ACCESS_READ), null, "the access")
    handle(bench)
    assertEqual(
      events.map(event => viommuContract(target).deviceIn(event.data)).join(),
      `${VIRTUAL}`,
      "the device",
    )
  })

  it("keep to the host what the parent refused", () => {
    const guest = guestMachine(target)
    if (guest === null) return
    const { bench, device, events, tables } = guest
    assertEqual(bench.machine.dma?.(device, -1, tables.refusedByHost, ACCESS_READ), null, "the access")
    assertTrue(handle(bench) > 0, "the host hears of it")
    assertEqual(events.length, 0, "events of the guest")
  })

  it("stop with the number, and with the domain", () => {
    const guest = guestMachine(target)
    if (guest === null) return
    const { bench, device, events, tables, viommu, domain, parent } = guest
    viommu.vdeviceFree?.(device)
    bench.machine.dma?.(device, -1, tables.refusedByGuest, ACCESS_READ)
    handle(bench)
    viommu.vdeviceAlloc?.(device, BigInt(VIRTUAL))
    parent.attachDev(device)
    bench.machine.dma?.(device, -1, parent.aperture.last - 0xfffn, ACCESS_READ)
    handle(bench)
    assertEqual(events.length, 0, "events of the guest")
    iommuDomainFree(domain)
  })
}

function guestMachine(target: ConformanceTarget) {
  const bench = testBench(target)
  const { machine } = bench
  if (machine.dma === undefined || machine.memory === undefined) return null
  const contract = viommuContract(target)
  const device = bench.probed(0)
  const parent = bench.nestParent(device)
  parent.map(GUEST_BASE, GUEST_BASE, GUEST_BYTES, IOMMU_READ | IOMMU_WRITE)
  const viommu = allocViommu(bench, device, parent, contract.type)
  viommu.vdeviceAlloc?.(device, BigInt(VIRTUAL))
  const tables: GuestTables = contract.guestTables(machine, GUEST_BASE)
  const domain = viommu.domainAllocNested?.(device, tables.data)
  assertTrue(domain !== undefined, "a virtual IOMMU makes nested domains")
  domain.attachDev(device)
  const events: ViommuEvent[] = []
  viommu.onEvent = event => events.push(event)
  return { bench, device, parent, viommu, domain, tables, events }
}

/** A device on a domain with one page. */
function refusing(target: ConformanceTarget): {
  bench: TestBench
  device: IommuDevice
  iova: bigint
  page: bigint
} {
  const bench = testBench(target)
  const device = bench.probed(0)
  const domain = bench.paging(device)
  const page = smallestPage(domain)
  const iova = iovaFor(domain, page * 64n, page * 64n)
  domain.map(iova, page, page, IOMMU_READ | IOMMU_WRITE)
  domain.attachDev(device)
  return { bench, device, iova, page }
}

/** An access to a page that nothing maps. @returns false when the machine does no DMA */
function refuse({ machine }: TestBench, device: IommuDevice): boolean {
  if (machine.dma === undefined) return false
  assertEqual(machine.dma(device, -1, 0x7000n, ACCESS_READ), null, "an access to nothing")
  return true
}

function handle({ ops }: TestBench): number {
  return ops.handleInterrupts?.() ?? 0
}
