/** Numbers of a guest's devices. Rules: `IOMMU_VDEVICE_ALLOC` of Linux's uAPI, and the widths of the books. */
import { iommuDevice, MemoryAccount, VirtualDevices } from "@iommu/core"
import { describe, expect, it } from "vitest"

const account = new MemoryAccount("guest")
const one = iommuDevice({ id: 0x10, account })
const other = iommuDevice({ id: 0x20, account })
const code = (name: string): unknown => expect.objectContaining({ code: name })

describe("virtual devices", () => {
  it("are known by their number and back, until it is taken from them", () => {
    const devices = new VirtualDevices("DeviceID", 16)
    expect(devices.isEmpty).toBe(true)
    devices.add(one, 5n)
    devices.add(other, 0n)
    expect([devices.idOf(one), devices.idOf(other)]).toEqual([5, 0])
    expect([devices.at(5), devices.at(0), devices.at(0x10)]).toEqual([one, other, null])
    devices.remove(one)
    devices.remove(one)
    expect([devices.idOf(one), devices.at(5), devices.isEmpty]).toEqual([null, null, false])
    devices.add(one, 5n)
    expect(devices.at(5)).toBe(one)
  })

  it("have one number each, that nobody else has: EEXIST, and nothing changes", () => {
    const devices = new VirtualDevices("DeviceID", 16)
    devices.add(one, 5n)
    expect(() => devices.add(one, 6n)).toThrow(code("EEXIST"))
    expect(() => devices.add(other, 5n)).toThrow(code("EEXIST"))
    expect([devices.at(5), devices.at(6), devices.idOf(other)]).toEqual([one, null, null])
  })

  it.each([
    ["DeviceID", 16, 0xffffn],
    ["StreamID", 32, 0xffff_ffffn],
  ])("have numbers as wide as a %s, %i bits: EINVAL beyond", (what, bits, last) => {
    const devices = new VirtualDevices(what, bits)
    for (const wrong of [last + 1n, 1n << 63n, -1n, 1n << 64n]) {
      expect(() => devices.add(one, wrong)).toThrow(code("EINVAL"))
    }
    devices.add(one, last)
    expect(devices.at(Number(last))).toBe(one)
  })
})
