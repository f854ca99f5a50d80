/** What firmware tells a kernel, read back by tools that others wrote: ACPICA's iasl, dtc, cpio. */
import { spawnSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import {
  cells,
  encodeDeviceTree,
  findNode,
  parseDeviceTree,
  string,
  type TreeNode,
} from "../../src/boot/firmware/device-tree.ts"
import { dmarTable } from "../../src/boot/firmware/dmar.ts"
import { ivrsTable } from "../../src/boot/firmware/ivrs.ts"
import { addSmmu } from "../../src/boot/firmware/smmu-node.ts"
import { cpioArchive } from "../../src/boot/guest/cpio.ts"

const folder = mkdtempSync(join(tmpdir(), "iommu-firmware-"))
afterAll(() => rmSync(folder, { recursive: true }))

const has = (tool: string): boolean => spawnSync(tool, ["--version"]).error === undefined

/** The table in iasl's words: `Register Base Address : 00000000FED90000`. */
function disassemble(table: Uint8Array): string {
  const path = join(folder, "table")
  writeFileSync(path, table)
  const run = spawnSync("iasl", ["-d", path], { encoding: "utf8", cwd: folder })
  expect(run.status, run.stderr).toBe(0)
  return readFileSync(join(folder, "table.dsl"), "utf8")
}

/** Offset and name are iasl's; what is compared is the value it read there. */
const field = (text: string, name: string): string[] =>
  [...text.matchAll(new RegExp(`^\\[.*\\] +${name} : (\\S+)`, "gm"))].map(([, value = ""]) => value)

describe.skipIf(!has("iasl"))("ACPI tables, as iasl reads them (skipped without iasl)", () => {
  it("DMAR has one unit for all PCI devices", () => {
    const text = disassemble(dmarTable({ registerBase: 0xfed9_0000n, hostAddressWidth: 39 }))
    expect(text).toContain('Signature : "DMAR"')
    expect(text).not.toMatch(/Invalid|Incorrect|should be/)
    expect(field(text, "Host Address Width")).toEqual(["26"])
    expect(field(text, "Register Base Address")).toEqual(["00000000FED90000"])
    expect(text).toContain("[Hardware Unit Definition]")
    expect(field(text, "Flags").at(-1)).toBe("01")
  })

  it("IVRS has one IOMMU with its features and a range of devices", () => {
    const text = disassemble(
      ivrsTable({
        device: 0x20,
        capability: 0x40,
        registerBase: 0xfed8_0000n,
        extFeatures: 0x2073_43ef_0000_99dfn,
        extFeatures2: 8n,
        lastDevice: 0xff,
      }),
    )
    expect(text).toContain('Signature : "IVRS"')
    expect(text).not.toMatch(/Invalid|Incorrect|should be/)
    expect(field(text, "Subtable Type")).toEqual(["11"])
    expect(field(text, "Entry Type"), "start and end of a range").toEqual(["03", "04"])
    expect(field(text, "Base Address")).toEqual(["00000000FED80000"])
    expect(field(text, "Capability Offset")).toEqual(["0040"])
    expect(field(text, "EFR Image")).toEqual(["207343EF000099DF"])
    expect(field(text, "DeviceId")).toEqual(["0020"])
    expect(field(text, "Device ID")).toEqual(["0001", "00FF"])
  })
})

const board: TreeNode = {
  name: "",
  properties: new Map([
    ["#address-cells", cells(2)],
    ["#size-cells", cells(2)],
  ]),
  children: [
    {
      name: "intc@8000000",
      properties: new Map([["phandle", cells(1)]]),
      children: [{ name: "v2m@8020000", properties: new Map([["phandle", cells(0x8003)]]), children: [] }],
    },
    { name: "pcie@10000000", properties: new Map([["device_type", string("pci")]]), children: [] },
  ],
}

describe("device trees", () => {
  const tree = parseDeviceTree(encodeDeviceTree(board))
  addSmmu(tree, { registerBase: 0x3e00_0000, registerBytes: 0x2_0000 })
  const blob = encodeDeviceTree(tree)

  it("come back as they were written", () => {
    expect(parseDeviceTree(blob)).toEqual(tree)
    expect(() => parseDeviceTree(Uint8Array.of(1, 2, 3))).toThrow("not a device tree")
    expect(() => findNode(tree, "intc", "its")).toThrow("intc/its")
  })

  it.skipIf(!has("dtc"))(
    "have an SMMU in front of the PCI bus, as dtc reads them (skipped without dtc)",
    () => {
      const run = spawnSync("dtc", ["-I", "dtb", "-O", "dts", "-q", "-"], { input: blob, encoding: "utf8" })
      expect(run.status, run.stderr).toBe(0)
      const smmu = /iommu@3e000000 \{([^}]*)\}/.exec(run.stdout)?.[1] ?? ""
      expect(smmu).toContain('compatible = "arm,smmu-v3";')
      expect(smmu).toContain("reg = <0x00 0x3e000000 0x00 0x20000>;")
      expect(smmu).toContain("msi-parent = <0x8003>;")
      expect(smmu).toContain("dma-coherent;")
      const phandle = /phandle = <(0x[\da-f]+)>/.exec(smmu)?.[1]
      expect(run.stdout).toContain(`iommu-map = <0x00 ${phandle} 0x00 0x10000>;`)
    },
  )
})

describe.skipIf(!has("cpio"))("archives, as cpio reads them (skipped without cpio)", () => {
  const archive = cpioArchive([
    { kind: "folder", path: "bin" },
    { kind: "file", path: "bin/tool", data: new TextEncoder().encode("twelve bytes"), isExecutable: true },
    { kind: "file", path: "note", data: Uint8Array.of(1), isExecutable: false },
    { kind: "link", path: "bin/other", target: "tool" },
    { kind: "character device", path: "console", major: 5, minor: 1 },
  ])

  it("list every entry with its kind and size", () => {
    const run = spawnSync("cpio", ["-itvn", "--quiet"], { input: archive, encoding: "utf8" })
    expect(run.status, run.stderr).toBe(0)
    const lines = run.stdout
      .trim()
      .split("\n")
      .map(line => line.replace(/ +/g, " "))
    expect(lines.map(line => line.split(" ")[0])).toEqual([
      "drwxr-xr-x",
      "-rwxr-xr-x",
      "-rw-r--r--",
      "lrwxrwxrwx",
      "crw-------",
    ])
    expect(lines[1]).toMatch(/ 12 .* bin\/tool$/)
    expect(lines[3]).toMatch(/bin\/other -> tool$/)
    expect(lines[4]).toMatch(/ 5, 1 .* console$/)
  })

  it("give back the bytes", () => {
    const run = spawnSync("cpio", ["-i", "--quiet", "--to-stdout", "bin/tool"], {
      input: archive,
      encoding: "utf8",
    })
    expect(run.stdout).toBe("twelve bytes")
  })
})
