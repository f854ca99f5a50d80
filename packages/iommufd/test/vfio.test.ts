/** VFIO's container ioctls over an IOAS, byte by byte. */
import {
  bytesArgument,
  type Ioas,
  openVfioContainer,
  type VfioArgument,
  VfioContainer,
  vfioIoctl,
} from "@iommu/iommufd"
import { describe, expect, it } from "vitest"
import { VfioCommand } from "../src/vfio/constants.ts"
import { VFIO_DMA_MAP, VFIO_DMA_UNMAP, VFIO_INFO } from "../src/vfio/structs.ts"
import { RecordingDomain } from "./recording-domain.ts"
import { testbench } from "./testbench.ts"
import { PAGE, USER_VA, type Workbench, workbench } from "./workbench.ts"

interface Setup {
  readonly bench: Workbench
  readonly ioas: Ioas
  readonly domain: RecordingDomain
  call(command: number, argument?: bigint | Uint8Array): number
  map(iova: bigint, size: bigint, flags?: number): number
  /** @returns bytes unmapped, as written back */
  unmap(iova: bigint, size: bigint, flags?: number): bigint
}

function setup(type?: bigint): Setup {
  const bench = workbench()
  const ioas = bench.ioas()
  const domain = new RecordingDomain()
  const container = new VfioContainer({
    process: bench.process,
    vfioAddressSpace: ioas,
    enforcesCoherency: true,
  })
  const call = (command: number, argument: bigint | Uint8Array = 0n): number =>
    vfioIoctl(container, command, argumentOf(argument))
  if (type !== undefined) call(VfioCommand.SET_IOMMU, type)
  ioas.addDomain(domain)
  return {
    bench,
    ioas,
    domain,
    call,
    map: (iova, size, flags = 3) =>
      call(VfioCommand.IOMMU_MAP_DMA, VFIO_DMA_MAP.encode({ argsz: 32, flags, vaddr: USER_VA, iova, size })),
    unmap: (iova, size, flags = 0) => {
      const bytes = VFIO_DMA_UNMAP.encode({ argsz: 24, flags, iova, size })
      call(VfioCommand.IOMMU_UNMAP_DMA, bytes)
      return VFIO_DMA_UNMAP.decode(bytes).size
    },
  }
}

function argumentOf(argument: bigint | Uint8Array): VfioArgument {
  return typeof argument === "bigint"
    ? { ...bytesArgument(new Uint8Array()), value: argument }
    : bytesArgument(argument)
}

const [TYPE1, TYPE1V2] = [1n, 3n]

describe("8 VFIO container", () => {
  it("has API version 0 and serves types 1 and 1v2, UNMAP_ALL and coherency", () => {
    const { call } = setup()
    expect(call(VfioCommand.GET_API_VERSION)).toBe(0)
    const served = Array.from({ length: 12 }, (_, n) => n).filter(
      n => call(VfioCommand.CHECK_EXTENSION, BigInt(n)) === 1,
    )
    expect(served).toEqual([1, 3, 4, 9])
    expect(call(VfioCommand.CHECK_EXTENSION, 1n << 63n)).toBe(0)
  })

  it("other commands, dirty pages among them, are ENOTTY; other types EINVAL; no address space ENODEV", () => {
    const { call, bench } = setup()
    expect(() => call(0x3b00 + 117)).toThrow(/ENOTTY/)
    for (const type of [0n, 2n, 6n, 8n]) expect(() => call(VfioCommand.SET_IOMMU, type)).toThrow(/EINVAL/)
    const none = new VfioContainer({
      process: bench.process,
      vfioAddressSpace: null,
      enforcesCoherency: false,
    })
    const refused = (command: number, argument: bigint | Uint8Array): void =>
      expect(() => vfioIoctl(none, command, argumentOf(argument))).toThrow(/ENODEV/)
    refused(VfioCommand.SET_IOMMU, TYPE1V2)
    refused(VfioCommand.CHECK_EXTENSION, 4n)
    refused(
      VfioCommand.IOMMU_GET_INFO,
      VFIO_INFO.encode({ argsz: 24, flags: 0, iovaPgsizes: 0n, capOffset: 0, pad: 0 }),
    )
    refused(
      VfioCommand.IOMMU_MAP_DMA,
      VFIO_DMA_MAP.encode({ argsz: 32, flags: 3, vaddr: 0n, iova: 0n, size: PAGE }),
    )
  })

  it("checks argsz and flags: EINVAL", () => {
    const { call, map, unmap } = setup(TYPE1V2)
    expect(() => map(0n, PAGE, 4)).toThrow(/EINVAL/)
    expect(() => map(0n, PAGE, 8)).toThrow(/EINVAL/)
    expect(() => unmap(0n, PAGE, 1)).toThrow(/EINVAL/)
    expect(() => unmap(0n, PAGE, 4)).toThrow(/EINVAL/)
    const short = VFIO_DMA_MAP.encode({ argsz: 31, flags: 3, vaddr: USER_VA, iova: 0n, size: PAGE })
    expect(() => call(VfioCommand.IOMMU_MAP_DMA, short)).toThrow(/EINVAL/)
    const brief = VFIO_DMA_UNMAP.encode({ argsz: 23, flags: 0, iova: 0n, size: PAGE })
    expect(() => call(VfioCommand.IOMMU_UNMAP_DMA, brief)).toThrow(/EINVAL/)
    const info = VFIO_INFO.encode({ argsz: 15, flags: 0, iovaPgsizes: 0n, capOffset: 0, pad: 0 })
    expect(() => call(VfioCommand.IOMMU_GET_INFO, info)).toThrow(/EINVAL/)
  })

  it("Type1v2 unmaps whole mappings only: ENOENT; unmapping nothing succeeds", () => {
    const { map, unmap, domain } = setup(TYPE1V2)
    map(0x10_0000n, 4n * PAGE)
    expect(domain.runs).toHaveLength(1)
    expect(() => unmap(0x10_1000n, PAGE)).toThrow(/ENOENT/)
    expect(unmap(0x20_0000n, PAGE)).toBe(0n)
    expect(unmap(0x0n, 0x20_0000n)).toBe(4n * PAGE)
    expect(() => unmap(0n, 0n)).toThrow(/EINVAL/)
    expect(() => map(0n, PAGE, 3) + map(0n, PAGE, 3)).toThrow(/EEXIST/)
  })

  it("Type1 maps small pages and unmaps any part of a mapping, pins included", () => {
    const { map, unmap, domain, ioas, bench } = setup(TYPE1)
    map(0x10_0000n, 8n * PAGE)
    expect(domain.mapCalls).toBe(8)
    expect(unmap(0x10_2000n, 3n * PAGE)).toBe(3n * PAGE)
    expect(domain.runs.map(({ iova }) => (iova - 0x10_0000n) / PAGE)).toEqual([0n, 1n, 5n, 6n, 7n])
    expect([...ioas.areas].map(({ start, last }) => [start, last])).toEqual([
      [0x10_0000n, 0x10_1fffn],
      [0x10_5000n, 0x10_7fffn],
    ])
    expect(bench.counts()).toMatchObject({ pins: 5, userLocked: 5, bytes: 2 * 192 + 256 + 8 })
    expect(unmap(0x10_0000n, PAGE)).toBe(PAGE)
    expect(unmap(0n, 1n << 40n)).toBe(4n * PAGE)
    expect(bench.counts()).toMatchObject({ pins: 0, userLocked: 0, bytes: 8 })
  })

  it("Type1 keeps its cuts when the unmap fails behind them", () => {
    const { map, unmap, ioas } = setup(TYPE1)
    map(0n, 4n * PAGE)
    map(4n * PAGE, 4n * PAGE)
    const queue = ioas.pinContiguous(5n * PAGE, PAGE)
    expect(() => unmap(2n * PAGE, 6n * PAGE)).toThrow(/EBUSY/)
    expect([...ioas.areas].map(({ start, last }) => [start, last + 1n])).toEqual([
      [0n, 2n * PAGE],
      [4n * PAGE, 8n * PAGE],
    ])
    queue.release()
  })

  it("UNMAP_ALL removes everything, with iova and size 0: EINVAL otherwise", () => {
    const { map, unmap } = setup(TYPE1V2)
    map(0n, 2n * PAGE)
    map(0x10_0000n, PAGE)
    expect(() => unmap(0n, PAGE, 2)).toThrow(/EINVAL/)
    expect(() => unmap(PAGE, 0n, 2)).toThrow(/EINVAL/)
    expect(unmap(0n, 0n, 2)).toBe(3n * PAGE)
    expect(unmap(0n, 0n, 2)).toBe(0n)
  })

  it("tells page sizes, IOVA ranges and the number of mappings, as far as there is room", () => {
    const { call, ioas } = setup(TYPE1V2)
    ioas.reserve({}, [{ type: "msi", start: 0xfee0_0000n, last: 0xfeef_ffffn }])
    const info = (argsz: number): DataView => {
      const bytes = new Uint8Array(256)
      bytes.set(VFIO_INFO.encode({ argsz, flags: 0, iovaPgsizes: 0n, capOffset: 0, pad: 0 }))
      bytes.fill(0xee, argsz)
      call(VfioCommand.IOMMU_GET_INFO, bytes)
      expect(bytes.subarray(Math.max(argsz, 16)).every(byte => byte === 0xee)).toBe(true)
      return new DataView(bytes.buffer)
    }
    for (const argsz of [16, 24, 40, 87]) {
      const view = info(argsz)
      expect([view.getUint32(0, true), view.getBigUint64(8, true)]).toEqual([
        88,
        4096n | (2n << 20n) | (1n << 30n),
      ])
      if (argsz >= 20) expect(view.getUint32(16, true)).toBe(0)
    }
    const view = info(88)
    expect([view.getUint32(4, true), view.getUint32(16, true)]).toEqual([3, 24])
    // DMA_AVAIL, version 1, the next at 40.
    expect([24, 26].map(at => view.getUint16(at, true))).toEqual([3, 1])
    expect([28, 32].map(at => view.getUint32(at, true))).toEqual([40, 0xffff_ffff])
    // IOVA_RANGE, version 1, the last.
    expect([40, 42].map(at => view.getUint16(at, true))).toEqual([1, 1])
    expect([44, 48].map(at => view.getUint32(at, true))).toEqual([0, 2])
    expect([56, 64, 72, 80].map(at => view.getBigUint64(at, true))).toEqual([
      0n,
      0xfedf_ffffn,
      0xfef0_0000n,
      (1n << 64n) - 1n,
    ])
  })

  it("counts sub-page sizes as 4096", () => {
    const { call, ioas, domain } = setup(TYPE1V2)
    ioas.removeDomain(domain)
    ioas.addDomain(new RecordingDomain({ smallestPage: 2048n }))
    const bytes = VFIO_INFO.encode({ argsz: 24, flags: 0, iovaPgsizes: 0n, capOffset: 0, pad: 0 })
    call(VfioCommand.IOMMU_GET_INFO, bytes)
    expect(VFIO_INFO.decode(bytes).iovaPgsizes).toBe(4096n | (2n << 20n) | (1n << 30n))
  })
})

describe("8 VFIO container ioctls on an open iommufd", () => {
  it("work on the address space that VFIO_IOAS chose: ENODEV without one", () => {
    const { iommufd, bound, process } = testbench()
    const { memory } = process
    expect(iommufd.ioctlAt(VfioCommand.CHECK_EXTENSION, TYPE1V2)).toBe(1)
    expect(() => iommufd.ioctlAt(VfioCommand.SET_IOMMU, TYPE1V2)).toThrow(/ENODEV/)
    const ioasId = iommufd.ioasAlloc()
    iommufd.setVfioIoas(ioasId)
    bound().attach(ioasId)
    expect(iommufd.ioctlAt(VfioCommand.SET_IOMMU, TYPE1V2)).toBe(0)
    const map = VFIO_DMA_MAP.encode({ argsz: 32, flags: 3, vaddr: USER_VA, iova: 1n << 24n, size: 2n * PAGE })
    expect(iommufd.ioctl(VfioCommand.IOMMU_MAP_DMA, map)).toBe(0)
    const unmap = VFIO_DMA_UNMAP.encode({ argsz: 24, flags: 0, iova: 0n, size: 1n << 30n })
    const at = USER_VA + 0x10_0000n
    memory.write(at, unmap)
    expect(iommufd.ioctlAt(VfioCommand.IOMMU_UNMAP_DMA, at)).toBe(0)
    expect(VFIO_DMA_UNMAP.decode(memory.read(at, 24)).size).toBe(2n * PAGE)
  })

  it("of a container count pinned pages for each process, and have an address space from the start", () => {
    const bench = testbench({ process: { memlockBytes: 4 * 4096 } })
    const container = openVfioContainer(bench.process)
    const device = container.bindDevice({ ops: bench.mock, device: bench.probed() })
    device.attach(container.vfioIoas)
    expect(container.ioctlAt(VfioCommand.SET_IOMMU, TYPE1)).toBe(0)
    const map = (size: bigint): number =>
      container.ioctl(
        VfioCommand.IOMMU_MAP_DMA,
        VFIO_DMA_MAP.encode({ argsz: 32, flags: 3, vaddr: USER_VA, iova: 1n << 24n, size }),
      )
    expect(() => map(5n * PAGE)).toThrow(/ENOMEM/)
    map(4n * PAGE)
    expect(bench.counts()).toMatchObject({ pinned: 4, locked: 4, userLocked: 0 })
    const unmap = VFIO_DMA_UNMAP.encode({ argsz: 24, flags: 0, iova: (1n << 24n) + PAGE, size: 2n * PAGE })
    container.ioctl(VfioCommand.IOMMU_UNMAP_DMA, unmap)
    expect(bench.counts()).toMatchObject({ pinned: 2, locked: 2 })
    device.detach()
    device.unbind()
    container.close()
    expect(bench.counts()).toMatchObject({ pins: 0, pinned: 0, locked: 0 })
    bench.account.limitPages = 0
    bench.iommufd.close()
    const { descriptors } = bench.process.files
    expect(() => openVfioContainer(bench.process)).toThrow(/ENOMEM/)
    expect(bench.process.files.descriptors).toEqual(descriptors)
  })

  it("are EFAULT where the memory is shorter than its argsz says", () => {
    const { iommufd } = testbench()
    iommufd.setVfioIoas(iommufd.ioasAlloc())
    const info = VFIO_INFO.encode({ argsz: 4096, flags: 0, iovaPgsizes: 0n, capOffset: 0, pad: 0 })
    expect(() => iommufd.ioctl(VfioCommand.IOMMU_GET_INFO, info)).toThrow(/EFAULT/)
    expect(() => iommufd.ioctl(VfioCommand.IOMMU_MAP_DMA, info)).toThrow(/EFAULT/)
    expect(() => iommufd.ioctlAt(VfioCommand.IOMMU_GET_INFO, 0)).toThrow(/EFAULT/)
  })
})

describe("8 cutting areas", () => {
  it("is EINVAL with huge pages in domains, at a misaligned place or under a pin; the page in the middle keeps its pin", () => {
    const bench = workbench()
    const ioas = bench.ioas()
    const map = (iova: bigint, length: bigint): bigint =>
      ioas.map(bench.process, { userVa: USER_VA, length, iova, readable: true, writeable: true })
    map(0n, 4n * PAGE)
    const pin = ioas.pin(0n, PAGE, "read")
    expect(() => ioas.cutAfter(PAGE - 1n)).toThrow(/EINVAL.*pinned/)
    pin.release()
    const domain = new RecordingDomain()
    ioas.addDomain(domain)
    expect(() => ioas.cutAfter(PAGE - 1n)).toThrow(/EINVAL.*huge/)
    expect(() => ioas.cutAfter(PAGE)).toThrow(/EINVAL.*multiples/)
    ioas.removeDomain(domain)
    ioas.cutAfter(0x17ffn)
    ioas.cutAfter(0n)
    ioas.cutAfter(0x9999n)
    expect([...ioas.areas].map(({ start }) => start)).toEqual([0n, 0x1800n])
    ioas.addDomain(new RecordingDomain({ smallestPage: 2048n }))
    expect(bench.counts()).toMatchObject({ pins: 4 })
    ioas.unmap(0n, 0x1800n)
    expect(bench.counts()).toMatchObject({ pins: 3 })
    ioas.unmapAll()
    expect(bench.counts()).toMatchObject({ pins: 0, userLocked: 0 })
  })
})
