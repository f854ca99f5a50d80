/** The guest's RAM: a file that QEMU maps and this process reads and writes. */
import { closeSync, ftruncateSync, openSync, readSync, writeSync } from "node:fs"
import type { MemoryBacking } from "@iommu/core"

export interface RamFile extends MemoryBacking {
  readonly path: string
  close(): void
}

/**
 * Makes the file, sparse and all zero.
 * @param bytes whole pages
 */
export function createRamFile(path: string, bytes: number): RamFile {
  const file = openSync(path, "w+", 0o600)
  ftruncateSync(file, bytes)
  return {
    path,
    load: (offset, into) => {
      readSync(file, into, 0, into.length, offset)
    },
    store: (offset, from) => {
      writeSync(file, from, 0, from.length, offset)
    },
    close: () => closeSync(file),
  }
}
