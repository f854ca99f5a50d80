import type { CacheInvalidateData } from "@iommu/core"
import { type Iommufd, type Process, type VeventFile, VfioDeviceFile } from "@iommu/iommufd"
import type { GuestEvents, HwptRequest, KernelCalls } from "./calls.ts"
import { EventStream } from "./event-stream.ts"

/** More than waits in a queue between two DMAs. */
const READ_BYTES = 4096

/** Calls of a VMM that is written in TypeScript: the methods of an open iommufd. */
export class TypedCalls implements KernelCalls {
  count = 0
  readonly #iommufd: Iommufd
  readonly #process: Process
  readonly #queues = new Map<number, { readonly file: VeventFile; readonly stream: EventStream }>()

  constructor(iommufd: Iommufd) {
    this.#iommufd = iommufd
    this.#process = iommufd.process
  }

  bind(deviceFd: number): number {
    return this.#device(deviceFd).bindIommufd(this.#process, this.#iommufd.fd)
  }

  attach(deviceFd: number, ptId: number): void {
    this.#device(deviceFd).attach(ptId)
  }

  detach(deviceFd: number): void {
    this.#device(deviceFd).detach()
  }

  close(fd: number): void {
    this.#counted().process.files.close(fd)
  }

  ioasAlloc(): number {
    return this.#counted().ioasAlloc()
  }

  ioasMap(ioasId: number, userVa: bigint, iova: bigint, length: bigint): void {
    this.#counted().ioasMap({ ioasId, userVa, iova, length, readable: true, writeable: true })
  }

  ioasUnmap(ioasId: number, iova: bigint, length: bigint): void {
    this.#counted().ioasUnmap(ioasId, iova, length)
  }

  hwptAlloc({ data, ...request }: HwptRequest): number {
    return this.#counted().hwptAlloc({ ...request, ...(data === null ? {} : { data }) })
  }

  viommuAlloc(deviceId: number, hwptId: number, type: number): number {
    return this.#counted().viommuAlloc({ deviceId, hwptId, type }).id
  }

  vdeviceAlloc(viommuId: number, deviceId: number, virtualId: number): number {
    return this.#counted().vdeviceAlloc({ viommuId, deviceId, virtualId })
  }

  veventqAlloc(viommuId: number, type: number, depth: number): { readonly id: number; readonly fd: number } {
    const { id, fd, file } = this.#counted().veventqAlloc({ viommuId, type, depth })
    this.#queues.set(fd, { file, stream: new EventStream() })
    return { id, fd }
  }

  readEvents(fd: number, eventBytes: number): GuestEvents {
    const queue = this.#queues.get(fd)
    if (queue === undefined) throw new Error(`descriptor ${fd} is no event queue`)
    this.count++
    return queue.stream.decode(queue.file.read(READ_BYTES), eventBytes)
  }

  hwptInvalidate(id: number, data: CacheInvalidateData): void {
    const { error } = this.#counted().hwptInvalidate(id, data)
    if (error !== null) throw error
  }

  destroy(id: number): void {
    this.#counted().destroy(id)
  }

  #counted(): Iommufd {
    this.count++
    return this.#iommufd
  }

  #device(fd: number): VfioDeviceFile {
    this.count++
    const file = this.#process.files.get(fd)
    if (!(file instanceof VfioDeviceFile)) throw new Error(`descriptor ${fd} is no VFIO device`)
    return file
  }
}
