import { iommuDevice, MemoryAccount } from "@iommu/core"
import * as uapi from "@iommu/iommufd"
import { HW_INFO_SELFTEST, HW_INFO_TYPE_SELFTEST, MOCK_PASID_BITS } from "@iommu/iommufd/testing"
import { describe, expect, it } from "vitest"
import { abi } from "./abi.ts"
import { expectErrno, testbench } from "./testbench.ts"
import { USER_VA } from "./workbench.ts"

const REGISTERS = [...HW_INFO_SELFTEST.encode({ flags: 0, testReg: 0xdeadbeef })]

describe("2.14 GET_HW_INFO", () => {
  it("refuses unknown flags and reserved bytes before it looks for the device: EOPNOTSUPP", () => {
    const { iommufd } = testbench()
    expectErrno("EOPNOTSUPP", () => abi.hwInfo(iommufd, { flags: 2 }))
    expectErrno("EOPNOTSUPP", () => abi.hwInfo(iommufd, { __reserved: [0, 1, 0] }))
    expectErrno("ENOENT", () => abi.hwInfo(iommufd, { devId: 1 }))
  })

  it("looks at the type only with INPUT_TYPE: EOPNOTSUPP for one that is not provided", () => {
    const bench = testbench()
    const devId = bench.bound().id
    expect(abi.hwInfo(bench.iommufd, { devId, outDataType: 77 }).outDataType).toBe(HW_INFO_TYPE_SELFTEST)
    const flags = uapi.HW_INFO_FLAG_INPUT_TYPE
    expectErrno("EOPNOTSUPP", () => abi.hwInfo(bench.iommufd, { devId, flags, outDataType: 1 }))
    for (const outDataType of [0, HW_INFO_TYPE_SELFTEST]) {
      expect(abi.hwInfo(bench.iommufd, { devId, flags, outDataType }).outDataType).toBe(HW_INFO_TYPE_SELFTEST)
    }
  })

  it("writes a prefix into a shorter buffer, zeros behind a longer one, and the length it has", () => {
    const bench = testbench()
    const devId = bench.bound().id
    const { memory } = bench.process
    for (const dataLen of [0, 4, 8, 12]) {
      memory.write(USER_VA, new Uint8Array(16).fill(0xaa))
      const out = abi.hwInfo(bench.iommufd, { devId, dataLen, dataUptr: USER_VA })
      expect(out.dataLen).toBe(8)
      const expected = Array.from({ length: 16 }, (_, i) => (i < dataLen ? (REGISTERS[i] ?? 0) : 0xaa))
      expect([...memory.read(USER_VA, 16)]).toEqual(expected)
    }
    expectErrno("EFAULT", () => abi.hwInfo(bench.iommufd, { devId, dataLen: 8, dataUptr: 0n }))
    expectErrno("EFAULT", () => abi.hwInfo(bench.iommufd, { devId, dataLen: 0xffff_ffff, dataUptr: USER_VA }))
  })

  it("reports the width of PASIDs and what else the device can", () => {
    const bench = testbench()
    const plain = abi.hwInfo(bench.iommufd, { devId: bench.bound({ noDirty: true }).id })
    expect([plain.outMaxPasidLog2, plain.outCapabilities]).toEqual([0, uapi.HW_CAP_PCI_ATS_NOT_SUPPORTED])
    const rich = bench.bound({ pasid: true, ats: true, pasidExecute: true, pasidPrivileged: true })
    const out = abi.hwInfo(bench.iommufd, { devId: rich.id })
    expect([out.outMaxPasidLog2, out.outCapabilities]).toEqual([
      MOCK_PASID_BITS,
      uapi.HW_CAP_DIRTY_TRACKING | uapi.HW_CAP_PCI_PASID_EXEC | uapi.HW_CAP_PCI_PASID_PRIV,
    ])
  })

  it("reports NONE where the driver says nothing, whatever was asked for", () => {
    const bench = testbench({ process: { capabilities: ["CAP_SYS_RAWIO"] } })
    const raw = bench.iommufd.bindNoIommuDevice(iommuDevice({ id: 9, account: new MemoryAccount("host") }))
    const flags = uapi.HW_INFO_FLAG_INPUT_TYPE
    const out = abi.hwInfo(bench.iommufd, {
      devId: raw.id,
      flags,
      outDataType: 4,
      dataLen: 8,
      dataUptr: USER_VA,
    })
    expect([out.outDataType, out.dataLen]).toEqual([0, 0])
  })

  it("answers which types of user data are served, without trying them", () => {
    const bench = testbench()
    expect(bench.iommufd.servedUserData(bench.bound().id)).toEqual([
      { type: 0xdead, describes: "either", bytes: 8, minBytes: 4 },
      { type: 0x8000_0001, describes: "paging", bytes: 32, minBytes: 32 },
    ])
  })
})
