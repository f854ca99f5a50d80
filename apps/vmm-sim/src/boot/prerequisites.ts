/** QEMU and a kernel: found, fetched on request, or missed in one sentence that says how to get them. */
import { discoverQemu, fetchQemu, isAtLeast, type QemuBinary } from "@iommu/qemu"
import { describeKernel, fetchGuest, findGuest, type GuestFiles, type GuestKernel } from "./guest/kernels.ts"
import type { BootPlatform, Release } from "./platform.ts"
import { transportOf } from "./transport/attach.ts"

/** Something that this machine lacks. */
export class MissingError extends Error {}

/** What a boot of one vendor with one release's kernel takes. */
export interface Requirements {
  readonly platform: BootPlatform
  readonly release: Release
  readonly kernel: GuestKernel
}

export interface Prerequisites {
  readonly binary: QemuBinary
  readonly files: GuestFiles
}

/** @throws MissingError with a sentence that says which command fetches it */
export function findPrerequisites(required: Requirements): Prerequisites {
  const { platform, release, kernel } = required
  const fetch = `npx -y pnpm@12 vmm-sim boot --vendor ${platform.name} --release ${release} --fetch`
  const binary = findBinary(required)
  if (binary === null) throw new MissingError(`no QEMU here can run this boot: ${fetch} gets one`)
  const files = findGuest(kernel)
  if (files === null)
    throw new MissingError(`${describeKernel(kernel)} is not in the cache: ${fetch} gets it`)
  return { binary, files }
}

/** Gets with apt what {@link findPrerequisites} misses, into the git-ignored cache. @throws Error when it cannot */
export function fetchPrerequisites(required: Requirements): void {
  if (findBinary(required) === null) fetchQemu(suiteOf(required))
  if (findGuest(required.kernel) === null) fetchGuest(required.kernel)
}

/**
 * Kernels are paired with a QEMU of their time: 7.2 crashes at random on newer ones. Of those that can, the oldest
 * for bookworm's kernels and the newest for later ones.
 */
function findBinary({ platform, release }: Requirements): QemuBinary | null {
  const able = discoverQemu().binaries.filter(
    binary =>
      binary.target === platform.board.target &&
      transportOf(binary) !== null &&
      (release === "bookworm" || isAtLeast(binary, 10, 1)),
  )
  return (release === "bookworm" ? able[0] : able.at(-1)) ?? null
}

/** Bookworm's x86 QEMU has a transport; Arm's has one from 10.1 on. */
function suiteOf({ platform, release }: Requirements): string {
  return release === "bookworm" && platform.board.target === "x86_64" ? "bookworm" : "trixie-backports"
}
