/** A guest's stage 1 over the driver's stage 2: guest tables are typed by hand, as a guest kernel writes them. */
import {
  ACCESS_READ,
  ACCESS_WRITE,
  type CacheInvalidateResult,
  HwptInvalidateDataType,
  IOMMU_READ,
  IOMMU_WRITE,
  type IommuDevice,
  type NestedDomain,
  PAGING_NEST_PARENT,
  type PagingDomain,
} from "@iommu/core"
import { SMMUV3_QEMU_NESTED, smmuv3Driver } from "@iommu/smmuv3"
import { describe, expect, it } from "vitest"
import { expectErrno, Host } from "./driver-machine.ts"
import { FakeSmmu, QEMU_IDS } from "./fake-smmu.ts"

const RW = IOMMU_READ | IOMMU_WRITE
/** Guest RAM: 1 MiB at IPA 0x4000_0000, in host memory at 1 MiB. */
const GUEST_BASE = 0x4000_0000n
const HOST_BASE = 0x10_0000n

interface Guest {
  readonly host: Host
  readonly device: IommuDevice
  readonly parent: PagingDomain
  readonly nested: NestedDomain
}

/** IOVA 0x1000 of the guest is its page at GUEST_BASE + 0x8000. */
function guest(host: Host = new Host(), virtualId = 0x77): Guest {
  const device = host.device(0x10, { virtualId })
  const parent = host.paging(device, { flags: PAGING_NEST_PARENT })
  parent.map(GUEST_BASE, HOST_BASE, 0x10_0000n, RW)
  const put = (offset: bigint, ...words: bigint[]): void =>
    words.forEach((word, i) => {
      host.memory.write64(HOST_BASE + offset + BigInt(i * 8), word)
    })
  // CD as in captures/smmuv3-nested-4k: T0SZ 16, 4 KiB, IPS 4; then tables of levels 0 to 3.
  put(0x1000n, 0x4e204c0003510n, GUEST_BASE + 0x2000n, 0n, 0xfffffffff404ff44n)
  put(0x2000n, (GUEST_BASE + 0x3000n) | 3n)
  put(0x3000n, (GUEST_BASE + 0x4000n) | 3n)
  put(0x4000n, (GUEST_BASE + 0x5000n) | 3n)
  put(0x5008n, (GUEST_BASE + 0x8000n) | 0xf47n)
  const nested = host.nested(device, parent, (GUEST_BASE + 0x1000n) | 0xbn, 0xd6n)
  return { host, device, parent, nested }
}

describe("a nested domain", () => {
  it("translates through both stages", () => {
    const { host, device, nested, parent } = guest()
    nested.attachDev(device)
    expect(nested.parent).toBe(parent)
    expect(host.dma(device, 0x1234n, ACCESS_READ | ACCESS_WRITE)).toBe(HOST_BASE + 0x8234n)
    expect(host.fault(device, 0x2000n)).toBe("F_TRANSLATION")
    parent.unmap(GUEST_BASE + 0x4000n, 0x1000n)
    expect(host.fault(device, 0x1234n)).toBe("F_TRANSLATION")
  })

  it("has the STE that Linux would write", () => {
    const { host, device, nested, parent } = guest(new Host(SMMUV3_QEMU_NESTED))
    nested.attachDev(device)
    parent.attachDev(device)
    const stage2 = host.ste(device)
    nested.attachDev(device)
    const ste = host.ste(device)
    expect(ste.slice(0, 2)).toEqual([(GUEST_BASE + 0x1000n) | 0xfn, 0x800d6n])
    expect(ste[2]).toBe(0x44c359400000001n)
    expect(ste.slice(2)).toEqual(stage2.slice(2))
    expect(stage2.slice(0, 2)).toEqual([0xdn, 0n])
  })

  it.each([
    ["V = 0 aborts", 0xan, null],
    ["abort", 0x1n, null],
    ["bypass is the parent's stage 2", 0x9n, HOST_BASE + 0x1234n],
  ])("%s", (_, word0, pa) => {
    const { host, device, parent } = guest()
    host.nested(device, parent, word0, 0n).attachDev(device)
    expect(host.dma(device, GUEST_BASE + 0x1234n)).toBe(pa)
  })

  it("costs no pages, and is freed before its parent", () => {
    const { host, device, nested, parent } = guest()
    const pages = host.account.usagePages
    nested.attachDev(device)
    expect(host.account.usagePages).toBe(pages)
    nested.detachDev(device)
    expectErrno("EBUSY", () => parent.free())
    nested.free()
    parent.free()
    expect(host.account.usagePages).toBe(0)
  })

  it("is refused where devices are not coherent: EOPNOTSUPP", () => {
    const smmu = new FakeSmmu(QEMU_IDS)
    const ops = smmuv3Driver(smmu, { canwbs: false })
    expect(ops.capabilities.nesting).toBe(false)
    expect(ops.capabilities.userDataTypes).toEqual([0x8000_0001])
  })

  it("refuses data of other vendors: EINVAL", () => {
    const { host, device, parent } = guest()
    expectErrno("EINVAL", () =>
      host.ops.domainAllocUser?.(device, parent, { type: 3, dte: [0n, 0n, 0n, 0n] }),
    )
  })
})

describe("commands of a guest", () => {
  const invalidate = (nested: NestedDomain, ...commands: [bigint, bigint][]): CacheInvalidateResult => {
    if (nested.cacheInvalidateUser === undefined) throw new Error("no cacheInvalidateUser")
    return nested.cacheInvalidateUser({
      type: HwptInvalidateDataType.ARM_SMMUV3,
      entries: commands.map(cmd => ({ cmd })),
    })
  }

  it("reach the SMMU with VMID and StreamID replaced, the rest as it was", () => {
    const { host, device, nested } = guest()
    nested.attachDev(device)
    const guestVmid = 0xabcdn << 32n
    const asid = 0x4n << 48n
    const sid = 0x77n << 32n
    let result: CacheInvalidateResult | undefined
    const words = host
      .commands(() => {
        result = invalidate(
          nested,
          [0x30n, 0n],
          [0x10n | guestVmid, 0n],
          [0x11n | guestVmid | asid, 0n],
          [0x12n | guestVmid | asid | (3n << 12n), 0x7000n | (1n << 10n) | (3n << 8n) | 1n],
          [0x13n | guestVmid, 0x9000n],
          [0x05n | sid | (2n << 12n), 1n],
          [0x06n | sid, 0n],
          [0x40n | sid | (5n << 12n) | (1n << 11n), 0xa003n],
        )
      })
      .map(({ words: [low, high] }) => [low, high])
    expect(result).toEqual({ handled: 8, error: null })
    const vmid = 1n << 32n
    const host16 = 0x10n << 32n
    expect(words).toEqual([
      [0x10n | vmid, 0n],
      [0x10n | vmid, 0n],
      [0x11n | vmid | asid, 0n],
      [0x12n | vmid | asid | (3n << 12n), 0x7000n | (1n << 10n) | (3n << 8n) | 1n],
      [0x13n | vmid, 0x9000n],
      [0x05n | host16 | (2n << 12n), 1n],
      [0x06n | host16, 0n],
      [0x40n | host16 | (5n << 12n) | (1n << 11n), 0xa003n],
    ])
  })

  it.each([0x00, 0x01, 0x03, 0x04, 0x07, 0x20, 0x21, 0x22, 0x28, 0x2a, 0x41, 0x44, 0x46, 0x50, 0x60, 0xff])(
    "do not include 0x%s: EIO",
    opcode => {
      const { host, device, nested } = guest()
      nested.attachDev(device)
      let result: CacheInvalidateResult | undefined
      const names = host.commandNames(() => {
        result = invalidate(nested, [0x11n, 0n], [BigInt(opcode) | (0x77n << 32n), 0n], [0x10n, 0n])
      })
      expect(result?.handled).toBe(1)
      expect(result?.error?.code).toBe("EIO")
      expect(names).toEqual(["CMD_TLBI_NH_ASID"])
    },
  )

  it("find devices that are attached under this parent, and no others", () => {
    const { host, device, nested, parent } = guest()
    nested.attachDev(device)
    const sibling = host.device(0x11, { virtualId: 0x78 })
    host.nested(sibling, parent, 0x10000bn, 0xd6n).attachDev(sibling)
    const onParent = host.device(0x12, { virtualId: 0x79 })
    parent.attachDev(onParent)
    const stranger = host.device(0x13, { virtualId: 0x7a })
    host.alloc(stranger).attachDev(stranger)
    const tryId = (id: bigint): string | null =>
      invalidate(nested, [0x06n | (id << 32n), 0n]).error?.code ?? null
    expect([0x77n, 0x78n, 0x79n, 0x7an, 0x10n, 0x7bn].map(tryId)).toEqual([
      null,
      null,
      null,
      "EIO",
      "EIO",
      "EIO",
    ])
  })

  it("that the SMMU itself refuses are counted right, and the others done", () => {
    // No ATS: CMD_ATC_INV is illegal (CERROR_ILL).
    const { host, device, nested } = guest(new Host(SMMUV3_QEMU_NESTED))
    nested.attachDev(device)
    const atc: [bigint, bigint] = [0x40n | (0x77n << 32n), 0n]
    let result: CacheInvalidateResult | undefined
    const names = host.commandNames(() => {
      result = invalidate(nested, [0x10n, 0n], [0x11n, 0n], atc, [0x11n, 0n])
    })
    expect([result?.handled, result?.error?.code]).toEqual([2, "EIO"])
    expect(names.slice(0, 2)).toEqual(["CMD_TLBI_NH_ALL", "CMD_TLBI_NH_ASID"])
    expect(invalidate(nested, [0x10n, 0n])).toEqual({ handled: 1, error: null })
  })

  it("may be more than the queue holds", () => {
    const { host, device, nested } = guest()
    nested.attachDev(device)
    const commands = Array.from({ length: 1000 }, (_, i): [bigint, bigint] => [
      0x11n | (BigInt(i) << 48n),
      0n,
    ])
    let result: CacheInvalidateResult | undefined
    const seen = host.commands(() => {
      result = invalidate(nested, ...commands)
    })
    expect(result).toEqual({ handled: 1000, error: null })
    expect(seen.map(({ fields }) => Number(fields.ASID))).toEqual(commands.map((_, i) => i))
  })

  it("of another vendor are refused, none at all is a question with the answer yes", () => {
    const { nested } = guest()
    expect(invalidate(nested)).toEqual({ handled: 0, error: null })
    const result = nested.cacheInvalidateUser?.({ type: HwptInvalidateDataType.VTD_S1, entries: [] })
    expect(result?.error?.code).toBe("EINVAL")
    const huge = invalidate(nested, [1n << 64n, 0n])
    expect([huge.handled, huge.error?.code]).toEqual([0, "EINVAL"])
  })

  it("fail whole when the SMMU hangs", () => {
    const { host, device, nested } = guest()
    nested.attachDev(device)
    host.hung = true
    const result = invalidate(nested, [0x10n, 0n])
    expect([result.handled, result.error?.code]).toEqual([0, "ETIMEDOUT"])
  })
})
