/**
 * Commands of a guest's Command queue that the host carries out, with the guest's numbers replaced by the host's.
 * Arm IHI 0070 G.b §4.3 to §4.5; which commands: Linux's `arm_vsmmu_cache_invalidate`.
 */
import {
  type CacheInvalidateData,
  type CacheInvalidateResult,
  HwptInvalidateDataType,
  hi32,
  IommuError,
  isIommuError,
  lo32,
  VIOMMU_ARM_SMMUV3_INVALIDATE,
} from "@iommu/core"
import * as cmd from "../spec/commands.ts"
import type { CommandQueue } from "./queue.ts"

/** Who a guest is to the hardware. */
export interface GuestIds {
  /** Tags what is cached of the guest. */
  readonly vmid: number
  /** @throws EIO for a StreamID that none of the guest's devices has */
  streamIdOf(virtualId: number): number
}

/** Entries are `struct iommu_viommu_arm_smmuv3_invalidate`; those before a bad one are done and waited for. */
export function carryOutGuestCommands(
  queue: CommandQueue,
  guest: GuestIds,
  data: CacheInvalidateData,
): CacheInvalidateResult {
  if (data.type !== HwptInvalidateDataType.ARM_SMMUV3) {
    return { handled: 0, error: new IommuError("EINVAL", "an SMMU takes invalidations of type ARM_SMMUV3") }
  }
  const start = queue.position
  let pushed = 0
  let error: IommuError | null = null
  try {
    for (const entry of data.entries) {
      VIOMMU_ARM_SMMUV3_INVALIDATE.encode(entry)
      push(queue, guest, entry.cmd)
      pushed++
    }
  } catch (refusal) {
    if (!isIommuError(refusal)) throw refusal
    error = refusal
  }
  return finish(queue, start, pushed, error)
}

/** The hardware may find a command bad that came before the one that was refused here. */
function finish(
  queue: CommandQueue,
  start: number,
  pushed: number,
  error: IommuError | null,
): CacheInvalidateResult {
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
function push(queue: CommandQueue, guest: GuestIds, [low, high]: readonly [bigint, bigint]): void {
  const word0 = lo32(low)
  const given = word0 & cmd.OPCODE
  const word1 = hostWord1(guest, given, hi32(low))
  // The guest's "everything" is everything of its VMID.
  const opcode = given === cmd.CMD_TLBI_NSNH_ALL ? cmd.CMD_TLBI_NH_ALL : given
  queue.push(((word0 & ~cmd.OPCODE) | opcode) >>> 0, word1, lo32(high), hi32(high))
}

/** Bits 63:32 with the guest's VMID or StreamID replaced by the host's. */
function hostWord1(guest: GuestIds, opcode: number, word1: number): number {
  switch (opcode) {
    case cmd.CMD_TLBI_NSNH_ALL:
    case cmd.CMD_TLBI_NH_ALL:
    case cmd.CMD_TLBI_NH_ASID:
    case cmd.CMD_TLBI_NH_VA:
    case cmd.CMD_TLBI_NH_VAA:
      return ((word1 & ~cmd.TLBI_VMID) | guest.vmid) >>> 0
    case cmd.CMD_CFGI_CD:
    case cmd.CMD_CFGI_CD_ALL:
    case cmd.CMD_ATC_INV:
      return guest.streamIdOf(word1)
    default:
      throw new IommuError("EIO", `command 0x${opcode.toString(16)} is not a guest's to give`)
  }
}
