/** QEMU and a kernel: found, fetched on request, or missed in one sentence that says how to get them. */
import { discoverQemu, fetchQemu, type QemuBinary } from "@iommu/qemu"
import { describeKernel, fetchGuest, findGuest, type GuestFiles } from "./guest/kernels.ts"
import type { BootPlatform } from "./platform.ts"
import { canServe, QEMU_NEEDED } from "./transport/choose.ts"

/** Something that this machine lacks. */
export class MissingError extends Error {}

export interface Prerequisites {
  readonly binary: QemuBinary
  readonly files: GuestFiles
}

/** @throws MissingError with a sentence that says what to install, or which command fetches it */
export function findPrerequisites(platform: BootPlatform): Prerequisites {
  const binary = findBinary(platform)
  const files = findGuest(platform.kernel)
  const fetch = `npx -y pnpm@12 vmm-sim boot --vendor ${platform.name} --fetch`
  if (binary === null) {
    throw new MissingError(`no QEMU here can run this boot (${QEMU_NEEDED[platform.machine]}): run ${fetch}`)
  }
  if (files === null) {
    throw new MissingError(
      `the kernel (${describeKernel(platform.kernel)}) is not in the cache: run ${fetch}`,
    )
  }
  return { binary, files }
}

/** Gets what {@link findPrerequisites} misses, with apt, into the git-ignored cache. @throws Error when it cannot */
export function fetchPrerequisites(platform: BootPlatform): void {
  if (findBinary(platform) === null) fetchQemu(platform.qemuSuite)
  if (findGuest(platform.kernel) === null) fetchGuest(platform.kernel)
}

/** The oldest that can: kernels of a suite are paired with the QEMU of their time. */
function findBinary(platform: BootPlatform): QemuBinary | null {
  return discoverQemu().binaries.find(binary => canServe(binary, platform)) ?? null
}
