/** An open /dev/iommu, as one process uses it: a method for each command, and the ioctl itself. */
import {
  type CacheInvalidateData,
  type CacheInvalidateResult,
  type DirtyBitmap,
  type DomainUserData,
  type IommuDevice,
  IommuError,
  toU64,
  type U64Like,
  userDataToBytes,
} from "@iommu/core"
import { bytesArgument, memoryArgument } from "./abi/argument.ts"
import { dispatch } from "./abi/dispatch.ts"
import type { PhysicalRun } from "./ioas/physical-run.ts"
import type { PinPolicy } from "./memory/pin-accounting.ts"
import { AccessObject, type AccessUser } from "./objects/access.ts"
import { type BindRequest, BoundDevice } from "./objects/device.ts"
import { type DirtyBitmapRequest, dirtyBitmap } from "./objects/dirty-bitmap.ts"
import type { FaultFile } from "./objects/fault-file.ts"
import { draftFaultQueue } from "./objects/fault-queue.ts"
import { type HwInfoReport, hwInfo } from "./objects/hw-info.ts"
import { draftHwQueue } from "./objects/hw-queue.ts"
import { draftHwpt } from "./objects/hwpt-alloc.ts"
import { invalidateValues } from "./objects/invalidate.ts"
import {
  draftIoas,
  ioasCopy,
  ioasMap,
  ioasMapFile,
  ioasUnmap,
  type MapPlacement,
} from "./objects/ioas-calls.ts"
import { IommufdContext } from "./objects/iommufd-context.ts"
import type { HardwareMapping, MmapRequest } from "./objects/mmap-offsets.ts"
import { checkRawIo, physicalRun } from "./objects/no-iommu.ts"
import { changeOwner, setRlimitMode, vfioIoas } from "./objects/options.ts"
import { type ContextState, contextState, type ServedUserData, servedUserData } from "./objects/state.ts"
import { type UserBytes, userBytes } from "./objects/user-bytes.ts"
import { draftVdevice } from "./objects/vdevice.ts"
import { draftVeventq, type VeventFile } from "./objects/veventq.ts"
import { draftViommu } from "./objects/viommu.ts"
import type { Process } from "./process/process.ts"
import { HWPT_FAULT_ID_VALID } from "./uapi/constants.ts"

/** Data for a driver: a value of core's kinds, or the bytes of any kind. */
export type UserData = DomainUserData | { readonly type: number; readonly bytes: Uint8Array }

export interface Range {
  readonly start: bigint
  readonly last: bigint
}

/** Where a mapping goes and what devices may do with it. */
export interface Placement {
  readonly ioasId: number
  readonly length: U64Like
  /** Left out: the address space chooses. */
  readonly iova?: U64Like
  readonly readable?: boolean
  readonly writeable?: boolean
}

export interface HwptRequest {
  readonly deviceId: number
  readonly parentId: number
  /** `IOMMU_HWPT_ALLOC_*`; FAULT_ID_VALID comes from {@link faultId}. */
  readonly flags?: number
  readonly data?: UserData
  readonly faultId?: number
}

export interface FaultQueueHandle {
  readonly id: number
  readonly fd: number
  readonly file: FaultFile
}

export interface VeventqHandle {
  readonly id: number
  readonly fd: number
  readonly file: VeventFile
}

/** Opens /dev/iommu. @throws EMFILE */
export function openIommufd(process: Process): Iommufd {
  const context = new IommufdContext(process)
  return new Iommufd(context, process, process.files.install(context))
}

export class Iommufd {
  readonly #context: IommufdContext
  readonly process: Process
  readonly fd: number

  constructor(context: IommufdContext, process: Process, fd: number) {
    this.#context = context
    this.process = process
    this.fd = fd
  }

  /** What is behind the descriptor, shared with the processes that have one. @throws EBADF when it is closed */
  get context(): IommufdContext {
    this.#checkOpen()
    return this.#context
  }

  /**
   * One ioctl, byte by byte. Pointers in the struct are addresses in the process's memory.
   * @param bytes the struct, written back in place
   * @returns what Linux returns: 0, or more for some of VFIO's commands
   * @throws ENOTTY, EFAULT, EINVAL, E2BIG and what the command throws
   */
  ioctl(command: number, bytes: Uint8Array): number {
    this.#checkOpen()
    return dispatch(this, command, bytesArgument(bytes))
  }

  /** {@link ioctl} with the struct in the process's memory. */
  ioctlAt(command: number, address: U64Like): number {
    this.#checkOpen()
    return dispatch(this, command, memoryArgument(this.process.memory, toU64(address, "address")))
  }

  /** Gives another process a descriptor of the same file. @throws EMFILE */
  passTo(other: Process): Iommufd {
    return new Iommufd(this.context, other, other.files.install(this.#context))
  }

  /** Closes this descriptor; with the last one everything goes, once no device is bound and no queue file is open. */
  close(): void {
    this.process.files.close(this.fd)
  }

  /**
   * Takes a device's DMA: what VFIO does for its owner.
   * @throws EBUSY, EPERM when its group belongs to another owner, ENOMEM
   */
  bindDevice(request: BindRequest): BoundDevice {
    const context = this.context
    return context.objects
      .draft(this.process.account, identity => new BoundDevice(identity, context, request))
      .publish()
  }

  /** Takes a device that has no IOMMU. @throws EPERM without CAP_SYS_RAWIO, EBUSY, ENOMEM */
  bindNoIommuDevice(device: IommuDevice): BoundDevice {
    checkRawIo(this.process)
    return this.bindDevice({ ops: this.context.noIommu, device })
  }

  /** Lets software of the kernel use address spaces: a mediated device. @throws ENOMEM */
  createAccess(user: AccessUser): AccessObject {
    const context = this.context
    return context.objects
      .draft(this.process.account, identity => new AccessObject(identity, context, user))
      .publish()
  }

  /** @throws ENOENT; EBUSY while something needs the object */
  destroy(id: number): void {
    this.context.objects.destroyById(id)
  }

  /** @returns id of a new address space */
  ioasAlloc(): number {
    return draftIoas(this.context, this.process).publish().id
  }

  /** Shows memory of the process to devices. @returns the IOVA */
  ioasMap(request: Placement & { readonly userVa: U64Like }): bigint {
    return ioasMap(this.context, this.process, {
      ...placementOf(request),
      userVa: toU64(request.userVa, "user address"),
    })
  }

  /** Shows a memfd or a dma-buf to devices. @returns the IOVA */
  ioasMapFile(request: Placement & { readonly fd: number; readonly start: U64Like }): bigint {
    return ioasMapFile(this.context, this.process, {
      ...placementOf(request),
      fd: request.fd,
      start: toU64(request.start, "start"),
    })
  }

  /** Shows pages of an address space at a second place. @returns the IOVA there */
  ioasCopy(request: Placement & { readonly sourceIoasId: number; readonly sourceIova: U64Like }): bigint {
    return ioasCopy(this.context, this.process, {
      ...placementOf(request),
      sourceIoasId: request.sourceIoasId,
      sourceIova: toU64(request.sourceIova, "source IOVA"),
    })
  }

  /** Removes whole areas; IOVA 0 with the largest 64-bit length removes all. @returns bytes removed */
  ioasUnmap(ioasId: number, iova: U64Like, length: U64Like): bigint {
    return ioasUnmap(this.context, ioasId, toU64(iova, "iova"), toU64(length, "length"))
  }

  ioasIovaRanges(ioasId: number): { readonly ranges: readonly Range[]; readonly alignment: bigint } {
    return this.context.objects.get(ioasId, "ioas").ioas.iovaRanges()
  }

  ioasAllowIovas(ioasId: number, ranges: readonly Range[]): void {
    this.context.objects.get(ioasId, "ioas").ioas.allowIovas(ranges)
  }

  /** The process of this handle answers for all pinned pages from now on. @throws EINVAL for memory of a process, ENOMEM */
  ioasChangeProcess(): void {
    changeOwner(this.context, this.process)
  }

  /** Where memory lies that a device without an IOMMU uses. @throws EPERM without CAP_SYS_RAWIO */
  noIommuGetPa(ioasId: number, iova: U64Like, length: U64Like): PhysicalRun {
    return physicalRun(this.context, this.process, ioasId, toU64(iova, "iova"), toU64(length, "length"))
  }

  /** Option HUGE_PAGES of an address space. */
  hugePages(ioasId: number): boolean {
    return this.context.objects.get(ioasId, "ioas").ioas.usesHugePages
  }

  setHugePages(ioasId: number, uses: boolean): void {
    this.context.objects.get(ioasId, "ioas").ioas.setHugePages(uses)
  }

  /** Option RLIMIT_MODE. */
  get rlimitMode(): PinPolicy["mode"] {
    return this.context.pinPolicy.mode
  }

  /** @throws EPERM without CAP_SYS_RESOURCE; EBUSY while any object exists */
  setRlimitMode(mode: PinPolicy["mode"]): void {
    setRlimitMode(this.context, this.process, mode)
  }

  /** Id of the address space that the VFIO container ioctls use. @throws ENODEV */
  get vfioIoas(): number {
    return vfioIoas(this.context)
  }

  setVfioIoas(ioasId: number): void {
    this.context.vfioIoas = this.context.objects.get(ioasId, "ioas")
  }

  clearVfioIoas(): void {
    this.context.vfioIoas = null
  }

  /**
   * A page table on an IOAS, a nest parent or a vIOMMU.
   * @returns its id
   */
  hwptAlloc({ deviceId, parentId, flags = 0, data, faultId }: HwptRequest): number {
    const request = {
      deviceId,
      parentId,
      flags: faultId === undefined ? flags : flags | HWPT_FAULT_ID_VALID,
      data: data === undefined ? null : bytesOf(data),
      faultId: faultId ?? 0,
    }
    return draftHwpt(this.context, this.process, request).publish().id
  }

  /** What was dirty before is forgotten at each start. */
  hwptSetDirtyTracking(hwptId: number, state: "on" | "off"): void {
    const { ioas, domain } = this.context.objects.get(hwptId, "hwpt-paging")
    ioas.ioas.setDirtyTracking(domain, state)
  }

  /** Pages that devices wrote to; forgotten then, unless the request keeps them. */
  hwptGetDirtyBitmap(request: DirtyBitmapRequest): DirtyBitmap {
    return dirtyBitmap(this.context, request)
  }

  /**
   * Carries out a guest's invalidations on its page table or vIOMMU. What is wrong with an entry is in the result.
   * @throws ENOENT; EINVAL for another object, EOPNOTSUPP where the driver invalidates nothing
   */
  hwptInvalidate(id: number, data: CacheInvalidateData): CacheInvalidateResult {
    return invalidateValues(this.context, id, data)
  }

  /** @param type asks for one kind of registers; left out: the driver's own */
  hwInfo(deviceId: number, type = 0): HwInfoReport {
    return hwInfo(this.context.objects.get(deviceId, "device"), type)
  }

  /** Which types of user data can a page table of this device have? */
  servedUserData(deviceId: number): ServedUserData[] {
    return servedUserData(this.context.objects.get(deviceId, "device").ops)
  }

  /** @throws EMFILE */
  faultQueueAlloc(): FaultQueueHandle {
    const draft = draftFaultQueue(this.context, this.process)
    const { id, file } = draft.publish()
    return { id, fd: draft.fd, file }
  }

  /** @returns id, and what the driver gives back in place of the data */
  viommuAlloc(request: {
    readonly deviceId: number
    readonly hwptId: number
    readonly type: number
    readonly data?: Uint8Array
  }): { readonly id: number; readonly outData: Uint8Array | null } {
    checkNotZero(request.type, "type of vIOMMU")
    const data = request.data === undefined ? null : userBytes(request.type, request.data)
    const { id, outData } = draftViommu(this.context, this.process, { ...request, data }).publish()
    return { id, outData }
  }

  /** @param request.virtualId the guest's number of the device */
  vdeviceAlloc(request: {
    readonly viommuId: number
    readonly deviceId: number
    readonly virtualId: U64Like
  }): number {
    const virtualId = toU64(request.virtualId, "virtual id")
    return draftVdevice(this.context, this.process, { ...request, virtualId }).publish().id
  }

  /** @param request.depth events that wait at most */
  veventqAlloc(request: {
    readonly viommuId: number
    readonly type: number
    readonly depth: number
  }): VeventqHandle {
    checkNotZero(request.type, "type of events")
    const draft = draftVeventq(this.context, this.process, request)
    const { id, file } = draft.publish()
    return { id, fd: draft.fd, file }
  }

  /** @param request.iova guest physical address of the queue */
  hwQueueAlloc(request: {
    readonly viommuId: number
    readonly type: number
    readonly index: number
    readonly iova: U64Like
    readonly length: U64Like
  }): number {
    checkNotZero(request.type, "type of queue")
    const iova = toU64(request.iova, "iova")
    const length = toU64(request.length, "length")
    return draftHwQueue(this.context, this.process, { ...request, iova, length }).publish().id
  }

  /** Maps pages of hardware at an offset that an object handed out. */
  mmap(request: MmapRequest): HardwareMapping {
    return this.context.mmapOffsets.map(request)
  }

  /** Everything that is behind the descriptor, as JSON. */
  state(): ContextState {
    return contextState(this.context)
  }

  #checkOpen(): void {
    if (this.process.files.get(this.fd) !== this.#context) {
      throw new IommuError("EBADF", `descriptor ${this.fd} is another file by now`)
    }
  }
}

function placementOf({ ioasId, length, iova, readable = false, writeable = false }: Placement): MapPlacement {
  return {
    ioasId,
    length: toU64(length, "length"),
    iova: iova === undefined ? null : toU64(iova, "iova"),
    readable,
    writeable,
  }
}

function bytesOf(data: UserData): UserBytes {
  return userBytes(data.type, "bytes" in data ? data.bytes : userDataToBytes(data))
}

function checkNotZero(type: number, what: string): void {
  if (type === 0) throw new IommuError("EOPNOTSUPP", `${what} 0 is reserved`)
}
