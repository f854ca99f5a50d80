/**
 * Runs in a package's folder before `npm pack` or `pnpm pack`: builds it, and puts the published manifest in place of
 * the workspace's, which postpack.ts puts back.
 */
import { execFileSync } from "node:child_process"
import { copyFileSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { type Manifest, publishedManifest } from "./manifest.ts"

const root = join(import.meta.dirname, "../../..")
const manifestPath = "package.json"
const backupPath = "package.json.workspace"

if (existsSync(backupPath)) copyFileSync(backupPath, manifestPath)
rmSync("dist", { recursive: true, force: true })
execFileSync(join(root, "node_modules/.bin/tsc"), ["-p", "tsconfig.build.json"], { stdio: "inherit" })
copyFileSync(manifestPath, backupPath)
const published = publishedManifest(readManifest(manifestPath), workspaceVersions())
writeFileSync(manifestPath, `${JSON.stringify(published, null, 2)}\n`)

function workspaceVersions(): Map<string, string> {
  const versions = new Map<string, string>()
  for (const folder of readdirSync(join(root, "packages"))) {
    const path = join(root, "packages", folder, "package.json")
    const { name, version } = existsSync(`${path}.workspace`)
      ? readManifest(`${path}.workspace`)
      : readManifest(path)
    if (typeof name === "string" && typeof version === "string") versions.set(name, version)
  }
  return versions
}

function readManifest(path: string): Manifest {
  return JSON.parse(readFileSync(path, "utf8")) as Manifest
}
