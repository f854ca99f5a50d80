import { spawnSync } from "node:child_process"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { vtd } from "../../src/boot/platforms/vtd.ts"
import { findPrerequisites } from "../../src/boot/prerequisites.ts"

const MAIN = join(import.meta.dirname, "../../src/main.ts")

function boot(...args: string[]): { status: number | null; stderr: string } {
  const { status, stderr } = spawnSync(process.execPath, [MAIN, "boot", ...args], { encoding: "utf8" })
  return { status, stderr }
}

describe("vmm-sim boot", () => {
  it.each([
    ["a vendor that is none", ["--vendor", "via"], "Allowed choices are vtd, smmuv3, amd"],
    ["no vendor", [], "required option '--vendor <vendor>' not specified"],
    ["CPUs that are no number", ["--vendor", "vtd", "--cpus", "two"], "1 to 1000"],
    [
      "a release that is none",
      ["--vendor", "amd", "--release", "sid"],
      "Allowed choices are bookworm, trixie",
    ],
  ])("refuses %s with exit code 2", (_what, args, message) => {
    const { status, stderr } = boot(...args)
    expect(stderr).toContain(message)
    expect(status).toBe(2)
  })

  it("says in one sentence how to get a kernel that is missing", () => {
    const kernel = { suite: "sid", architecture: "amd64", package: "linux-image-none", modules: [] } as const
    const sentence = /: npx -y pnpm@12 vmm-sim boot --vendor vtd --release bookworm --fetch gets (one|it)$/
    const missing = expect.objectContaining({ message: expect.stringMatching(sentence) })
    expect(() => findPrerequisites({ platform: vtd, release: "bookworm", kernel })).toThrow(missing)
  })
})
