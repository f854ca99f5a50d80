/** Data of userspace that only a driver understands, on its way through the sanitiser. */
import {
  checkUserDataLength,
  type DomainUserData,
  IommuError,
  type IommuOps,
  isIommuError,
  padded,
  type UserDataLayout,
  userDataLayout,
} from "@iommu/core"

/** Bytes that are not copied yet: their type and length are checked first. */
export interface UserBytes {
  /** `HwptDataType`, or that of a third party. */
  readonly type: number
  readonly length: number
  /** @throws EFAULT */
  copy(): Uint8Array
}

/** Bytes of a caller that has them at hand. */
export function userBytes(type: number, bytes: Uint8Array): UserBytes {
  return { type, length: bytes.length, copy: () => bytes }
}

/**
 * Checks type and length, copies once, and only then lets the driver's layout read the copy.
 * @param purpose what the domain is for
 * @param flags `IOMMU_HWPT_ALLOC_*` without FAULT_ID_VALID
 * @throws EOPNOTSUPP for a type that the driver does not serve for this purpose; EINVAL for a length; EFAULT
 */
export function sanitise(
  ops: IommuOps,
  bytes: UserBytes,
  purpose: "paging" | "nested",
  flags: number,
): DomainUserData {
  const layout = purpose === "nested" ? nestedLayout(ops, bytes.type) : layoutFor(ops, bytes.type, purpose)
  checkUserDataLength(layout, bytes.length)
  return layout.decode(padded(bytes.copy(), layout.size), flags)
}

function nestedLayout(ops: IommuOps, type: number): UserDataLayout {
  try {
    return layoutFor(ops, type, "nested")
  } catch (error) {
    const code = ops.abi?.foreignNestedData
    if (code === undefined || !isIommuError(error)) throw error
    throw new IommuError(code, `${ops.name} does not nest with user data of type ${type}`)
  }
}

/** @throws EOPNOTSUPP */
function layoutFor(ops: IommuOps, type: number, purpose: "paging" | "nested"): UserDataLayout {
  const layout = userDataLayout(ops, type)
  if (layout.describes !== "either" && layout.describes !== purpose) {
    throw new IommuError("EOPNOTSUPP", `user data of type ${type} does not describe a ${purpose} domain`)
  }
  return layout
}
