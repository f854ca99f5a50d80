/** Lines as Debian's kernels printed them on these models, and what a hostile guest may print. */
import { describe, expect, it } from "vitest"
import { GuestConsole } from "../../src/boot/guest/console.ts"
import { initScript } from "../../src/boot/guest/init-script.ts"
import { amdFault, requesterName, smmuFaults, vtdFault } from "../../src/boot/watch/linux-faults.ts"

describe("faults as drivers print them", () => {
  it("VT-d", () => {
    const line =
      "[    8.530552] DMAR: [DMA Write NO_PASID] Request device [00:03.0] fault addr 0x12345000 [fault reason 0x05] PTE Write access is not set"
    expect(vtdFault(line)).toEqual({
      device: "00:03.0",
      address: 0x1234_5000n,
      code: 5,
      access: "write",
      line,
    })
    expect(vtdFault("[    6.425932] DMAR: DRHD: handling fault status reg 2")).toBeNull()
  })

  it("AMD-Vi", () => {
    const line =
      "[    4.962435] nvme 0000:00:03.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x0001 address=0x12345000 flags=0x0020]"
    expect(amdFault(line)).toEqual({
      device: "00:03.0",
      address: 0x1234_5000n,
      code: 2,
      access: "write",
      line,
    })
    expect(amdFault(line.replace("0x0020", "0x0000"))?.access).toBe("read")
    expect(amdFault("[    1.0] AMD-Vi: AMD IOMMUv2 loaded and initialized")).toBeNull()
  })

  it("SMMUv3: a record in four lines", () => {
    const lines = [
      "[   18.436682] arm-smmu-v3 3e000000.iommu: event 0x10 received:",
      "[   18.438386] arm-smmu-v3 3e000000.iommu: \t0x0000001800000010",
      "[   18.438843] arm-smmu-v3 3e000000.iommu: \t0x0000020800000000",
      "[   18.439082] arm-smmu-v3 3e000000.iommu: \t0x0000000234567000",
      "[   18.440010] arm-smmu-v3 3e000000.iommu: \t0x0000000000000000",
    ]
    const [fault] = smmuFaults(lines)
    expect(fault).toMatchObject({ device: "00:03.0", address: 0x2_3456_7000n, code: 0x10, access: "read" })
    expect(smmuFaults(lines.slice(0, 2)), "cut short").toEqual([])
    expect(smmuFaults(["nothing"])).toEqual([])
  })

  it("requesters have bus, device and function", () => {
    expect(requesterName(0x18)).toBe("00:03.0")
    expect(requesterName(0xffff)).toBe("ff:1f.7")
  })
})

describe("the guest's console", () => {
  it("tells the kernel's lines from the script's, in whatever pieces they come", () => {
    const seen: string[] = []
    const console = new GuestConsole(line => seen.push(line))
    for (const piece of [
      "[    1.0] DMAR: ",
      "one\r\r\nvmm-sim: sum large",
      " aa bb\r\n[    2.0] DMAR: two\n",
      "rest",
    ]) {
      console.push(piece)
    }
    expect(seen).toEqual(["[    1.0] DMAR: one", "vmm-sim: sum large aa bb", "[    2.0] DMAR: two"])
    expect(console.mark("sum")).toEqual(["large", "aa", "bb"])
    expect(console.kernelLines(/^DMAR/)).toEqual(["DMAR: one", "DMAR: two"])
    expect(console.kernelLines(/^DMAR/, console.bootLines)).toEqual(["DMAR: one"])
  })

  it("keeps no more than a boot prints", () => {
    const console = new GuestConsole(() => undefined)
    console.push(`${"x".repeat(100_000)}\n`)
    for (let n = 0; n < 30_000; n++) console.push("line\n")
    expect(console.lines[0]?.length).toBe(2000)
    expect(console.lines.length + console.linesDropped).toBe(30_001)
    expect(console.lines.length).toBeLessThanOrEqual(20_000)
  })

  it("loses the escapes that a terminal would obey", () => {
    const console = new GuestConsole(() => undefined)
    console.push("\x1b[2J\x1b[1mred\n")
    expect(console.lines).toEqual(["red"])
  })
})

describe("the guest's script", () => {
  it("writes an address in words of four bytes, low one first", () => {
    const rogue = { registers: 0x50, address: 0x2_3456_7000n, access: "write" } as const
    const script = initScript({ modules: [], rogue: [rogue] })
    const writes = [...script.matchAll(/printf '(\S+)' .* seek=(\d+) /g)].map(([, text, seek]) => [
      text,
      seek,
    ])
    expect(writes).toEqual([
      ["\\000\\160\\126\\064", "21"],
      ["\\002\\000\\000\\000", "22"],
      ["\\002\\000\\000\\000", "23"],
    ])
  })
})
