/** IOMMU_OPTION, IOMMU_VFIO_IOAS and IOMMU_IOAS_CHANGE_PROCESS: what belongs to the file and not to an object. */
import { IommuError } from "@iommu/core"
import { changeProcess } from "../ioas/change-process.ts"
import type { PinPolicy } from "../memory/pin-accounting.ts"
import type { Process } from "../process/process.ts"
import type { IommufdContext } from "./iommufd-context.ts"

/** @throws EPERM without CAP_SYS_RESOURCE; EBUSY while any object exists */
export function checkRlimitModeChange({ objects }: IommufdContext, caller: Process): void {
  if (!caller.capable("CAP_SYS_RESOURCE")) {
    throw new IommuError("EPERM", "only CAP_SYS_RESOURCE may choose how pinned pages are counted")
  }
  if (!objects.isEmpty)
    throw new IommuError("EBUSY", "how pages are counted is chosen before anything is made")
}

export function setRlimitMode(context: IommufdContext, caller: Process, mode: PinPolicy["mode"]): void {
  checkRlimitModeChange(context, caller)
  context.pinPolicy.mode = mode
}

/** @returns id of the address space of the VFIO container ioctls. @throws ENODEV without one */
export function vfioIoas({ vfioIoas }: IommufdContext): number {
  if (vfioIoas === null) throw new IommuError("ENODEV", "no address space serves the VFIO container")
  return vfioIoas.id
}

/** @throws EINVAL when an area shows memory of a process; ENOMEM over the new one's limit; nothing is changed then */
export function changeOwner(context: IommufdContext, caller: Process): void {
  const ioases = context.objects.objects.flatMap(object => (object.kind === "ioas" ? [object.ioas] : []))
  changeProcess(ioases, caller)
  context.process = caller
}
