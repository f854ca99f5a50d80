import {
  type CacheInvalidateData,
  type IommuDevice,
  iommuDomainFree,
  type NestedDomain,
  type PagingDomain,
  type Viommu,
  ViommuType,
} from "@iommu/core"
import { assertEqual, assertErrno, assertTrue } from "../assert.ts"
import { nestedContract, type TestBench, testBench, viommuContract } from "../bench.ts"
import type { ConformanceTarget, TestRunner } from "../target.ts"

const VIRTUAL = 0x21

/** A driver with virtual IOMMUs: guests that number their devices, and give commands in these numbers. */
export function viommuChapter(runner: TestRunner, target: ConformanceTarget): void {
  lifetime(runner, target)
  devices(runner, target)
  commands(runner, target)
}

function lifetime({ it }: TestRunner, target: ConformanceTarget): void {
  it("knows its types: EOPNOTSUPP for the default and for others' types", () => {
    const { bench, device, parent } = setUp(target)
    const { type } = viommuContract(target)
    const others = [...Object.values(ViommuType), 0x7777].filter(other => other !== type)
    for (const other of others) {
      assertErrno("EOPNOTSUPP", `dataLen of type ${other}`, () => bench.ops.viommu?.dataLen(device, other))
      assertErrno("EOPNOTSUPP", `type ${other}`, () => allocViommu(bench, device, parent, other))
    }
    assertTrue((bench.ops.viommu?.dataLen(device, type) ?? -1) >= 0, "a length for its own")
  })

  it("stands on a nest parent of the same hardware: EINVAL for others, ENODEV for a device not probed", () => {
    const { bench, device, parent } = setUp(target)
    const { type } = viommuContract(target)
    assertErrno("EINVAL", "a plain domain", () => allocViommu(bench, device, bench.paging(device), type))
    const other = setUp(target)
    assertErrno("EINVAL", "another's parent", () => allocViommu(bench, device, other.parent, type))
    const stranger = bench.machine.device(1, bench.account)
    assertErrno("ENODEV", "not probed", () => allocViommu(bench, stranger, parent, type))
  })

  it("keeps its parent: EBUSY until it is freed, whatever else stands there", () => {
    const { bench, device, parent, viommu } = setUp(target)
    const second = allocViommu(bench, device, parent, viommu.type)
    assertTrue(second.parent === parent && viommu.parent === parent, "both name the parent")
    viommu.free()
    assertErrno("EBUSY", "free of the parent", () => iommuDomainFree(parent))
    second.free()
    assertErrno("EINVAL", "a second free", () => second.free())
    iommuDomainFree(parent)
    assertEqual(bench.account.usagePages, 0, "pages charged at the end")
  })

  it("is busy while a nested domain or a device is on it: EBUSY", () => {
    const { device, parent, viommu, nested } = setUp(target)
    const domain = nested()
    viommu.vdeviceAlloc?.(device, 1n)
    assertErrno("EBUSY", "with both", () => viommu.free())
    iommuDomainFree(domain)
    assertErrno("EBUSY", "with a device", () => viommu.free())
    viommu.vdeviceFree?.(device)
    viommu.free()
    iommuDomainFree(parent)
  })
}

function devices({ it }: TestRunner, target: ConformanceTarget): void {
  it("makes nested domains that name the parent and refuse a device without a number: ENOENT", () => {
    const { bench, device, parent, viommu, nested } = setUp(target)
    const domain = nested()
    assertTrue(domain.parent === parent, "it names its parent")
    assertErrno("ENOENT", "no number", () => domain.attachDev(device))
    viommu.vdeviceAlloc?.(device, BigInt(VIRTUAL))
    domain.attachDev(device)
    assertErrno("ENOENT", "another device without", () => domain.attachDev(bench.probed(1)))
    assertErrno("EBUSY", "free under a device", () => iommuDomainFree(domain))
    domain.detachDev(device)
    iommuDomainFree(domain)
  })

  it("gives one number to one device: EEXIST, and takes it back", () => {
    const { bench, device, viommu } = setUp(target)
    const other = bench.probed(1)
    viommu.vdeviceAlloc?.(device, 5n)
    assertErrno("EEXIST", "the same number", () => viommu.vdeviceAlloc?.(other, 5n))
    assertErrno("EEXIST", "the same device", () => viommu.vdeviceAlloc?.(device, 6n))
    viommu.vdeviceFree?.(device)
    viommu.vdeviceAlloc?.(other, 5n)
  })

  it("keeps a device that has a number from being released: EBUSY", () => {
    const { bench, device, viommu } = setUp(target)
    viommu.vdeviceAlloc?.(device, 5n)
    assertErrno("EBUSY", "release", () => bench.ops.releaseDevice(device))
    viommu.vdeviceFree?.(device)
    bench.ops.releaseDevice(device)
  })

  it("takes numbers of the hardware's width: EINVAL beyond, ENODEV for a device not probed", () => {
    const { bench, device, viommu } = setUp(target)
    const { virtualIdBits } = viommuContract(target)
    assertErrno("EINVAL", "one bit more", () => viommu.vdeviceAlloc?.(device, 1n << BigInt(virtualIdBits)))
    viommu.vdeviceAlloc?.(device, (1n << BigInt(virtualIdBits)) - 1n)
    const stranger = bench.machine.device(1, bench.account)
    assertErrno("ENODEV", "not probed", () => viommu.vdeviceAlloc?.(stranger, 1n))
  })
}

function commands({ it }: TestRunner, target: ConformanceTarget): void {
  it("understands the guest's numbers and no others: EIO", () => {
    const { device, viommu } = setUp(target)
    const { naming } = viommuContract(target)
    assertEqual(handled(viommu, naming(VIRTUAL)), "0 EIO", "before the device has a number")
    viommu.vdeviceAlloc?.(device, BigInt(VIRTUAL))
    assertEqual(handled(viommu, naming(VIRTUAL)), "1", "by the guest's number")
    assertEqual(handled(viommu, naming(device.id)), "0 EIO", "by the host's number")
    viommu.vdeviceFree?.(device)
    assertEqual(handled(viommu, naming(VIRTUAL)), "0 EIO", "after it was taken back")
  })

  it("does not carry out what is the host's: EIO, with the entries before it done", () => {
    const { device, viommu } = setUp(target)
    const { forbidden } = viommuContract(target)
    viommu.vdeviceAlloc?.(device, BigInt(VIRTUAL))
    assertEqual(handled(viommu, forbidden), "0 EIO", "a command of the host's")
  })

  it("answers an empty array of its type, and EINVAL to the others", () => {
    const { bench, viommu } = setUp(target)
    for (const probe of [
      { type: 0, entries: [] },
      { type: 1, entries: [] },
      { type: 0x8000_0003, entries: [] },
    ] as const) {
      const isServed = bench.ops.capabilities.invalidateDataTypes.includes(probe.type)
      assertEqual(handled(viommu, probe), isServed ? "0" : "0 EINVAL", `probe of type ${probe.type}`)
    }
  })

  it("does nothing more when it is freed: EINVAL", () => {
    const { device, viommu } = setUp(target)
    viommu.free()
    assertEqual(handled(viommu, viommuContract(target).naming(VIRTUAL)), "0 EINVAL", "a command")
    assertErrno("EINVAL", "a number", () => viommu.vdeviceAlloc?.(device, 1n))
  })

  it("has invalidation to itself: its nested domains have none", () => {
    assertEqual(setUp(target).nested().cacheInvalidateUser, undefined, "cacheInvalidateUser")
  })
}

export function noViommuChapter({ it }: TestRunner, target: ConformanceTarget): void {
  it("has neither the op nor a contract of it", () => {
    assertEqual(testBench(target).ops.viommu, undefined, "viommu")
  })
}

interface Guest {
  readonly bench: TestBench
  readonly device: IommuDevice
  readonly parent: PagingDomain
  readonly viommu: Viommu
  nested(): NestedDomain
}

function setUp(target: ConformanceTarget): Guest {
  const bench = testBench(target)
  const device = bench.probed(0)
  const parent = bench.nestParent(device)
  const viommu = allocViommu(bench, device, parent, viommuContract(target).type)
  const nested = (): NestedDomain => {
    const data = nestedContract(target).valid(bench.machine, parent)
    const domain = viommu.domainAllocNested?.(device, data)
    assertTrue(domain !== undefined, "a virtual IOMMU makes nested domains")
    return domain
  }
  return { bench, device, parent, viommu, nested }
}

/** A virtual IOMMU whose type takes no data. */
export function allocViommu(
  { ops }: TestBench,
  device: IommuDevice,
  parent: PagingDomain,
  type: number,
): Viommu {
  const viommu = ops.viommu?.alloc(device, parent, type, new Uint8Array())
  assertTrue(viommu !== undefined, "the driver has virtual IOMMUs")
  return viommu
}

/** Entries done, and the errno of the first that was not. */
function handled(viommu: Viommu, data: CacheInvalidateData): string {
  const result = viommu.cacheInvalidate?.(data)
  assertTrue(result !== undefined, "a virtual IOMMU carries out invalidations")
  return `${result.handled} ${result.error?.code ?? ""}`.trim()
}
