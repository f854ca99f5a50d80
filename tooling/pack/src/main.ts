/**
 * Packs every library, checks the tarball, installs each one alone with what it depends on into an empty folder, and
 * there checks the types of its README's example, runs it in Node, bundles it for a browser and runs the bundle
 * without Node.
 */
import { execFileSync } from "node:child_process"
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createContext, runInContext } from "node:vm"
import { build } from "esbuild"
import { readmeExample } from "./example.ts"

const root = join(import.meta.dirname, "../../..")
const work = mkdtempSync(join(tmpdir(), "iommu-pack-"))
let failed = 0
try {
  const tarballs = packAll()
  for (const name of tarballs.keys()) await check(name, tarballs)
} finally {
  rmSync(work, { recursive: true })
}
process.exitCode = failed === 0 ? 0 : 1

function packAll(): Map<string, string> {
  const tarballs = new Map<string, string>()
  for (const folder of readdirSync(join(root, "packages"))) {
    const out = execFileSync("npm", ["pack", "--silent", "--pack-destination", work], {
      cwd: join(root, "packages", folder),
      encoding: "utf8",
      stdio: ["ignore", "pipe", "inherit"],
    })
    tarballs.set(folder, join(work, out.trim().split("\n").at(-1) as string))
  }
  return tarballs
}

async function check(name: string, tarballs: ReadonlyMap<string, string>): Promise<void> {
  try {
    checkPackage(tarballs.get(name) as string)
    const folder = install(name, tarballs)
    const example = readmeExample(readFileSync(join(root, "packages", name, "README.md"), "utf8"))
    writeFileSync(join(folder, "example.ts"), example)
    checkTypes(folder)
    const inNode = runInNode(folder)
    const inBrowser = await runBundled(folder)
    if (inNode !== inBrowser) throw new Error(`Node prints "${inNode}", the browser bundle "${inBrowser}"`)
    console.log(`@iommu/${name}: packed, installed alone, example runs in Node and bundled: ${inNode.trim()}`)
  } catch (error) {
    failed++
    console.error(`@iommu/${name}: ${describeFailure(error)}`)
  }
}

/** What registries, bundlers and TypeScript's resolution modes make of the tarball. */
function checkPackage(tarball: string): void {
  const bin = join(import.meta.dirname, "../node_modules/.bin")
  execFileSync(join(bin, "publint"), ["run", tarball, "--strict"], { stdio: "pipe" })
  execFileSync(join(bin, "attw"), [tarball, "--profile", "esm-only"], { stdio: "pipe" })
}

/** A folder with the package and its own `@iommu` dependencies, nothing else. */
function install(name: string, tarballs: ReadonlyMap<string, string>): string {
  const folder = join(work, name)
  mkdirSync(folder)
  writeFileSync(join(folder, "package.json"), JSON.stringify({ private: true, type: "module" }))
  const needed = [...closure(name)].map(part => tarballs.get(part) as string)
  execFileSync("npm", ["install", "--silent", "--no-audit", "--no-fund", ...needed], {
    cwd: folder,
    stdio: "inherit",
  })
  return folder
}

function closure(name: string, found: Set<string> = new Set()): Set<string> {
  if (found.has(name)) return found
  found.add(name)
  const { dependencies, peerDependencies } = JSON.parse(
    readFileSync(join(root, "packages", name, "package.json"), "utf8"),
  ) as { dependencies?: Record<string, string>; peerDependencies?: Record<string, string> }
  for (const dependency of Object.keys({ ...dependencies, ...peerDependencies })) {
    closure(dependency.replace("@iommu/", ""), found)
  }
  return found
}

/** Against the published declarations, as strictly as a careful user would. */
function checkTypes(folder: string): void {
  const options = {
    compilerOptions: {
      target: "ES2023",
      lib: ["ES2023", "DOM"],
      module: "NodeNext",
      strict: true,
      noEmit: true,
      types: [],
      exactOptionalPropertyTypes: true,
    },
    files: ["example.ts"],
  }
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(options))
  execFileSync(join(root, "node_modules/.bin/tsc"), ["-p", "tsconfig.json"], { cwd: folder, stdio: "pipe" })
}

function runInNode(folder: string): string {
  return execFileSync(process.execPath, ["example.ts"], { cwd: folder, encoding: "utf8" })
}

/** A context without Node's globals stands for the browser: only the language and a console. */
async function runBundled(folder: string): Promise<string> {
  const { outputFiles } = await build({
    entryPoints: [join(folder, "example.ts")],
    bundle: true,
    platform: "browser",
    format: "iife",
    target: "es2023",
    write: false,
  })
  let printed = ""
  const log = (...parts: unknown[]): void => {
    printed += `${parts.map(String).join(" ")}\n`
  }
  runInContext(outputFiles[0]?.text ?? "", createContext({ console: { log } }))
  return printed
}

/** A command's own output says more than that it failed. */
function describeFailure(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const output =
    "stdout" in error ? `${String(error.stdout)}${"stderr" in error ? String(error.stderr) : ""}` : ""
  return `${error.message}\n${output}`.trimEnd()
}
