/** How a kernel learns of the IOMMU: ACPI tables beside QEMU's own, or a changed copy of QEMU's device tree. */
import { spawnSync } from "node:child_process"
import { readFileSync, writeFileSync } from "node:fs"
import type { Mmio } from "@iommu/core"
import { describeBinary, type QemuBinary, type WorkFolder } from "@iommu/qemu"
import { encodeDeviceTree, parseDeviceTree, type TreeNode } from "../firmware/device-tree.ts"

/** What firmware has to know of the hardware. */
export interface FirmwareFacts {
  readonly mmio: Mmio
  /** Requester id of the function that the IOMMU has beside its registers. */
  readonly companionDevice: number
}

export type Firmware =
  | { readonly kind: "acpi"; tables(facts: FirmwareFacts): Uint8Array[] }
  | { readonly kind: "device tree"; change(root: TreeNode): void }

/** @param machine QEMU's arguments that shape the board */
export function firmwareArguments(
  firmware: Firmware,
  facts: FirmwareFacts,
  binary: QemuBinary,
  machine: readonly string[],
  folder: WorkFolder,
): string[] {
  switch (firmware.kind) {
    case "acpi":
      return firmware.tables(facts).flatMap((table, n) => {
        const path = folder.file(`table${n}`)
        writeFileSync(path, table)
        return ["-acpitable", `file=${path}`]
      })
    case "device tree": {
      const path = folder.file("device-tree")
      const tree = parseDeviceTree(dumpDeviceTree(binary, machine, path))
      firmware.change(tree)
      writeFileSync(path, encodeDeviceTree(tree))
      return ["-dtb", path]
    }
  }
}

/** The tree that QEMU would hand to a kernel on this board. @throws Error with QEMU's words */
function dumpDeviceTree(binary: QemuBinary, machine: readonly string[], path: string): Uint8Array {
  const [program, ...before] = binary.command
  const args = [...before, ...machine, "-machine", `dumpdtb=${path}`, "-display", "none"]
  const run = spawnSync(program, args, { encoding: "utf8", env: { ...process.env, ...binary.environment } })
  if (run.error) throw run.error
  if (run.status !== 0)
    throw new Error(`${describeBinary(binary)} gives no device tree: ${run.stderr.trim()}`)
  return readFileSync(path)
}
