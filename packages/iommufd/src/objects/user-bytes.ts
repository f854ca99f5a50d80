/** Data of userspace that only a driver understands, on its way through the sanitiser. */
import {
  checkUserDataLength,
  type DomainUserData,
  IommuError,
  type IommuOps,
  padded,
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
  const layout = userDataLayout(ops, bytes.type)
  if (layout.describes !== "either" && layout.describes !== purpose) {
    throw new IommuError(
      "EOPNOTSUPP",
      `user data of type ${bytes.type} does not describe a ${purpose} domain`,
    )
  }
  checkUserDataLength(layout, bytes.length)
  return layout.decode(padded(bytes.copy(), layout.size), flags)
}
