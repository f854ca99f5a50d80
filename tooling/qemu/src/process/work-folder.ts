/** A folder of one run for sockets, firmware and RAM files, gone with the run. */
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

export interface WorkFolder {
  /** Absolute path; short, because a UNIX socket's path has at most 107 bytes. */
  readonly path: string
  /** Path of a file in the folder. */
  file(name: string): string
  remove(): void
}

/** Removed by {@link WorkFolder.remove}, or when the process ends. */
export function makeWorkFolder(parent: string = tmpdir()): WorkFolder {
  const path = mkdtempSync(join(parent, "iommu-qemu-"))
  const remove = (): void => {
    process.off("exit", remove)
    rmSync(path, { recursive: true, force: true })
  }
  process.on("exit", remove)
  return { path, file: name => join(path, name), remove }
}
