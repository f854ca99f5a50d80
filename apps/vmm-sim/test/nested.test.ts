import { execFileSync, spawnSync } from "node:child_process"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import type { TracedWalk } from "../src/nested/endpoint.ts"
import { walkLines } from "../src/nested/report.ts"
import { runNested } from "../src/nested/scenario.ts"
import { NESTED_VENDORS } from "../src/nested/vendors.ts"

const main = join(import.meta.dirname, "../src/main.ts")
const CAUSES = [
  "page not mapped in stage 1",
  "write to a read-only page",
  "guest table missing in stage 2",
  "page unmapped by the guest",
]

/** Reasons by the books: Intel VT-d 5.10 §7.1.3, Arm IHI 0070 §7.3, AMD 48882 §2.5.3. */
const REASONS: Record<string, readonly string[]> = {
  vtd: ["SFS.2", "SGN.6", "SSS.2", "SFS.2"],
  smmuv3: ["F_TRANSLATION", "F_PERMISSION", "F_TRANSLATION", "F_TRANSLATION"],
  amd: ["IO_PAGE_FAULT", "IO_PAGE_FAULT", "IO_PAGE_FAULT", "IO_PAGE_FAULT"],
}

describe.each(Object.entries(NESTED_VENDORS))("nested DMA on %s", (name, vendor) => {
  const walks: TracedWalk[] = []
  const report = runNested(vendor, "typed", walk => walks.push(walk))

  it("finds every byte where it belongs and every fault in the vendor's log", () => {
    expect(report.problems).toEqual([])
    expect(report.bytesChecked).toBeGreaterThan(70_000)
    expect(report.faults.map(fault => fault.cause)).toEqual(CAUSES)
    expect(report.faults.map(fault => fault.reason)).toEqual(REASONS[name])
    expect(report.faults.map(fault => fault.stage)).toEqual([1, 1, 2, 1])
  })

  it("tells the guest of what its own tables refused, where the kernel has a queue for it", () => {
    expect(report.guestEvents).toBe(vendor.viommu === null ? 0 : 3)
  })

  it("comes to the same when the VMM has nothing but ioctls", () => {
    expect(runNested(vendor, "abi", null)).toEqual(report)
  })

  it("maps the guest's RAM, scattered as it lies, in leaves of 4 KiB, 2 MiB and 1 GiB", () => {
    const leaves = walks.flatMap(({ steps }) => steps.filter(({ stage }) => stage === 2))
    const sizes = leaves.flatMap(({ meaning }) => /^\d+ [KMG]iB/.exec(meaning)?.[0] ?? [])
    expect(new Set(sizes)).toEqual(new Set(["4 KiB", "2 MiB", "1 GiB"]))
  })

  it("ends with nothing charged", () => {
    expect(report.pagesCharged.peak).toBeGreaterThan(0)
    expect(report.pagesCharged.end).toBe(0)
  })

  it("walks both stages: four tables of stage 1, each fetched through stage 2", () => {
    const longest = walks.reduce((a, b) => (a.steps.length >= b.steps.length ? a : b))
    expect(longest.steps.filter(step => step.stage === 1)).toHaveLength(4)
    expect(longest.steps.filter(step => step.stage === 2).length).toBeGreaterThanOrEqual(5 * 3)
    for (const line of walkLines(longest).slice(1, -1)) {
      expect(line).toMatch(/^ {2}(config |stage [12]) .* 0x[0-9a-f]+\[\d+\] .*0x[0-9a-f]{16} .*\S$/)
    }
  })
})

describe("vmm-sim run nested", () => {
  it("prints one document with --json", () => {
    const text = execFileSync(process.execPath, [main, "run", "nested", "--json"], { encoding: "utf8" })
    const document = JSON.parse(text) as { machines: { vendor: string }[]; ok: boolean }
    expect(document.machines.map(machine => machine.vendor)).toEqual(["Intel VT-d", "Arm SMMUv3", "AMD-Vi"])
    expect(document.ok).toBe(true)
  })

  it("prints a table, and each walk with --trace", () => {
    const run = (...more: string[]) =>
      execFileSync(process.execPath, [main, "run", "nested", "--vendor", "smmuv3", ...more], {
        encoding: "utf8",
      })
    expect(run()).toMatch(/pages charged at end\s+│ 0/)
    expect(run("--abi")).toBe(run())
    expect(run("--trace")).toMatch(/nvme: write at 0x10007c18\n {2}config {3}/)
  })

  it.each([
    [["run", "nested", "--vendor", "riscv"]],
    [["run", "nested", "--frobnicate"]],
    [["run", "nowhere"]],
    [["run", "nested", "more"]],
  ])("answers %j with usage on stderr and exit code 2", args => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...args], { encoding: "utf8" })
    expect(status).toBe(2)
    expect(stdout).toBe("")
    expect(stderr).toMatch(/error: [\s\S]*Usage: vmm-sim/)
  })
})
