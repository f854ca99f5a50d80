/** A QEMU that can be started, and what it says about itself. */

export type QemuTarget = "x86_64" | "aarch64"

export const QEMU_TARGETS: readonly QemuTarget[] = ["x86_64", "aarch64"]

export interface QemuBinary {
  readonly target: QemuTarget
  /** Upstream's version, as `-version` prints it: `10.0.2`. */
  readonly version: string
  /** Where it came from: `system` for one on PATH, the Debian suite of an unpacked one, `given` for a path. */
  readonly origin: string
  /** The program and the arguments that come before QEMU's own: an unpacked QEMU runs through its own loader. */
  readonly command: readonly [program: string, ...args: string[]]
  /** Added to the environment. */
  readonly environment: Readonly<Record<string, string>>
  /** Names of machines, from `-machine help`. */
  readonly machines: ReadonlySet<string>
  /** Names of devices, from `-device help`. */
  readonly devices: ReadonlySet<string>
  /** Names of accelerators, from `-accel help`. */
  readonly accelerators: ReadonlySet<string>
}

/** Major and minor version, for recipes: 10.2 is `[10, 2]`. */
export function versionOf(binary: QemuBinary): readonly [major: number, minor: number] {
  const [major = 0, minor = 0] = binary.version.split(".").map(Number)
  return [major, minor]
}

/** True for a QEMU of this release or a later one. */
export function isAtLeast(binary: QemuBinary, major: number, minor: number): boolean {
  const [hasMajor, hasMinor] = versionOf(binary)
  return hasMajor > major || (hasMajor === major && hasMinor >= minor)
}

/** One line for people: `QEMU 10.0.2 aarch64 (bookworm-backports)`. */
export function describeBinary(binary: QemuBinary): string {
  return `QEMU ${binary.version} ${binary.target} (${binary.origin})`
}
