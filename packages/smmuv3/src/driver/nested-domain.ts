/** A guest's stage 1 over a stage 2 that the driver builds, and the guest's invalidations. */
import {
  type CacheInvalidateData,
  type CacheInvalidateResult,
  HwptInvalidateDataType,
  hi32,
  type IommuDevice,
  IommuError,
  isIommuError,
  lo32,
  type NestedDomain,
  VIOMMU_ARM_SMMUV3_INVALIDATE,
} from "@iommu/core"
import * as cmd from "../spec/commands.ts"
import * as ste from "../spec/device-table.ts"
import { type Attachment, attachRid, detachRid } from "./attach.ts"
import { ABORT_STE, type Entry } from "./device-table.ts"
import type { SmmuV3Driver } from "./ops.ts"
import { type SmmuPagingDomain, stage2Ste } from "./paging-domain.ts"
import type { NestedPlan } from "./user-data.ts"

const NO_ATTACHMENTS: readonly Attachment[] = Object.freeze([])

export class SmmuNestedDomain implements NestedDomain {
  readonly ops: SmmuV3Driver
  readonly parent: SmmuPagingDomain
  readonly plan: NestedPlan
  /** Who is on the domain. Replaced on change, never mutated. */
  attachments: readonly Attachment[] = NO_ATTACHMENTS
  freed = false

  constructor(ops: SmmuV3Driver, parent: SmmuPagingDomain, plan: NestedPlan) {
    this.ops = ops
    this.parent = parent
    this.plan = plan
    parent.children = [...parent.children, this]
  }

  get type(): "nested" {
    return "nested"
  }

  attachDev(device: IommuDevice): void {
    attachRid(this.ops, device, this)
  }

  detachDev(device: IommuDevice): void {
    detachRid(this.ops, device, this)
  }

  free(): void {
    if (this.freed) throw new IommuError("EINVAL", "the domain is freed already")
    if (this.attachments.length > 0) throw new IommuError("EBUSY", "a device is on the domain")
    this.parent.children = this.parent.children.filter(child => child !== this)
    this.freed = true
  }

  /** The STE of a device on this domain; PASIDs are in the guest's CD table. */
  ste(ats: boolean): Entry {
    const { features } = this.ops.hardware
    const { config, word0, word1 } = this.plan
    if (config === "abort") return ABORT_STE
    const stage2 = stage2Ste(features, this.parent.stage2Root, ats)
    return config === "bypass" ? stage2 : nestedSte(stage2, word0, word1)
  }

  /**
   * Commands of the guest's Command queue, each a `struct iommu_viommu_arm_smmuv3_invalidate`. StreamIDs are looked
   * up among the devices on the parent and on all nested domains over it, as one virtual SMMU has them.
   */
  cacheInvalidateUser(data: CacheInvalidateData): CacheInvalidateResult {
    if (data.type !== HwptInvalidateDataType.ARM_SMMUV3) {
      return { handled: 0, error: new IommuError("EINVAL", "an SMMU takes invalidations of type ARM_SMMUV3") }
    }
    const { queue } = this.ops.hardware
    const start = queue.position
    let pushed = 0
    let error: IommuError | null = null
    try {
      for (const entry of data.entries) {
        VIOMMU_ARM_SMMUV3_INVALIDATE.encode(entry)
        this.#push(entry.cmd)
        pushed++
      }
    } catch (refusal) {
      if (!isIommuError(refusal)) throw refusal
      error = refusal
    }
    return this.#finish(start, pushed, error)
  }

  /** The commands before a bad one are done and waited for; the hardware may find an earlier one bad. */
  #finish(start: number, pushed: number, error: IommuError | null): CacheInvalidateResult {
    const { queue } = this.ops.hardware
    try {
      const refused = pushed === 0 ? -1 : queue.trySync()
      if (refused < 0) return { handled: pushed, error }
      const rule = "the SMMU refused the command: a field has a value that this SMMU does not take"
      return { handled: refused - start, error: new IommuError("EIO", rule) }
    } catch (hung) {
      if (!isIommuError(hung)) throw hung
      return { handled: 0, error: hung }
    }
  }

  /** @throws EIO for a command that a guest may not give */
  #push([low, high]: readonly [bigint, bigint]): void {
    const word0 = lo32(low)
    const word1 = this.#hostWord1(word0 & cmd.OPCODE, hi32(low))
    const opcode = (word0 & cmd.OPCODE) === cmd.CMD_TLBI_NSNH_ALL ? cmd.CMD_TLBI_NH_ALL : word0 & cmd.OPCODE
    const words = ((word0 & ~cmd.OPCODE) | opcode) >>> 0
    this.ops.hardware.queue.push(words, word1, lo32(high), hi32(high))
  }

  /** Bits 63:32 with the guest's VMID or StreamID replaced by the host's. */
  #hostWord1(opcode: number, word1: number): number {
    switch (opcode) {
      case cmd.CMD_TLBI_NSNH_ALL:
      case cmd.CMD_TLBI_NH_ALL:
      case cmd.CMD_TLBI_NH_ASID:
      case cmd.CMD_TLBI_NH_VA:
      case cmd.CMD_TLBI_NH_VAA:
        return ((word1 & ~cmd.TLBI_VMID) | this.parent.tag) >>> 0
      case cmd.CMD_CFGI_CD:
      case cmd.CMD_CFGI_CD_ALL:
      case cmd.CMD_ATC_INV:
        return this.#hostStreamId(word1)
      default:
        throw new IommuError("EIO", `command 0x${opcode.toString(16)} is not a guest's to give`)
    }
  }

  #hostStreamId(virtualId: number): number {
    for (const domain of [this.parent, ...this.parent.children]) {
      for (const { state } of domain.attachments) {
        if (state.device.virtualId === virtualId) return state.device.id
      }
    }
    throw new IommuError("EIO", `no device of this guest has StreamID 0x${virtualId.toString(16)}`)
  }
}

/**
 * The parent's STE with the guest's fields of stage 1. Events may be merged (MEV), so that a guest cannot flood the
 * Event queue.
 */
export function nestedSte(stage2: Entry, word0: bigint, word1: bigint): Entry {
  const config = (BigInt(ste.CONFIG_NESTED) << BigInt(ste.CONFIG_SHIFT)) | BigInt(ste.V)
  return stage2.with(0, word0 | config).with(1, (stage2[1] as bigint) | word1 | BigInt(ste.MEV))
}
