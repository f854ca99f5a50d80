/** Brings the QEMU of a Debian suite into the cache, beside whatever the system has. */
import { spawnSync } from "node:child_process"
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from "node:fs"
import { join } from "node:path"
import { QEMU_CACHE } from "./discover.ts"
import { bundleUnpacked } from "./unpacked.ts"

const SCRIPT = join(import.meta.dirname, "../../../debian/fetch-closure.sh")
const PACKAGES = ["qemu-system-x86", "qemu-system-arm"]
const SUITE = /^[a-z]+(-backports)?$/

/**
 * Downloads about 45 MB and unpacks 220 MB, once; nothing happens when the suite is in the cache already.
 * @param suite `bookworm`, `bookworm-backports`, `trixie-backports`…
 * @throws Error when it cannot be had here (no apt, no network, no such suite)
 */
export function fetchQemu(suite: string, cache: string = QEMU_CACHE): void {
  if (!SUITE.test(suite)) throw new Error(`${suite} is not the name of a Debian suite`)
  const folder = join(cache, suite)
  if (existsSync(folder)) return
  mkdirSync(cache, { recursive: true })
  // Under another name until it is whole: a run that is cut short leaves nothing that looks like a suite.
  const partial = mkdtempSync(join(cache, ".partial-"))
  try {
    const run = spawnSync("sh", [SCRIPT, suite, partial, ...PACKAGES], { encoding: "utf8" })
    if (run.error) throw run.error
    if (run.status !== 0) throw new Error(run.stderr.trim())
    bundleUnpacked(partial)
    renameSync(partial, folder)
  } finally {
    rmSync(partial, { recursive: true, force: true })
  }
}
