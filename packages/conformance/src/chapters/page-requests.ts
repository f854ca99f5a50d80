import {
  type AtsDevice,
  IOMMU_READ,
  IOMMU_WRITE,
  type IommuDevice,
  type PageFaultGroup,
  type PageRequest,
  PageResponseCode,
  type PagingDomain,
} from "@iommu/core"
import { assertEqual, assertErrno, assertTrue } from "../assert.ts"
import { iovaFor, smallestPage, type TestBench, testBench } from "../bench.ts"
import type { ConformanceTarget, TestRunner } from "../target.ts"

const { SUCCESS, INVALID } = PageResponseCode
/** More than any queue of a driver holds. */
const FLOOD = 3000

/** Hardware that passes page requests on. */
export function pageRequestsChapter(runner: TestRunner, target: ConformanceTarget): void {
  delivery(runner, target)
  refusal(runner, target)
}

function delivery({ it }: TestRunner, target: ConformanceTarget): void {
  it("are handed to the handler of the domain as whole groups, and answered as it says", () => {
    const port = setUp(target)
    if (port === null) return
    const { ask, handle, groups, answers } = port
    ask({ group: 7, last: false, address: 0x5000n })
    ask({ group: 7, address: 0x6000n, write: true })
    handle()
    assertEqual(groups.length, 1, "groups")
    const [group] = groups as [PageFaultGroup]
    assertTrue(group.device === port.device && group.pasid === null, "whose they are")
    const asked = group.requests.map(({ address, write }) => `${address.toString(16)} ${write}`)
    assertEqual(asked.join(), "5000 false,6000 true", "what is asked for")
    assertEqual(answers.length, 0, "no answer yet")
    group.respond(SUCCESS)
    group.respond(INVALID)
    assertEqual(answers.join(), "7:none:0", "one answer")
  })

  it("of a PASID go to the domain of the PASID", () => {
    const port = setUp(target)
    if (port === null || port.bench.ops.capabilities.pasidBits === 0) return
    const { bench, device, ask, handle, groups, answers } = port
    const domain = bench.pasidDomain(device)
    const taken: PageFaultGroup[] = []
    domain.pageFaultHandler = group => taken.push(group)
    domain.setDevPasid?.(device, 9)
    ask({ group: 1, pasid: 9 })
    ask({ group: 2, pasid: 10 })
    handle()
    assertEqual(taken.length, 1, "groups of the PASID")
    assertEqual(groups.length, 0, "groups of requests without PASID")
    taken[0]?.respond(SUCCESS)
    assertEqual(answers.toSorted().join(), "1:9:0,2:10:1", "answers")
    domain.removeDevPasid?.(device, 9)
  })

  it("reach a handler that is set while the device is attached", () => {
    const port = setUp(target)
    if (port === null) return
    const { domain, ask, handle, groups, answers } = port
    domain.pageFaultHandler = null
    assertEqual(domain.pageFaultHandler, null, "no handler")
    ask({ group: 1 })
    handle()
    assertEqual(answers.join(), "1:none:1", "nobody took it")
    domain.pageFaultHandler = group => groups.push(group)
    ask({ group: 2 })
    handle()
    assertEqual(groups.length, 1, "groups")
  })

  it("may be lost in a flood, and come again after it", () => {
    const port = setUp(target)
    if (port === null) return
    const { ask, handle, groups } = port
    for (let n = 0; n < FLOOD; n++) ask({ group: n % 512, last: n % 3 === 0 })
    for (let round = 0; round < 3; round++) handle()
    for (const group of groups) group.respond(SUCCESS)
    groups.length = 0
    ask({ group: 4 })
    handle()
    assertEqual(groups.length, 1, "groups after the flood")
    assertEqual(groups[0]?.requests.length, 1, "requests of a group whose first ones were lost")
  })
}

function refusal({ it }: TestRunner, target: ConformanceTarget): void {
  it("are answered INVALID where nobody takes them", () => {
    const port = setUp(target)
    if (port === null) return
    const { bench, device, domain, ask, handle, answers, groups } = port
    domain.detachDev(device)
    ask({ group: 1 })
    handle()
    bench.paging(device).attachDev(device)
    ask({ group: 2 })
    handle()
    assertEqual(answers.join(), "1:none:1,2:none:1", "answers")
    assertEqual(groups.length, 0, "groups")
  })

  it("without an answer are answered INVALID when the device leaves the domain", () => {
    const port = setUp(target)
    if (port === null) return
    const { device, domain, ask, handle, answers, groups } = port
    ask({ group: 3 })
    handle()
    domain.detachDev(device)
    assertEqual(answers.join(), "3:none:1", "answered on leaving")
    groups[0]?.respond(SUCCESS)
    assertEqual(answers.length, 1, "an answer that comes too late")
  })

  it("that end the use of a PASID are not answered", () => {
    const port = setUp(target)
    if (port === null || port.bench.ops.capabilities.pasidBits === 0) return
    const { ask, handle, answers, groups } = port
    ask({ group: 0, pasid: 3, read: false })
    handle()
    assertEqual(answers.length + groups.length, 0, "a stop marker")
  })
}

export function noPageRequestsChapter({ it }: TestRunner, target: ConformanceTarget): void {
  it("has no handler, and takes none: EOPNOTSUPP", () => {
    const bench = testBench(target)
    const domain = bench.paging(bench.probed(0))
    assertEqual(domain.pageFaultHandler, undefined, "pageFaultHandler")
    if (!("pageFaultHandler" in domain)) return
    assertErrno("EOPNOTSUPP", "a handler", () => {
      domain.pageFaultHandler = () => {}
    })
  })
}

interface Port {
  readonly bench: TestBench
  readonly device: IommuDevice
  /** The device is on it; its handler keeps groups in {@link groups}. */
  readonly domain: PagingDomain
  readonly groups: PageFaultGroup[]
  /** `group:pasid:code` of each answer that the device got. */
  readonly answers: string[]
  ask(fields: Partial<PageRequest>): void
  handle(): number
}

/** null where the machine sends no page requests. */
function setUp(target: ConformanceTarget): Port | null {
  const bench = testBench(target)
  const { machine, ops } = bench
  if (machine.pageRequest === undefined || machine.connect === undefined) return null
  const device: IommuDevice = { ...machine.device(0, bench.account), ats: true }
  ops.probeDevice(device)
  const answers: string[] = []
  const ats: AtsDevice = {
    invalidate: () => true,
    pageGroupResponse: (group, pasid, code) => answers.push(`${group}:${pasid ?? "none"}:${code}`),
  }
  machine.connect(device, ats)
  const domain = ops.capabilities.pasidBits > 0 ? bench.pasidDomain(device) : bench.paging(device)
  const page = smallestPage(domain)
  domain.map(iovaFor(domain, page * 64n, page * 64n), page, page, IOMMU_READ | IOMMU_WRITE)
  const groups: PageFaultGroup[] = []
  domain.pageFaultHandler = group => groups.push(group)
  domain.attachDev(device)
  const rights = { read: true, write: false, execute: false, privileged: false }
  const request: PageRequest = {
    device: device.id,
    pasid: null,
    address: 0x5000n,
    ...rights,
    last: true,
    group: 0,
  }
  const ask = (fields: Partial<PageRequest>): void => machine.pageRequest?.({ ...request, ...fields })
  return { bench, device, domain, groups, answers, ask, handle: () => ops.handleInterrupts?.() ?? 0 }
}
