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

export class IommuGroup {
  readonly name: string
  readonly ops: IommuOps
  readonly members: readonly IommuDevice[]
  /** By PASID, {@link NO_PASID} for requests without. */
  readonly attachments: Map<number, GroupAttachment> = new Map()
  #owner: object | null = null
  #claims = 0

  /** @param members all devices that share a group, bound or not */
  constructor(ops: IommuOps, members: readonly IommuDevice[], name?: string) {
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
