/** The guest's first file system: busybox, a script, and the modules that the kernel needs to see its disk. */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { type CpioEntry, cpioArchive } from "./cpio.ts"
import { type InitOptions, initScript } from "./init-script.ts"
import type { GuestFiles } from "./kernels.ts"

export interface InitramfsOptions extends Pick<InitOptions, "rogue"> {
  readonly files: GuestFiles
  /** Modules by their path below the kernel's folder, in the order in which they are loaded. */
  readonly modules: readonly string[]
}

export function buildInitramfs({ files, modules, rogue }: InitramfsOptions): Uint8Array {
  const inGuest = (path: string): string => `/lib/${path.slice(path.lastIndexOf("/") + 1)}`
  const script = initScript({ modules: modules.map(inGuest), rogue })
  const entries: CpioEntry[] = [
    { kind: "folder", path: "bin" },
    { kind: "folder", path: "lib" },
    { kind: "folder", path: "dev" },
    // The kernel opens it for the script before the script can make anything.
    { kind: "character device", path: "dev/console", major: 5, minor: 1 },
    { kind: "file", path: "bin/busybox", data: readFileSync(files.busybox), isExecutable: true },
    { kind: "file", path: "init", data: new TextEncoder().encode(script), isExecutable: true },
    ...modules.map(
      (path): CpioEntry => ({
        kind: "file",
        path: inGuest(path).slice(1),
        data: readFileSync(join(files.modules, path)),
        isExecutable: false,
      }),
    ),
  ]
  return cpioArchive(entries)
}
