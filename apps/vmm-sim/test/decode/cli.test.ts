/** The command on what people have: words, logs of published reports, nonsense, and too much of it. */
import { spawnSync } from "node:child_process"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { decodeCommand } from "../../src/commands/decode.ts"

const MAIN = join(import.meta.dirname, "../../src/main.ts")

interface Outcome {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

function decode(args: readonly string[], input: string | Uint8Array = ""): Outcome {
  const { status, stdout, stderr } = spawnSync(process.execPath, [MAIN, "decode", ...args], {
    encoding: "utf8",
    input,
    maxBuffer: 1 << 28,
  })
  return { status, stdout, stderr }
}

/** github.com/Dasharo/dasharo-issues/issues/641, /1134, and github.com/radxa-pkg/edk2-cix/issues/24, in one log. */
const LOG = `
[    0.361089] DMAR: [DMA Read NO_PASID] Request device [00:02.0] fault addr 0x7cd80000 [fault reason 0x01] Present bit in root entry is clear
[    0.361100] DMAR: DRHD: handling fault status reg 3
[    0.361102] DMAR: [DMA Read NO_PASID] Request device [00:02.0] fault addr 0x7cd87000 [fault reason 0x01] Present bit in root entry is clear
[   40.182570] ath10k_pci 0000:01:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000d address=0xcff49550 flags=0x0070]
[   41.000000] amd_iommu_report_page_fault: 96 callbacks suppressed
[    7.471032] [pid:134,cpu0,irq/13-arm-smmu]arm-smmu-v3 arm-smmu-v3.0.auto: event 0x07 received:
[    7.471040] [pid:134,cpu0,irq/13-arm-smmu]arm-smmu-v3 arm-smmu-v3.0.auto:    0x0000010000000007
[    7.471043] [pid:134,cpu0,irq/13-arm-smmu]arm-smmu-v3 arm-smmu-v3.0.auto:    0x0000000000000000
[    7.471045] [pid:134,cpu0,irq/13-arm-smmu]arm-smmu-v3 arm-smmu-v3.0.auto:    0x0000000000000000
[    7.471047] [pid:134,cpu0,irq/13-arm-smmu]arm-smmu-v3 arm-smmu-v3.0.auto:    0x0000000000000000
[   40.182570] ath10k_pci 0000:01:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000d address=0xcff49550 flags=0x0070]
`

describe("words", () => {
  it("of 64 and of 32 bits are the same record", () => {
    const whole = decode(["--vendor", "vtd", "0x7fe0c9943000", "0xc000023a80006a08"])
    expect(whole.status).toBe(0)
    expect(whole.stdout).toContain(
      "DMAR: [DMA Read PASID 0x2] Request device [6a:01.0] fault addr 0x7fe0c9943000 [fault reason 0x3a] SM: Non-zero reserved field set in Root Entry",
    )
    const halves = decode(["--vendor", "vtd", "c9943000", "7fe0", "80006a08", "c000023a"])
    expect(halves.stdout).toBe(whole.stdout)
  })

  it("on standard input stand in a line, or one below the other", () => {
    const lines = "0x4000000010 20800000000 dead0000 0\n\n0x4000000010\n0x20800000000\n0xdead0000\n0x0\n"
    const { status, stdout } = decode(["--vendor", "smmuv3", "--linux", "7.3.4", "--json"], lines)
    expect(status).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({
      records: [
        {
          times: 2,
          record: { name: "F_TRANSLATION", address: "0xdead0000", words: ["0x0000004000000010", {}, {}, {}] },
          linux: { release: "7.2", lines: { length: 7 } },
        },
      ],
    })
  })

  it("get the device's name into Linux's text", () => {
    const words = ["0x2070000d00000100", "0xcff49550"]
    const { stdout } = decode(["--vendor", "amd", "--device", "ath10k_pci 0000:01:00.0", ...words])
    expect(stdout).toContain(
      "ath10k_pci 0000:01:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000d address=0xcff49550 flags=0x0070]",
    )
  })

  it("are page requests when that is said", () => {
    const { stdout } = decode(["--vendor", "vtd", "--page-request", "0x0000000203100101", "0x702e", "0", "0"])
    expect(stdout).toBe(
      "vtd: page request device=0x310 (03:02.0) pasid=0x2 address=0x7000 write last group=0x5\n",
    )
  })
})

describe("a log", () => {
  it("of all vendors, each record once", () => {
    const { status, stdout } = decode(["--json"], LOG)
    expect(status).toBe(0)
    const { records, suppressed } = JSON.parse(stdout)
    expect(suppressed).toBe(96)
    expect(records.map((r: Record<string, unknown>) => [r["vendor"], r["line"], r["times"]])).toEqual([
      ["vtd", 2, 1],
      ["vtd", 4, 1],
      ["amd", 5, 2],
      ["smmuv3", 7, 1],
    ])
    expect(records[2].linux.lines).toEqual([LOG.split("\n")[4]?.replace(/^\S+ +\S+ /, "")])
    expect(records[0]).toMatchObject({
      record: { name: "LRT.2", device: 0x10, address: "0x7cd80000", access: "read" },
      untold: ["T2", "PRIV", "EXE", "AT"],
      explanation: { where: "root table, legacy mode" },
    })
  })

  it("of one vendor, on request; with Windows' line ends and a byte order mark", () => {
    const { stdout } = decode(["--vendor", "amd"], `\ufeff${LOG.replaceAll("\n", "\r\n")}`)
    expect(stdout).toContain("amd: IO_PAGE_FAULT (page fault), line 5, 2 times")
    expect(stdout).not.toContain("vtd:")
    expect(stdout).toContain("the kernel left out 96 messages more")
  })
})

describe("what is no record", () => {
  it.each([
    ["words of nobody", ["1", "2"], "", "--vendor"],
    ["a log of other things", [], "usb 1-1: new high-speed USB device number 2\n", "no record in 1 lines"],
    ["an unknown vendor", ["--vendor", "riscv", "1"], "", "Allowed choices"],
  ])("%s: exit 2, and the usage on standard error", (_what, args, input, message) => {
    const { status, stdout, stderr } = decode(args, input)
    expect(status).toBe(2)
    expect(stdout).toBe("")
    expect(stderr).toContain(message)
    expect(stderr).toContain("Usage: vmm-sim decode")
  })

  it.each([
    ["too few words", ["--vendor", "vtd", "1"], "2 words of 64 bits or 4 of 32"],
    ["32 and 64 bits mixed", ["--vendor", "vtd", "1", "2", "3", "0x100000000"], "2 words of 64 bits"],
    ["no number", ["--vendor", "amd", "hello", "world"], "hexadecimal"],
    ["more than 64 bits", ["--vendor", "amd", "0x10000000000000000", "0"], "hexadecimal"],
    ["no page request", ["--vendor", "vtd", "--page-request", "0", "0", "0", "0"], "no page request"],
    ["an unknown release", ["--linux", "6.14"], "its text is not known here"],
  ])("%s", async (_what, args, message) => {
    const said: string[] = []
    const command = decodeCommand()
      .exitOverride()
      .configureOutput({ writeErr: text => said.push(text), outputError: text => said.push(text) })
    await expect(command.parseAsync(args, { from: "user" })).rejects.toThrow(message)
    expect(said.join("")).toContain(message)
  })

  it("bytes of any kind", () => {
    const bytes = Uint8Array.from({ length: 1 << 16 }, (_, n) => (n * 197 + (n >> 8)) & 0xff)
    const { status, stderr } = decode([], bytes)
    expect(status).toBe(2)
    expect(stderr).toMatch(/no record in \d+ lines/)
  })
})

describe("very much", () => {
  it("of the same is one record; of different ones the first hundred are shown", () => {
    const line = (address: number): string =>
      `[    1.0] DMAR: [DMA Read NO_PASID] Request device [00:02.0] fault addr 0x${address.toString(16)}000 [fault reason 0x06] PTE Read access is not set\n`
    const same = decode([], line(7).repeat(100_000))
    expect(same.status).toBe(0)
    expect(same.stdout).toContain("line 1, 100000 times")
    const { stdout } = decode([], Array.from({ length: 5000 }, (_, n) => line(n + 1)).join(""))
    expect(stdout).toContain("4900 more records that differ")
    expect(stdout.match(/^vtd:/gm)).toHaveLength(100)
  })

  it("in lines without end is cut, and takes no time", () => {
    const lines = ["[DMA Read NO_PASID] Request device [", "amd_iommu_report_", "a", "nvme:"].flatMap(part =>
      Array.from({ length: 400 }, () => `${part.repeat(20_000 / part.length)}\n`),
    )
    const { status, stderr } = decode([], lines.join(""))
    expect(status).toBe(2)
    expect(stderr).toContain("no record in 1600 lines")
  })

  it.each([
    [0x20, "more than 64 MiB: grep"],
    [0x0a, "more than 1000000 lines: grep"],
  ])("of byte %i is refused in a sentence that helps", (byte, message) => {
    const { status, stderr } = decode([], new Uint8Array(65 * 2 ** 20).fill(byte))
    expect(status).toBe(2)
    expect(stderr).toContain(message)
  })
})
