/** A QEMU unpacked from Debian packages into a folder, run through that folder's own loader and libraries. */
import { existsSync, readdirSync, symlinkSync } from "node:fs"
import { dirname, join, relative } from "node:path"
import type { QemuCommand } from "./probe.ts"
import type { QemuTarget } from "./qemu-binary.ts"

/** @returns how to start it, or null when the folder does not have this QEMU and a loader for it */
export function unpackedCommand(folder: string, origin: string, target: QemuTarget): QemuCommand | null {
  const program = join(folder, "usr/bin", `qemu-system-${target}`)
  const libraries = libraryFolders(folder)
  const [loader] = loadersIn(libraries)
  if (loader === undefined || !existsSync(program)) return null
  return { origin, command: [loader, "--library-path", libraries.join(":"), program], environment: {} }
}

/**
 * Lets an unpacked QEMU find its modules and firmware in the folder: it looks for them under `qemu-bundle` beside
 * the running program, which is the loader, before it looks where its package would have put them.
 * @throws Error when the folder has no loader
 */
export function bundleUnpacked(folder: string): void {
  const [loader] = loadersIn(libraryFolders(folder))
  if (loader === undefined) throw new Error(`${folder} has no dynamic loader`)
  symlinkSync(relative(dirname(loader), folder), join(dirname(loader), "qemu-bundle"))
}

/** `lib/x86_64-linux-gnu` and its like: Debian before trixie has libc in /lib, later ones in /usr/lib. */
function libraryFolders(folder: string): string[] {
  return ["lib", "usr/lib"].flatMap(path =>
    namesIn(join(folder, path))
      .filter(name => name.includes("-linux-gnu"))
      .map(name => join(folder, path, name)),
  )
}

function loadersIn(folders: readonly string[]): string[] {
  return folders.flatMap(folder =>
    namesIn(folder)
      .filter(name => /^ld-linux.*\.so\.\d+$/.test(name))
      .map(name => join(folder, name)),
  )
}

function namesIn(path: string): string[] {
  return existsSync(path) ? readdirSync(path) : []
}
