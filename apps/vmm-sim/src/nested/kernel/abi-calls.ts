/** The same calls as a program in C makes them: structs and their data in the process's memory, and numbers. */
import { type CacheInvalidateData, invalidateToBytes, type StructLayout, userDataToBytes } from "@iommu/core"
import * as abi from "@iommu/iommufd"
import type { GuestEvents, HwptRequest, KernelCalls } from "./calls.ts"
import { EventStream } from "./event-stream.ts"

/** Room for what a struct points to. */
const DATA_BYTES = 4096

/** Where the process keeps arguments: a page for structs, a page for what they point to. */
export interface ArgumentPages {
  readonly struct: bigint
  readonly data: bigint
}

export class AbiCalls implements KernelCalls {
  count = 0
  readonly #iommufd: abi.Iommufd
  readonly #process: abi.Process
  readonly #pages: ArgumentPages
  readonly #streams = new Map<number, EventStream>()

  constructor(iommufd: abi.Iommufd, pages: ArgumentPages) {
    this.#iommufd = iommufd
    this.#process = iommufd.process
    this.#pages = pages
  }

  bind(deviceFd: number): number {
    const { size } = abi.VFIO_BIND
    const value = { argsz: size, flags: 0, iommufd: this.#iommufd.fd, outDevid: 0, tokenUuidPtr: 0n }
    return this.#deviceIoctl(deviceFd, abi.VfioDeviceCommand.BIND_IOMMUFD, abi.VFIO_BIND, value).outDevid
  }

  attach(deviceFd: number, ptId: number): void {
    const value = { argsz: abi.VFIO_ATTACH.size, flags: 0, ptId, pasid: 0 }
    this.#deviceIoctl(deviceFd, abi.VfioDeviceCommand.ATTACH_IOMMUFD_PT, abi.VFIO_ATTACH, value)
  }

  detach(deviceFd: number): void {
    const value = { argsz: abi.VFIO_DETACH.size, flags: 0, pasid: 0 }
    this.#deviceIoctl(deviceFd, abi.VfioDeviceCommand.DETACH_IOMMUFD_PT, abi.VFIO_DETACH, value)
  }

  close(fd: number): void {
    this.count++
    this.#process.files.close(fd)
  }

  ioasAlloc(): number {
    const value = { size: abi.IOMMU_IOAS_ALLOC.size, flags: 0, outIoasId: 0 }
    return this.#ioctl(abi.IommufdCommand.IOAS_ALLOC, abi.IOMMU_IOAS_ALLOC, value).outIoasId
  }

  ioasMap(ioasId: number, userVa: bigint, iova: bigint, length: bigint): void {
    const flags = abi.IOAS_MAP_FIXED_IOVA | abi.IOAS_MAP_READABLE | abi.IOAS_MAP_WRITEABLE
    const value = { size: abi.IOMMU_IOAS_MAP.size, flags, ioasId, __reserved: 0, userVa, length, iova }
    this.#ioctl(abi.IommufdCommand.IOAS_MAP, abi.IOMMU_IOAS_MAP, value)
  }

  ioasUnmap(ioasId: number, iova: bigint, length: bigint): void {
    const value = { size: abi.IOMMU_IOAS_UNMAP.size, ioasId, iova, length }
    this.#ioctl(abi.IommufdCommand.IOAS_UNMAP, abi.IOMMU_IOAS_UNMAP, value)
  }

  hwptAlloc({ deviceId, parentId, flags, data }: HwptRequest): number {
    const bytes = data === null ? new Uint8Array() : userDataToBytes(data)
    const value = {
      size: abi.IOMMU_HWPT_ALLOC.size,
      flags,
      devId: deviceId,
      ptId: parentId,
      outHwptId: 0,
      __reserved: 0,
      dataType: data?.type ?? 0,
      dataLen: bytes.length,
      dataUptr: data === null ? 0n : this.#putData(bytes),
      faultId: 0,
      __reserved2: 0,
    }
    return this.#ioctl(abi.IommufdCommand.HWPT_ALLOC, abi.IOMMU_HWPT_ALLOC, value).outHwptId
  }

  viommuAlloc(deviceId: number, hwptId: number, type: number): number {
    const value = {
      size: abi.IOMMU_VIOMMU_ALLOC.size,
      flags: 0,
      type,
      devId: deviceId,
      hwptId,
      outViommuId: 0,
      dataLen: 0,
      __reserved: 0,
      dataUptr: 0n,
    }
    return this.#ioctl(abi.IommufdCommand.VIOMMU_ALLOC, abi.IOMMU_VIOMMU_ALLOC, value).outViommuId
  }

  vdeviceAlloc(viommuId: number, deviceId: number, virtualId: number): number {
    const { size } = abi.IOMMU_VDEVICE_ALLOC
    const value = { size, viommuId, devId: deviceId, outVdeviceId: 0, virtId: BigInt(virtualId) }
    return this.#ioctl(abi.IommufdCommand.VDEVICE_ALLOC, abi.IOMMU_VDEVICE_ALLOC, value).outVdeviceId
  }

  veventqAlloc(viommuId: number, type: number, depth: number): { readonly id: number; readonly fd: number } {
    const value = {
      size: abi.IOMMU_VEVENTQ_ALLOC.size,
      flags: 0,
      viommuId,
      type,
      veventqDepth: depth,
      outVeventqId: 0,
      outVeventqFd: 0,
      __reserved: 0,
    }
    const out = this.#ioctl(abi.IommufdCommand.VEVENTQ_ALLOC, abi.IOMMU_VEVENTQ_ALLOC, value)
    this.#streams.set(out.outVeventqFd, new EventStream())
    return { id: out.outVeventqId, fd: out.outVeventqFd }
  }

  readEvents(fd: number, eventBytes: number): GuestEvents {
    const stream = this.#streams.get(fd)
    const file = this.#process.files.get(fd)
    if (stream === undefined || !isQueueFile(file)) throw new Error(`descriptor ${fd} is no event queue`)
    this.count++
    const { memory } = this.#process
    const length = file.readTo(memory, this.#pages.data, DATA_BYTES)
    return stream.decode(memory.read(this.#pages.data, length), eventBytes)
  }

  hwptInvalidate(id: number, data: CacheInvalidateData): void {
    const entries = invalidateToBytes(data)
    const entryLen = entries[0]?.length ?? 0
    const value = {
      size: abi.IOMMU_HWPT_INVALIDATE.size,
      hwptId: id,
      dataUptr: this.#putData(concatenated(entries)),
      dataType: data.type,
      entryLen,
      entryNum: entries.length,
      __reserved: 0,
    }
    this.#ioctl(abi.IommufdCommand.HWPT_INVALIDATE, abi.IOMMU_HWPT_INVALIDATE, value)
  }

  destroy(id: number): void {
    this.#ioctl(abi.IommufdCommand.DESTROY, abi.IOMMU_DESTROY, { size: abi.IOMMU_DESTROY.size, id })
  }

  /** @returns the struct as the kernel wrote it back */
  #ioctl<Value>(command: number, layout: Layout<Value>, value: Value): Value {
    return this.#call(layout, value, () => this.#iommufd.ioctlAt(command, this.#pages.struct))
  }

  #deviceIoctl<Value>(fd: number, command: number, layout: Layout<Value>, value: Value): Value {
    const file = this.#process.files.get(fd)
    if (!(file instanceof abi.VfioDeviceFile)) throw new Error(`descriptor ${fd} is no VFIO device`)
    const argument = abi.memoryArgument(this.#process.memory, this.#pages.struct)
    return this.#call(layout, value, () => abi.vfioDeviceIoctl(file, this.#process, command, argument))
  }

  #call<Value>({ size, encode, decode }: Layout<Value>, value: Value, ioctl: () => number): Value {
    const { memory } = this.#process
    memory.write(this.#pages.struct, encode(value))
    this.count++
    ioctl()
    return decode(memory.read(this.#pages.struct, size))
  }

  #putData(bytes: Uint8Array): bigint {
    if (bytes.length > DATA_BYTES) throw new Error("a call's data fits into one page")
    this.#process.memory.write(this.#pages.data, bytes)
    return this.#pages.data
  }
}

/** The part of a {@link StructLayout} that a call needs. */
interface Layout<Value> {
  readonly size: number
  encode(value: Value): Uint8Array
  decode(bytes: Uint8Array): Value
}

function isQueueFile(file: abi.UserFile): file is abi.QueueFile {
  return "readTo" in file
}

function concatenated(pieces: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(pieces.flatMap(piece => [...piece]))
}
