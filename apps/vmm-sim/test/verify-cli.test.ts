import { spawnSync } from "node:child_process"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { openCapture } from "../src/capture/files.ts"
import { FIXTURES, fixtureNames, fixturePath, folder, ONE_PAGE, smallCapture } from "./capture-folder.ts"

const MAIN = join(import.meta.dirname, "..", "src", "main.ts")

function run(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [MAIN, ...args], { encoding: "utf8" })
  return { status, stdout, stderr }
}

/** A fixture as a folder, with capture.json changed. */
function changed(name: string, change: (text: string) => string): string {
  const files = openCapture(fixturePath(name))
  return folder({
    "capture.json": change(new TextDecoder().decode(files.read("capture.json"))),
    "pages.bin": files.read("pages.bin"),
  })
}

describe("vmm-sim verify", () => {
  it("checks every capture in a folder, one line each, and exits 0", () => {
    const { status, stdout, stderr } = run("verify", FIXTURES)
    expect(stderr).toBe("")
    expect(status).toBe(0)
    expect(
      stdout
        .trimEnd()
        .split("\n")
        .map(line => line.split(/\s+/)[0]),
    ).toEqual([...fixtureNames])
    expect(stdout).not.toMatch(/DIFFER/)
  })

  it("prints one JSON document of exactly the agreed form", () => {
    const { status, stdout } = run("verify", fixturePath("amd-v1"), fixturePath("smmuv3-nested-4k"), "--json")
    expect(status).toBe(0)
    const document: unknown = JSON.parse(stdout)
    const none = { checked: 0, agree: 0, explained: 0, differ: 0 }
    const all = (checked: number): unknown => ({ ...none, checked, agree: checked })
    expect(document).toEqual({
      captures: [
        {
          name: "amd-v1",
          vendor: "amd",
          translations: all(838),
          unmapped: all(447),
          faults: all(32),
          variants: none,
          ops: none,
        },
        {
          name: "smmuv3-nested-4k",
          vendor: "smmuv3",
          translations: all(1275),
          unmapped: all(59),
          faults: { checked: 239, agree: expect.any(Number), explained: expect.any(Number), differ: 0 },
          variants: { checked: 72, agree: expect.any(Number), explained: expect.any(Number), differ: 0 },
          ops: none,
        },
      ],
      ok: true,
    })
  })

  it("exits 1 when anything differs, and lists it with --details", () => {
    const path = changed("vtd-legacy-39", text =>
      text.replace('"code": "0x5"', '"code": "0x6"').replace('"code":"0x5"', '"code":"0x6"'),
    )
    const { status, stdout } = run("verify", path, "--details")
    expect(status).toBe(1)
    expect(stdout).toMatch(/DIFFERS/)
    expect(stdout).toMatch(/differs\s+faults\[\d+\] device 0x/)
    expect(stdout).toMatch(/fault reason must be 0x6, is 0x5/)
    const json = run("verify", path, "--json")
    expect(json.status).toBe(1)
    expect(JSON.parse(json.stdout)).toMatchObject({ ok: false, captures: [{ faults: { differ: 1 } }] })
  })

  it("exits 2 on input that cannot be used, says which file and where, and prints nothing else", () => {
    const whole = readFileSync(fixturePath("smmuv3-s1-4k"))
    const cases: [path: string, message: RegExp][] = [
      [changed("smmuv3-s1-4k", text => text.slice(0, 5000)), /capture\.json: is not JSON: .* \(offset \d+\)/],
      [folder({ "half.capture": whole.subarray(0, whole.length >> 1) }), /half\.capture: is neither/],
      [smallCapture({}, ONE_PAGE.subarray(1)), /pages\.bin: has 4095 bytes.*\(offset 4095\)/],
      ["/no/such/folder", /no\/such\/folder: cannot be read/],
    ]
    for (const [path, message] of cases) {
      // A good capture before it does not hide it.
      const { status, stdout, stderr } = run("verify", fixturePath("smmuv3-s1-4k"), path, "--json")
      expect(stderr).toMatch(message)
      expect(stderr.trimEnd().split("\n")).toHaveLength(1)
      expect(stdout).toBe("")
      expect(status).toBe(2)
    }
  })

  it("exits 2 on a wrong command line, with usage on stderr", () => {
    for (const args of [
      ["verify"],
      ["verify", FIXTURES, "--bogus"],
      ["varify"],
      [],
      ["pack-capture", "one"],
    ]) {
      const { status, stdout, stderr } = run(...args)
      expect(stderr).toMatch(/Usage: vmm-sim/)
      expect(stdout).toBe("")
      expect(status).toBe(2)
    }
  })

  it("explains itself with --help", () => {
    const { status, stdout } = run("verify", "--help")
    expect(status).toBe(0)
    expect(stdout).toMatch(/folder that holds/)
    expect(stdout).toMatch(/Exit code/)
  })
})
