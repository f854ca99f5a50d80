/** Debian kernels and busybox for guests: which there are, where they lie, and how to get them. */
import { spawnSync } from "node:child_process"
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from "node:fs"
import { join } from "node:path"

/** Git ignores it. */
const CACHE = join(import.meta.dirname, "../../../../../.cache/guest")
const SCRIPT = join(import.meta.dirname, "../../../../../tooling/debian/fetch-guest.sh")

export interface GuestKernel {
  readonly suite: string
  readonly architecture: "amd64" | "arm64"
  /** The package that depends on the newest image of its kind. */
  readonly package: string
  /** Modules to load before the disk is there, by their path below the kernel's folder. */
  readonly modules: readonly string[]
}

/** NVMe and the drivers of Intel's and Arm's IOMMUs are built in; AMD's is left out. */
export function cloudKernel(suite: string, architecture: "amd64" | "arm64"): GuestKernel {
  return { suite, architecture, package: `linux-image-cloud-${architecture}`, modules: [] }
}

/** All drivers; NVMe as modules. */
export const GENERIC_6_1: GuestKernel = {
  suite: "bookworm",
  architecture: "amd64",
  package: "linux-image-amd64",
  modules: [
    "kernel/crypto/crct10dif_common.ko",
    "kernel/lib/crc-t10dif.ko",
    "kernel/lib/crc64.ko",
    "kernel/lib/crc64-rocksoft.ko",
    "kernel/block/t10-pi.ko",
    "kernel/drivers/nvme/host/nvme-core.ko",
    "kernel/drivers/nvme/host/nvme.ko",
  ],
}

/** The same of Debian 13: checksums are built in, modules compressed, which busybox takes as they are. */
export const GENERIC_6_12: GuestKernel = {
  suite: "trixie",
  architecture: "amd64",
  package: "linux-image-amd64",
  modules: [
    "kernel/drivers/nvme/common/nvme-auth.ko.xz",
    "kernel/drivers/nvme/host/nvme-core.ko.xz",
    "kernel/drivers/nvme/host/nvme.ko.xz",
  ],
}

export interface GuestFiles {
  readonly vmlinuz: string
  /** `6.1.0-50-cloud-amd64`. */
  readonly release: string
  /** Folder of the kernel's modules. */
  readonly modules: string
  readonly busybox: string
}

/** @returns null when it is not in the cache */
export function findGuest(kernel: GuestKernel): GuestFiles | null {
  const folder = folderOf(kernel)
  const boot = join(folder, "boot")
  const name = existsSync(boot) ? readdirSync(boot).find(file => file.startsWith("vmlinuz-")) : undefined
  if (name === undefined) return null
  const release = name.slice("vmlinuz-".length)
  const [modules, busybox] = [`lib/modules/${release}`, "bin/busybox"].map(path => inUsr(folder, path))
  if (modules === undefined || busybox === undefined) return null
  return { vmlinuz: join(boot, name), release, modules, busybox }
}

/**
 * Downloads 27 MB (cloud) or 70 MB (all drivers) and unpacks them, once.
 * @throws Error when they cannot be had here
 */
export function fetchGuest(kernel: GuestKernel): void {
  const folder = folderOf(kernel)
  if (existsSync(folder)) return
  mkdirSync(CACHE, { recursive: true })
  // Under another name until it is whole: a run that is cut short leaves nothing that looks like a kernel.
  const partial = mkdtempSync(join(CACHE, ".partial-"))
  try {
    const args = [SCRIPT, kernel.suite, kernel.architecture, kernel.package, partial]
    const run = spawnSync("sh", args, { encoding: "utf8" })
    if (run.error) throw run.error
    if (run.status !== 0) throw new Error(run.stderr.trim())
    renameSync(partial, folder)
  } finally {
    rmSync(partial, { recursive: true, force: true })
  }
}

/** For people: `linux-image-cloud-amd64 of bookworm`. */
export function describeKernel(kernel: GuestKernel): string {
  return `${kernel.package} of ${kernel.suite}`
}

function folderOf(kernel: GuestKernel): string {
  return join(CACHE, `${kernel.suite}-${kernel.package}`)
}

/** Since trixie packages have `/bin` and `/lib` in `/usr`. */
function inUsr(folder: string, path: string): string | undefined {
  return [join(folder, path), join(folder, "usr", path)].find(existsSync)
}
