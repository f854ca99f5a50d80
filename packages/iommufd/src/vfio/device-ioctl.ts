/** The ioctls of a device's own file, byte by byte, as far as they concern its DMA. */
import { IommuError } from "@iommu/core"
import type { Process } from "../process/process.ts"
import { checkArgsz, checkFlags, readArgsz, type VfioArgument } from "./argument.ts"
import {
  VFIO_DEVICE_ATTACH_PASID,
  VFIO_DEVICE_DETACH_PASID,
  VFIO_DEVICE_FLAGS_PCI,
  VfioDeviceCommand,
} from "./constants.ts"
import type { VfioDeviceFile } from "./device-file.ts"
import {
  VFIO_ATTACH,
  VFIO_BIND,
  VFIO_BIND_MIN_BYTES,
  VFIO_DETACH,
  VFIO_DEVICE_INFO,
  VFIO_DEVICE_INFO_MIN_BYTES,
} from "./structs.ts"

/** @throws ENOTTY for a command that is none of these, EFAULT, E2BIG, and what the call throws */
export function vfioDeviceIoctl(
  file: VfioDeviceFile,
  process: Process,
  command: number,
  argument: VfioArgument,
): number {
  switch (command) {
    case VfioDeviceCommand.BIND_IOMMUFD:
      bind(file, process, argument)
      return 0
    case VfioDeviceCommand.ATTACH_IOMMUFD_PT:
      attach(file, argument)
      return 0
    case VfioDeviceCommand.DETACH_IOMMUFD_PT:
      detach(file, argument)
      return 0
    case VfioDeviceCommand.GET_INFO:
      getInfo(file, argument)
      return 0
    default:
      throw new IommuError("ENOTTY", `the device has no command 0x${command.toString(16)}`)
  }
}

function bind(file: VfioDeviceFile, process: Process, argument: VfioArgument): void {
  const argsz = readArgsz(argument, VFIO_BIND_MIN_BYTES)
  const known = Math.min(argsz, VFIO_BIND.size)
  const request = VFIO_BIND.decode(extended(argument.read(known), VFIO_BIND.size))
  argument.checkZero(known, argsz)
  // The one flag that Linux knows passes a token for virtual functions, which these devices do not ask for.
  checkFlags(request.flags, 0)
  const outDevid = file.bindIommufd(process, request.iommufd)
  try {
    argument.write(VFIO_BIND.encode({ ...request, outDevid }).subarray(0, VFIO_BIND_MIN_BYTES))
  } catch (error) {
    file.close()
    throw error
  }
}

function attach(file: VfioDeviceFile, argument: VfioArgument): void {
  const { ptId, pasid, argsz, flags } = readWithPasid(argument, 12, VFIO_ATTACH, VFIO_DEVICE_ATTACH_PASID)
  const withPasid = (flags & VFIO_DEVICE_ATTACH_PASID) !== 0
  const used = withPasid ? file.attach(ptId, pasid) : file.attach(ptId)
  try {
    argument.write(VFIO_ATTACH.encode({ argsz, flags, ptId: used, pasid: 0 }).subarray(0, 12))
  } catch (error) {
    file.detach(withPasid ? pasid : undefined)
    throw error
  }
}

function detach(file: VfioDeviceFile, argument: VfioArgument): void {
  const { flags, pasid } = readWithPasid(argument, 8, VFIO_DETACH, VFIO_DEVICE_DETACH_PASID)
  file.detach((flags & VFIO_DEVICE_DETACH_PASID) === 0 ? undefined : pasid)
}

function getInfo(file: VfioDeviceFile, argument: VfioArgument): void {
  const { numRegions, numIrqs } = file.info()
  const argsz = readArgsz(argument, VFIO_DEVICE_INFO_MIN_BYTES)
  const info = {
    argsz: VFIO_DEVICE_INFO.size,
    flags: VFIO_DEVICE_FLAGS_PCI,
    numRegions,
    numIrqs,
    capOffset: 0,
    pad: 0,
  }
  argument.write(VFIO_DEVICE_INFO.encode(info).subarray(0, Math.min(argsz, VFIO_DEVICE_INFO.size)))
}

interface Layout<Value> {
  readonly size: number
  decode(bytes: Uint8Array): Value
}

/** A struct whose last member, the PASID, is there only with the flag. */
function readWithPasid<Value>(
  argument: VfioArgument,
  least: number,
  layout: Layout<Value>,
  flag: number,
): Value {
  const head = argument.read(least)
  const view = new DataView(head.buffer, head.byteOffset, least)
  const argsz = view.getUint32(0, true)
  const flags = view.getUint32(4, true)
  checkArgsz(argsz, least)
  checkFlags(flags, flag)
  if (flags === 0) return layout.decode(extended(head, layout.size))
  checkArgsz(argsz, layout.size)
  return layout.decode(argument.read(layout.size))
}

function extended(bytes: Uint8Array, size: number): Uint8Array {
  const whole = new Uint8Array(size)
  whole.set(bytes)
  return whole
}
