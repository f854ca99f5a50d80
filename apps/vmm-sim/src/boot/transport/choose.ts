/** Which transport a QEMU offers to functions that live outside of it. */
import type { QemuBinary } from "@iommu/qemu"
import type { BootPlatform } from "../platform.ts"

const TARGETS = { q35: "x86_64", virt: "aarch64" } as const
/** Debian builds it into x86's QEMU alone. */
const PROXY = "x-pci-proxy-dev"

/** For people, by machine. */
export const QEMU_NEEDED: Readonly<Record<BootPlatform["machine"], string>> = {
  q35: "Debian 12's qemu-system-x86 does",
  virt: "it takes qemu-system-arm 10.1 or later",
}

export function canServe(binary: QemuBinary, platform: BootPlatform): boolean {
  return binary.target === TARGETS[platform.machine] && binary.devices.has(PROXY)
}
