/**
 * Entries of a guest's command buffer that the host carries out, with the guest's numbers replaced by the host's.
 * AMD 48882 rev 3.10, §2.4.
 */
import {
  type AmdGuestInvalidate,
  type BitLayout,
  type CacheInvalidateData,
  type CacheInvalidateResult,
  type FieldSpecs,
  type FieldValues,
  HwptInvalidateDataType,
  type IommuDevice,
  IommuError,
  isIommuError,
} from "@iommu/core"
import * as cmd from "../spec/commands.ts"
import {
  ALL,
  HOST_TABLES,
  nestedIotlb,
  pushDevtabEntry,
  pushIotlb,
  pushIotlbBlock,
  pushPages,
} from "./invalidate.ts"
import type { CommandQueue } from "./queue.ts"

/** Who a guest is to the hardware. */
export interface GuestIds {
  /** The host's DomainID for one of the guest's, or null for one that no nested domain names. */
  hostId(gDomID: number): number | null
  /** Host DomainIDs that device table entries name now. */
  attachedIds(): readonly number[]
  /** Devices on any of the guest's domains. */
  devices(): readonly IommuDevice[]
  /** @throws EIO for a DeviceID that none of the guest's devices has */
  devicesNamed(virtualId: number): readonly IommuDevice[]
}

/** A guest's command, and the host's devices that it is about. */
interface GuestRequest {
  readonly command: GuestCommand
  readonly devices: readonly IommuDevice[]
}

/** Entries are raw commands; those before a bad one are done and waited for. */
export function carryOutGuestCommands(
  queue: CommandQueue,
  guest: GuestIds,
  data: CacheInvalidateData,
): CacheInvalidateResult {
  if (data.type !== HwptInvalidateDataType.AMD_GUEST) {
    return { handled: 0, error: new IommuError("EINVAL", "AMD-Vi takes raw commands of the guest") }
  }
  let handled = 0
  let error: IommuError | null = null
  try {
    for (const entry of data.entries) {
      const request = understand(guest, entry)
      if (isIommuError(request)) {
        error = request
        break
      }
      push(queue, guest, request)
      handled++
    }
    if (handled > 0) queue.sync()
    return { handled, error }
  } catch (failure) {
    if (!isIommuError(failure)) throw failure
    return { handled: 0, error: failure }
  }
}

function understand(guest: GuestIds, entry: Readonly<AmdGuestInvalidate>): GuestRequest | IommuError {
  try {
    const command = guestCommand(entry)
    const named = command.kind === "iotlb" || command.kind === "devtab"
    return { command, devices: named ? guest.devicesNamed(command.virtualId) : guest.devices() }
  } catch (error) {
    if (isIommuError(error)) return error
    throw error
  }
}

function push(queue: CommandQueue, guest: GuestIds, { command, devices }: GuestRequest): void {
  switch (command.kind) {
    case "pages": {
      const id = guest.hostId(command.gDomID)
      // Nothing can be cached under a DomainID that no entry of the guest names.
      if (id === null) return
      const Opcode = BigInt(cmd.OPCODE.INVALIDATE_IOMMU_PAGES)
      queue.push(cmd.INVALIDATE_IOMMU_PAGES.encode({ ...command.fields, DomainID: BigInt(id), Opcode }))
      return
    }
    case "iotlb":
      for (const device of devices.filter(nestedIotlb)) {
        pushIotlbBlock(queue, device.id, command.pasid, command.Address, command.S)
      }
      return
    case "devtab":
      for (const device of devices) pushDevtabEntry(queue, device.id)
      return
    case "all":
      for (const id of guest.attachedIds()) pushPages(queue, id, HOST_TABLES, ALL)
      for (const device of devices) {
        pushDevtabEntry(queue, device.id)
        if (nestedIotlb(device)) pushIotlb(queue, device.id, HOST_TABLES, ALL)
      }
  }
}

/** A guest's command that the host carries out for it. */
export type GuestCommand =
  | {
      readonly kind: "pages"
      readonly gDomID: number
      readonly fields: Readonly<Record<"PASID" | "S" | "PDE" | "GN" | "Address", bigint>>
    }
  | {
      readonly kind: "iotlb"
      readonly virtualId: number
      /** -1 without GN. */
      readonly pasid: number
      readonly S: bigint
      readonly Address: bigint
    }
  | { readonly kind: "devtab"; readonly virtualId: number }
  | { readonly kind: "all" }

/** @throws EIO for a command that is not forwarded, or with a reserved bit set */
export function guestCommand({ cmd: words }: Readonly<AmdGuestInvalidate>): GuestCommand {
  const opcode = Number(words[0] >> 60n)
  switch (opcode) {
    case cmd.OPCODE.INVALIDATE_IOMMU_PAGES: {
      const { DomainID, PASID, S, PDE, GN, Address } = decode(cmd.INVALIDATE_IOMMU_PAGES, words)
      return { kind: "pages", gDomID: Number(DomainID), fields: { PASID, S, PDE, GN, Address } }
    }
    case cmd.OPCODE.INVALIDATE_IOTLB_PAGES: {
      const c = decode(cmd.INVALIDATE_IOTLB_PAGES, words)
      const pasid = c.GN === 0n ? -1 : Number(c.PASID_7_0 | (c.PASID_15_8 << 8n) | (c.PASID_19_16 << 16n))
      return { kind: "iotlb", virtualId: Number(c.DeviceID), pasid, S: c.S, Address: c.Address }
    }
    case cmd.OPCODE.INVALIDATE_DEVTAB_ENTRY:
      return { kind: "devtab", virtualId: Number(decode(cmd.INVALIDATE_DEVTAB_ENTRY, words).DeviceID) }
    case cmd.OPCODE.INVALIDATE_IOMMU_ALL:
      decode(cmd.INVALIDATE_IOMMU_ALL, words)
      return { kind: "all" }
    default:
      throw new IommuError("EIO", `a guest's command with opcode ${opcode} is not for the host to carry out`)
  }
}

function decode<F extends FieldSpecs>(layout: BitLayout<F>, words: readonly bigint[]): FieldValues<F> {
  if (layout.reserved.some((mask, i) => (words[i] & mask) !== 0n)) {
    throw new IommuError("EIO", `a guest's ${layout.name} has reserved bits set`)
  }
  return layout.decode(words)
}
