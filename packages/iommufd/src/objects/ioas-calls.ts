/** The IOAS commands above the address space itself: ids, limits of the arguments, and their order. */
import { IommuError, U64_MAX } from "@iommu/core"
import { Ioas } from "../ioas/ioas.ts"
import type { Process } from "../process/process.ts"
import { IoasObject } from "./ioas-object.ts"
import type { IommufdContext } from "./iommufd-context.ts"
import type { Draft } from "./object-table.ts"

/** What devices may do with a mapping, and where it goes. */
export interface MapPlacement {
  readonly ioasId: number
  readonly length: bigint
  /** null: anywhere. */
  readonly iova: bigint | null
  readonly readable: boolean
  readonly writeable: boolean
}

export interface IoasMapRequest extends MapPlacement {
  readonly userVa: bigint
}

export interface IoasMapFileRequest extends MapPlacement {
  readonly fd: number
  readonly start: bigint
}

export interface IoasCopyRequest extends MapPlacement {
  readonly sourceIoasId: number
  readonly sourceIova: bigint
}

/** @throws ENOMEM */
export function draftIoas(context: IommufdContext, { account }: Process): Draft<IoasObject> {
  return context.objects.draft(account, identity => {
    const ioas = new Ioas({ account, pinPolicy: context.pinPolicy })
    return new IoasObject(identity, context, ioas)
  })
}

/** @returns the IOVA */
export function ioasMap(context: IommufdContext, caller: Process, request: IoasMapRequest): bigint {
  checkPlacement(request)
  const { ioas } = context.objects.get(request.ioasId, "ioas")
  return ioas.map(caller, request)
}

/** @returns the IOVA */
export function ioasMapFile(context: IommufdContext, caller: Process, request: IoasMapFileRequest): bigint {
  checkPlacement(request)
  const { ioas } = context.objects.get(request.ioasId, "ioas")
  const { start, length } = request
  if (length === 0n) throw new IommuError("EINVAL", "a mapping is not empty")
  if (start + length - 1n > U64_MAX) throw new IommuError("EOVERFLOW", "the range ends beyond any file")
  return ioas.mapFile(caller, { ...request, file: caller.files.get(request.fd) })
}

/** @returns the IOVA in the destination */
export function ioasCopy({ objects }: IommufdContext, caller: Process, request: IoasCopyRequest): bigint {
  const { sourceIoasId, sourceIova, length, ioasId } = request
  checkBelowMax(sourceIova)
  checkPlacement(request)
  const source = objects.get(sourceIoasId, "ioas")
  if (length === 0n) throw new IommuError("EINVAL", "a mapping is not empty")
  if (sourceIova + length - 1n > U64_MAX) {
    throw new IommuError("EOVERFLOW", "the source ends beyond the last IOVA")
  }
  return objects.get(ioasId, "ioas").ioas.copyFrom(source.ioas, caller, request)
}

/** IOVA 0 with the largest length stands for everything. @returns bytes removed */
export function ioasUnmap({ objects }: IommufdContext, id: number, iova: bigint, length: bigint): bigint {
  const { ioas } = objects.get(id, "ioas")
  if (iova === 0n && length === U64_MAX) return ioas.unmapAll()
  checkBelowMax(iova)
  checkBelowMax(length)
  return ioas.unmap(iova, length)
}

/** @throws EOVERFLOW for the largest 64-bit value, which no address or length may be */
export function checkBelowMax(value: bigint): void {
  if (value >= U64_MAX) throw new IommuError("EOVERFLOW", "addresses and lengths are smaller than 2^64 - 1")
}

function checkPlacement({ iova, length, readable, writeable }: MapPlacement): void {
  checkBelowMax(iova ?? 0n)
  checkBelowMax(length)
  if (!readable && !writeable) throw new IommuError("EINVAL", "a mapping is readable, writeable or both")
}
