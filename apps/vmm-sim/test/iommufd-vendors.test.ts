/** iommufd over the drivers of real hardware. Sections are those of the contract of iommufd's errno rules. */
import {
  ACCESS_WRITE,
  type CacheInvalidateData,
  type DomainUserData,
  VeventqType,
  ViommuType,
} from "@iommu/core"
import { IOMMUFD_VEVENT_HEADER } from "@iommu/iommufd"
import { describe, expect, it } from "vitest"
import { Bench, errnoOf, GPA, RAM_HPA, USER_VA } from "./iommufd-bench.ts"

const PASID = 8
const NEST_PARENT = 1
const DIRTY = 2
const EVERYTHING = 0xffff_ffff_ffff_ffffn

describe("7.1 Intel VT-d", () => {
  const s1 = (change: { addrWidth?: number; flags?: bigint } = {}): DomainUserData => {
    return { type: 1, flags: 0n, pgtblAddr: GPA + 0x1000n, addrWidth: 48, __reserved: 0, ...change }
  }
  const invalidate = (
    entry: Partial<Record<"addr" | "npages", bigint>> & { flags?: number },
  ): CacheInvalidateData => {
    return { type: 0, entries: [{ addr: 0n, npages: EVERYTHING, flags: 0, __reserved: 0, ...entry }] }
  }

  it("paging: user data of a guest EOPNOTSUPP, other flags EOPNOTSUPP, its own flags ok", () => {
    const b = new Bench("vtd")
    expect(errnoOf(() => b.hwpt(b.ioas, s1()))).toBe("EOPNOTSUPP")
    expect(errnoOf(() => b.hwpt(b.ioas, null, 0x10))).toBe("EOPNOTSUPP")
    for (const flags of [0, NEST_PARENT, DIRTY, PASID, NEST_PARENT | DIRTY]) b.hwpt(b.ioas, null, flags)
  })

  it("nest parent: no read-only mapping, EINVAL, and nothing stays mapped or pinned", () => {
    const b = new Bench("vtd")
    b.hwpt(b.ioas, null, NEST_PARENT)
    const map = { ioasId: b.ioas, userVa: USER_VA, length: 0x1000n, iova: GPA, readable: true }
    expect(errnoOf(() => b.iommufd.ioasMap(map))).toBe("EINVAL")
    expect(b.process.pinnedPages).toBe(0)
    b.iommufd.ioasMap({ ...map, writeable: true })
  })

  it("nested: foreign type EOPNOTSUPP, no nest parent EINVAL, wrong length EINVAL, PASID ok", () => {
    const b = new Bench("vtd")
    const [plain, parent] = [b.hwpt(b.ioas, null), b.nestParent()]
    expect(errnoOf(() => b.hwpt(parent, { type: 2, ste: [0n, 0n] }))).toBe("EOPNOTSUPP")
    expect(errnoOf(() => b.hwpt(plain, s1()))).toBe("EINVAL")
    for (const length of [23, 25]) {
      const data = { type: 1, bytes: new Uint8Array(length) }
      const request = { deviceId: b.device.id, parentId: parent, data }
      expect(errnoOf(() => b.iommufd.hwptAlloc(request))).toBe("EINVAL")
    }
    b.hwpt(parent, s1(), PASID)
  })

  it("nested: what the data says is looked at when a device is attached, and the old page table stays", () => {
    const b = new Bench("vtd")
    const parent = b.nestParent()
    b.device.attach(parent)
    for (const wrong of [s1({ addrWidth: 39 }), s1({ flags: 8n })]) {
      const nested = b.hwpt(parent, wrong)
      expect(errnoOf(() => b.device.replace(nested))).toBe("EINVAL")
      expect(b.dma(GPA)).toBe(RAM_HPA)
    }
  })

  it("invalidation: foreign type EINVAL, flags EOPNOTSUPP, misaligned EINVAL, everything from 0 alone", () => {
    const b = new Bench("vtd")
    const nested = b.hwpt(b.nestParent(), s1())
    const code = (data: CacheInvalidateData) => b.iommufd.hwptInvalidate(nested, data).error?.code ?? "ok"
    expect(code({ type: 1, entries: [{ cmd: [0x10n, 0n] }] })).toBe("EINVAL")
    expect(code(invalidate({ flags: 2 }))).toBe("EOPNOTSUPP")
    expect(code(invalidate({ addr: 0x800n, npages: 1n }))).toBe("EINVAL")
    expect(code(invalidate({ addr: 0x1000n }))).toBe("EINVAL")
    expect(code(invalidate({}))).toBe("ok")
    expect(code({ type: 0, entries: [] })).toBe("ok")
  })

  it("has no vIOMMU: EOPNOTSUPP", () => {
    const b = new Bench("vtd")
    const hwptId = b.nestParent()
    for (const type of [1, 2, ViommuType.AMD]) {
      expect(errnoOf(() => b.iommufd.viommuAlloc({ deviceId: b.device.id, hwptId, type }))).toBe("EOPNOTSUPP")
    }
  })
})

describe("7.2 Arm SMMUv3", () => {
  const vste = (word0: bigint, word1 = 0xd6n): DomainUserData => ({ type: 2, ste: [word0, word1] })
  const STAGE1 = (GPA + 0x1000n) | 0xbn

  function guest() {
    const b = new Bench("smmuv3")
    const parent = b.nestParent()
    const deviceId = b.device.id
    const viommu = b.iommufd.viommuAlloc({ deviceId, hwptId: parent, type: ViommuType.ARM_SMMUV3 }).id
    return { b, parent, viommu }
  }

  it("paging: the accepted flag sets, and no others: EOPNOTSUPP", () => {
    const b = new Bench("smmuv3", { pasidBits: 8 })
    for (const flags of [0, NEST_PARENT, DIRTY, DIRTY | PASID, PASID]) b.hwpt(b.ioas, null, flags)
    for (const flags of [NEST_PARENT | DIRTY, NEST_PARENT | PASID, 0x10]) {
      expect(errnoOf(() => b.hwpt(b.ioas, null, flags))).toBe("EOPNOTSUPP")
    }
    expect(errnoOf(() => b.hwpt(b.ioas, vste(STAGE1)))).toBe("EOPNOTSUPP")
  })

  it("nested: on a plain parent EOPNOTSUPP; on the vIOMMU flags EOPNOTSUPP, type and length EINVAL", () => {
    const { b, parent, viommu } = guest()
    expect(errnoOf(() => b.hwpt(parent, vste(STAGE1)))).toBe("EOPNOTSUPP")
    expect(errnoOf(() => b.hwpt(viommu, vste(STAGE1), PASID))).toBe("EOPNOTSUPP")
    expect(errnoOf(() => b.hwpt(viommu, { type: 3, dte: [0n, 0n, 0n, 0n] }))).toBe("EINVAL")
    for (const length of [15, 17]) {
      const data = { type: 2, bytes: new Uint8Array(length) }
      expect(errnoOf(() => b.iommufd.hwptAlloc({ deviceId: b.device.id, parentId: viommu, data }))).toBe(
        "EINVAL",
      )
    }
  })

  it("nested: V = 0 is accepted and aborts; other bits, Config and EATS: EIO", () => {
    const { b, viommu } = guest()
    b.device.attach(b.hwpt(viommu, vste(0xffff_ffff_ffff_fffen, EVERYTHING)))
    expect(b.dma(GPA)).toBeNull()
    for (const config of [1n, 2n, 3n, 6n, 7n]) {
      expect(errnoOf(() => b.hwpt(viommu, vste(1n | (config << 1n), 0n)))).toBe("EIO")
    }
    expect(errnoOf(() => b.hwpt(viommu, vste(STAGE1 | (1n << 52n))))).toBe("EIO")
    expect(errnoOf(() => b.hwpt(viommu, vste(STAGE1, 0xd6n | (1n << 18n))))).toBe("EIO")
    for (const eats of [2n, 3n]) expect(errnoOf(() => b.hwpt(viommu, vste(STAGE1, eats << 28n)))).toBe("EIO")
  })

  it("attach without a vDEVICE: ENOENT for a stage 1, fine for abort and bypass", () => {
    const { b, viommu } = guest()
    b.device.attach(b.hwpt(viommu, vste(0x9n, 0n)))
    expect(b.dma(GPA)).toBe(RAM_HPA)
    const stage1 = b.hwpt(viommu, vste(STAGE1))
    expect(errnoOf(() => b.device.replace(stage1))).toBe("ENOENT")
    expect(b.dma(GPA)).toBe(RAM_HPA)
    b.device.replace(b.hwpt(viommu, vste(0x1n, 0n)))
    b.iommufd.vdeviceAlloc({ viommuId: viommu, deviceId: b.device.id, virtualId: 7 })
    b.device.replace(stage1)
  })

  it("vIOMMU: unknown types EOPNOTSUPP; vDEVICE: more than 32 bits EINVAL, doubles EEXIST", () => {
    const { b, parent, viommu } = guest()
    for (const type of [2, ViommuType.AMD, 0xdead]) {
      const request = { deviceId: b.device.id, hwptId: parent, type }
      expect(errnoOf(() => b.iommufd.viommuAlloc(request))).toBe("EOPNOTSUPP")
    }
    const vdevice = (deviceId: number, virtualId: bigint) =>
      errnoOf(() => b.iommufd.vdeviceAlloc({ viommuId: viommu, deviceId, virtualId }))
    const [one, two] = b.devices
    expect(vdevice(one.id, 1n << 32n)).toBe("EINVAL")
    expect(vdevice(one.id, 0xffff_ffffn)).toBe("ok")
    expect(vdevice(one.id, 1n)).toBe("EEXIST")
    expect(vdevice(two.id, 0xffff_ffffn)).toBe("EEXIST")
    expect(vdevice(two.id, 0n)).toBe("ok")
  })

  it("invalidation: on the vIOMMU; nested EOPNOTSUPP; unknown vSID and foreign commands EIO with the count", () => {
    const { b, viommu } = guest()
    b.iommufd.vdeviceAlloc({ viommuId: viommu, deviceId: b.device.id, virtualId: 7 })
    const run = (...cmds: [bigint, bigint][]) => {
      const result = b.iommufd.hwptInvalidate(viommu, { type: 1, entries: cmds.map(cmd => ({ cmd })) })
      return `${result.handled} ${result.error?.code ?? "ok"}`
    }
    expect(run([0x30n, 0n], [0x06n | (7n << 32n), 0n])).toBe("2 ok")
    expect(run([0x30n, 0n], [0x06n | (0x10n << 32n), 0n], [0x30n, 0n])).toBe("1 EIO")
    expect(run([0x46n, 0n])).toBe("0 EIO")
    const nested = b.hwpt(viommu, vste(STAGE1))
    const data = { type: 1, entries: [] } as const
    expect(errnoOf(() => b.iommufd.hwptInvalidate(nested, data))).toBe("EOPNOTSUPP")
  })

  it("3.4, 3.5: events carry the vSID, in order, and say how many a full queue lost", () => {
    const { b, viommu } = guest()
    b.put(GPA + 0x1000n, 0x4e204c0003510n, GPA + 0x2000n, 0n, 0xfffffffff404ff44n)
    b.iommufd.vdeviceAlloc({ viommuId: viommu, deviceId: b.device.id, virtualId: 0x1234_5678 })
    b.device.attach(b.hwpt(viommu, vste(STAGE1)))
    const { file } = b.iommufd.veventqAlloc({ viommuId: viommu, type: VeventqType.ARM_SMMUV3, depth: 2 })
    for (let page = 1n; page <= 5n; page++) {
      b.dma(page << 12n)
      b.ops.handleInterrupts?.()
    }
    const bytes = file.read(4096)
    const { size } = IOMMUFD_VEVENT_HEADER
    const records = [0, 1].map(n => new DataView(bytes.buffer, n * (size + 32)))
    expect(records.map(view => [view.getUint32(4, true), view.getUint32(size + 4, true)])).toEqual([
      [0, 0x1234_5678],
      [1, 0x1234_5678],
    ])
    // InputAddr is the third word; then one header for the three that found no room, numbered like the last.
    expect(records.map(view => view.getBigUint64(size + 16, true))).toEqual([0x1000n, 0x2000n])
    expect(bytes.length).toBe(2 * (size + 32) + size)
    expect(IOMMUFD_VEVENT_HEADER.decode(bytes.subarray(2 * (size + 32)))).toEqual({ flags: 1, sequence: 4 })
  })

  it("5.6: the device has Linux's window for software MSIs", () => {
    const { b, parent } = guest()
    b.device.attach(parent)
    const { ranges } = b.iommufd.ioasIovaRanges(b.ioas)
    const inWindow = ranges.some(({ start, last }) => start <= 0x80f_ffffn && last >= 0x800_0000n)
    expect(inWindow).toBe(false)
    expect(b.device.mapDoorbell(RAM_HPA + 0x40n)).toBe(0x800_0040n)
    expect(b.dma(0x800_0040n, ACCESS_WRITE)).toBe(RAM_HPA + 0x40n)
  })
})

describe("7.3 AMD", () => {
  const dte = (word0: bigint, word1 = 7n, word2 = 0n): DomainUserData => ({
    type: 3,
    dte: [word0, word1, word2, 0n],
  })
  /** V, TV, GV, GIOV, IR, IW and a GCR3 table at GPA + 0x1000. */
  const GCR3 = GPA + 0x1000n
  const TRANSLATED = 3n | (3n << 54n) | (3n << 61n) | (((GCR3 >> 12n) & 7n) << 58n)
  const GCR3_WORD1 = 7n | (((GCR3 >> 15n) & 0xffffn) << 16n) | (((GCR3 >> 31n) & 0x1f_ffffn) << 43n)

  function guest() {
    const b = new Bench("amd")
    const parent = b.nestParent()
    const viommu = b.iommufd.viommuAlloc({ deviceId: b.device.id, hwptId: parent, type: ViommuType.AMD }).id
    return { b, parent, viommu }
  }

  it("paging: 0, DIRTY, NEST_PARENT with or without DIRTY, PASID; else EOPNOTSUPP", () => {
    const b = new Bench("amd", { pasidBits: 8 })
    for (const flags of [0, DIRTY, NEST_PARENT, NEST_PARENT | DIRTY, PASID]) b.hwpt(b.ioas, null, flags)
    for (const flags of [PASID | NEST_PARENT, PASID | DIRTY, 0x10]) {
      expect(errnoOf(() => b.hwpt(b.ioas, null, flags))).toBe("EOPNOTSUPP")
    }
    expect(errnoOf(() => b.hwpt(b.ioas, dte(0n)))).toBe("EOPNOTSUPP")
  })

  it("nested: on a plain parent EOPNOTSUPP; on the vIOMMU foreign type EOPNOTSUPP, length and content EINVAL", () => {
    const { b, parent, viommu } = guest()
    expect(errnoOf(() => b.hwpt(parent, dte(0n)))).toBe("EOPNOTSUPP")
    expect(errnoOf(() => b.hwpt(viommu, dte(0n), PASID))).toBe("EOPNOTSUPP")
    expect(errnoOf(() => b.hwpt(viommu, { type: 2, ste: [0n, 0n] }))).toBe("EOPNOTSUPP")
    const data = { type: 3, bytes: new Uint8Array(31) }
    expect(errnoOf(() => b.iommufd.hwptAlloc({ deviceId: b.device.id, parentId: viommu, data }))).toBe(
      "EINVAL",
    )
    for (const wrong of [
      dte(1n << 9n),
      dte(1n << 12n),
      dte(TRANSLATED & ~(7n << 58n), 7n),
      dte(TRANSLATED, GCR3_WORD1, 2n << 54n),
      dte(TRANSLATED | (3n << 56n), GCR3_WORD1),
    ]) {
      expect(errnoOf(() => b.hwpt(viommu, wrong))).toBe("EINVAL")
    }
  })

  it("works end to end where Linux has no wire: attach, commands, events", () => {
    const { b, viommu } = guest()
    b.put(GPA + 0x1000n, (GPA + 0x2000n) | 1n)
    b.put(GPA + 0x2000n, (GPA + 0x3000n) | 7n)
    b.put(GPA + 0x3000n, (GPA + 0x4000n) | 7n)
    b.put(GPA + 0x4000n, (GPA + 0x5000n) | 7n)
    b.put(GPA + 0x5008n, (GPA + 0x9000n) | 7n)
    const nested = b.hwpt(viommu, dte(TRANSLATED, GCR3_WORD1))
    expect(errnoOf(() => b.device.attach(nested))).toBe("ENOENT")
    b.iommufd.vdeviceAlloc({ viommuId: viommu, deviceId: b.device.id, virtualId: 0x28 })
    b.device.attach(nested)
    expect(b.dma(0x1010n)).toBe(RAM_HPA + 0x9010n)

    b.put(GPA + 0x5008n, (GPA + 0xa000n) | 7n)
    expect(b.dma(0x1010n)).toBe(RAM_HPA + 0x9010n)
    // INVALIDATE_IOMMU_PAGES: DomainID 7, PASID 0 with GN, all pages and directories.
    const cmd: [bigint, bigint] = [(3n << 60n) | (7n << 32n), 0x7fff_ffff_ffff_f007n]
    const done = b.iommufd.hwptInvalidate(viommu, { type: 0x8000_0003, entries: [{ cmd }] })
    expect(done).toEqual({ handled: 1, error: null })
    expect(b.dma(0x1010n)).toBe(RAM_HPA + 0xa010n)

    const { file } = b.iommufd.veventqAlloc({ viommuId: viommu, type: VeventqType.AMD, depth: 4 })
    expect(b.dma(0x5000n)).toBeNull()
    b.ops.handleInterrupts?.()
    const event = new DataView(file.read(4096).buffer, IOMMUFD_VEVENT_HEADER.size)
    expect([event.getUint16(0, true), event.getUint32(4, true) >>> 28]).toEqual([0x28, 2])
    expect(b.hostEvents).toEqual([])
  })

  it("vDEVICE: more than 16 bits EINVAL; invalidation on a nested page table EOPNOTSUPP", () => {
    const { b, viommu } = guest()
    const vdevice = (virtualId: bigint) =>
      errnoOf(() => b.iommufd.vdeviceAlloc({ viommuId: viommu, deviceId: b.device.id, virtualId }))
    expect([vdevice(0x1_0000n), vdevice(0xffffn)]).toEqual(["EINVAL", "ok"])
    const nested = b.hwpt(viommu, dte(0n))
    const data = { type: 0x8000_0003, entries: [] } as const
    expect(errnoOf(() => b.iommufd.hwptInvalidate(nested, data))).toBe("EOPNOTSUPP")
  })
})
