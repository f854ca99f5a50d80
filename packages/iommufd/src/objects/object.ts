/** What all objects of an iommufd have in common: Linux's `struct iommufd_object`. */
import type { MemoryAccount } from "@iommu/core"
import type { AccessObject } from "./access.ts"
import type { BoundDevice } from "./device.ts"
import type { FaultQueue } from "./fault-queue.ts"
import type { HwQueueObject } from "./hw-queue.ts"
import type { HwptNested, HwptPaging } from "./hwpt.ts"
import type { IoasObject } from "./ioas-object.ts"
import type { VdeviceObject } from "./vdevice.ts"
import type { VeventQueue } from "./veventq.ts"
import type { ViommuObject } from "./viommu.ts"

export interface ObjectKinds {
  ioas: IoasObject
  "hwpt-paging": HwptPaging
  "hwpt-nested": HwptNested
  device: BoundDevice
  access: AccessObject
  fault: FaultQueue
  viommu: ViommuObject
  vdevice: VdeviceObject
  veventq: VeventQueue
  "hw-queue": HwQueueObject
}

export type ObjectKind = keyof ObjectKinds
export type AnyObject = ObjectKinds[ObjectKind]

/** An id that is not published yet, and who pays for the object that will have it. */
export interface Identity {
  readonly id: number
  readonly account: MemoryAccount
}

/** JSON of an object's state: ids of what it refers to, and figures. */
export type ObjectState = Readonly<
  Record<
    string,
    | string
    | number
    | boolean
    | null
    | readonly (string | number | Readonly<Record<string, string | number>>)[]
  >
>

export abstract class KernelObject {
  readonly id: number
  readonly account: MemoryAccount
  /** Objects, open files and mappings that need it: it cannot be destroyed until they are gone. */
  users = 0

  constructor({ id, account }: Identity) {
    this.id = id
    this.account = account
  }

  abstract readonly kind: ObjectKind
  /** Lets go of everything. Called once, without users. */
  abstract destroy(): void
  abstract state(): ObjectState
}
