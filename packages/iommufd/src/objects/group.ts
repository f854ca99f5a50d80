/** Devices that can only be given away together, and where they are attached: Linux's `iommu_group` and `iommufd_group`. */
import { type IommuDevice, IommuError, type IommuOps, NO_PASID } from "@iommu/core"
import type { BoundDevice } from "./device.ts"
import type { Hwpt } from "./hwpt.ts"

/** What a domain knows of an attachment, and page requests are traced back by: Linux's `iommu_attach_handle`. */
export interface AttachHandle {
  readonly device: BoundDevice
}

/** The requests of a group, or those with one PASID, on a page table. */
export interface GroupAttachment {
  hwpt: Hwpt
  handle: AttachHandle
  /** Devices of the group that asked for it. */
  readonly devices: Set<BoundDevice>
}

/** The group of each device that is in one: a device belongs to one owner, whoever binds it. */
const groups = new WeakMap<IommuDevice, IommuGroup>()

/** The group of a device: the one that it was put into, or one of its own. */
export function groupOf(ops: IommuOps, device: IommuDevice): IommuGroup {
  return groups.get(device) ?? new IommuGroup(ops, [device])
}

export class IommuGroup {
  readonly name: string
  readonly ops: IommuOps
  readonly members: readonly IommuDevice[]
  /** By PASID, {@link NO_PASID} for requests without. */
  readonly attachments: Map<number, GroupAttachment> = new Map()
  /** Member that is being reset: its DMA is blocked, and nothing can be attached meanwhile. */
  resetting: IommuDevice | null = null
  #owner: object | null = null
  #claims = 0

  /**
   * @param members all devices that share a group, bound or not
   * @throws EBUSY for a device that is in another group, and bound there
   */
  constructor(ops: IommuOps, members: readonly IommuDevice[], name?: string) {
    if (members.some(member => groups.get(member)?.isClaimed)) {
      throw new IommuError("EBUSY", "a device changes its group only while nobody owns it")
    }
    for (const member of members) groups.set(member, this)
    this.ops = ops
    this.members = members
    this.name = name ?? members.map(member => member.name).join(", ")
  }

  /**
   * Takes the DMA of all members for an owner: an iommufd, or a kernel driver.
   * @throws EPERM when another one has it
   */
  claim(owner: object): void {
    if (this.#owner !== null && this.#owner !== owner) {
      throw new IommuError("EPERM", `the DMA of group "${this.name}" belongs to another owner`)
    }
    this.#owner = owner
    this.#claims++
  }

  get isClaimed(): boolean {
    return this.#owner !== null
  }

  unclaim(): void {
    this.#claims--
    if (this.#claims === 0) this.#owner = null
  }

  get rid(): GroupAttachment | undefined {
    return this.attachments.get(NO_PASID)
  }

  /** The attachment that page requests of a PASID go through: a guest's PASIDs belong to the RID's page table. */
  attachmentFor(pasid: number | null): GroupAttachment | undefined {
    return this.attachments.get(pasid ?? NO_PASID) ?? this.rid
  }
}
