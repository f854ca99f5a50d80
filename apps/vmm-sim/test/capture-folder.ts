/** Captures on disk for tests: folders that are deleted again. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { basename, join } from "node:path"
import { afterAll } from "vitest"
import { openCapture } from "../src/capture/files.ts"
import { type Capture, loadCapture } from "../src/capture/load.ts"

export const FIXTURES: string = join(import.meta.dirname, "..", "fixtures")

export const fixtureNames: readonly string[] = readdirSync(FIXTURES)
  .filter(name => name.endsWith(".capture"))
  .map(name => basename(name, ".capture"))

export function fixturePath(name: string): string {
  return join(FIXTURES, `${name}.capture`)
}

export function fixture(name: string): Capture {
  return loadCapture(openCapture(fixturePath(name)))
}

/** A file of a fixture as text. */
export function fixtureText(name: string, file: string): string {
  return new TextDecoder().decode(openCapture(fixturePath(name)).read(file))
}

const root = mkdtempSync(join(tmpdir(), "vmm-sim-test-"))
afterAll(() => rmSync(root, { recursive: true, force: true }))
let folders = 0

/** @returns the path of a new folder with these files */
export function folder(files: Readonly<Record<string, string | Uint8Array>>): string {
  const path = join(root, `capture-${folders++}`)
  mkdirSync(path)
  for (const [name, content] of Object.entries(files)) writeFileSync(join(path, name), content)
  return path
}

/** The smallest capture that loads: a bypassed stream of an SMMU with one page of memory. */
export const SMALL: Readonly<Record<string, unknown>> = {
  schema: 1,
  name: "small",
  vendor: "smmuv3",
  registers: { CR0: "0x0" },
  pages: ["0x40000000"],
  translations: [],
  unmapped: [],
  faults: [],
}

export const ONE_PAGE: Uint8Array = new Uint8Array(4096)

/** A folder with {@link SMALL} changed as given. */
export function smallCapture(
  changes: Readonly<Record<string, unknown>>,
  data: Uint8Array = ONE_PAGE,
): string {
  return folder({ "capture.json": JSON.stringify({ ...SMALL, ...changes }), "pages.bin": data })
}
