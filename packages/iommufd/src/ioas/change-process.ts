/** IOAS_CHANGE_PROCESS: after a VMM replaced itself, the new process answers for the pinned pages. */
import { IommuError } from "@iommu/core"
import type { PinCharge } from "../memory/pin-accounting.ts"
import { moveCharges } from "../memory/pin-accounting.ts"
import type { Process } from "../process/process.ts"
import type { Ioas } from "./ioas.ts"

/**
 * @param ioases all of a context
 * @throws EINVAL when an area shows memory of a process, which the new one does not have; ENOMEM over its limit
 */
export function changeProcess(ioases: Iterable<Ioas>, process: Process): void {
  const charges = new Set<PinCharge>()
  for (const ioas of ioases) {
    for (const { pages } of ioas.areas) {
      if (!pages.fromFile) throw new IommuError("EINVAL", "only areas of files can change their process")
      if (pages.kind === "pinned") charges.add(pages.charge)
    }
  }
  moveCharges(charges, process)
}
