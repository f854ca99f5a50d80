/** Finds the QEMUs of this machine: those on PATH, and those that {@link fetchQemu} unpacked. */
import { accessSync, constants, existsSync, readdirSync } from "node:fs"
import { delimiter, join } from "node:path"
import { probeBinary, type QemuCommand } from "./probe.ts"
import { QEMU_TARGETS, type QemuBinary } from "./qemu-binary.ts"
import { unpackedCommand } from "./unpacked.ts"

/** Where unpacked suites lie, one folder each: `.cache/qemu` of the repository. */
export const QEMU_CACHE: string = join(import.meta.dirname, "../../../../.cache/qemu")

export interface Discovery {
  /** Oldest version first. */
  readonly binaries: readonly QemuBinary[]
  /** What looks like a QEMU and does not run, one line each. */
  readonly unusable: readonly string[]
}

/**
 * A release that is there twice counts once, the one on PATH first.
 * @param cache folder of unpacked suites
 */
export function discoverQemu(cache: string = QEMU_CACHE): Discovery {
  const unusable: string[] = []
  const binaries: QemuBinary[] = []
  for (const start of [...onPath(), ...unpacked(cache)]) {
    try {
      const found = probeBinary(start)
      if (!binaries.some(known => isSameRelease(known, found))) binaries.push(found)
    } catch (error) {
      unusable.push(error instanceof Error ? error.message : String(error))
    }
  }
  return { binaries: binaries.sort(byVersion), unusable }
}

/**
 * The QEMU of a path that somebody named.
 * @throws Error when it does not start or is none
 */
export function qemuAt(path: string): QemuBinary {
  return probeBinary({ origin: "given", command: [path], environment: {} })
}

function onPath(): QemuCommand[] {
  const folders = (process.env["PATH"] ?? "").split(delimiter)
  return QEMU_TARGETS.flatMap(target => {
    const found = folders.map(folder => join(folder, `qemu-system-${target}`)).find(isExecutable)
    return found === undefined ? [] : [{ origin: "system", command: [found], environment: {} }]
  })
}

function unpacked(cache: string): QemuCommand[] {
  const suites = existsSync(cache) ? readdirSync(cache).filter(name => !name.startsWith(".")) : []
  return suites.flatMap(suite =>
    QEMU_TARGETS.flatMap(target => unpackedCommand(join(cache, suite), suite, target) ?? []),
  )
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

function isSameRelease(a: QemuBinary, b: QemuBinary): boolean {
  return a.version === b.version && a.target === b.target
}

function byVersion(a: QemuBinary, b: QemuBinary): number {
  return a.version.localeCompare(b.version, undefined, { numeric: true }) || a.target.localeCompare(b.target)
}
