/**
 * The sanitiser's half of the seed: bytes become user data only when their length is one that the driver's
 * `domainAllocUserDataLen` allows, and a driver never sees bytes.
 */
import type { UserDataLayout } from "./driver-abi.ts"
import { IommuError } from "./errno.ts"
import type { IommuOps } from "./ops.ts"
import { HWPT_AMD_GUEST, HWPT_ARM_SMMUV3, HWPT_PAGING, HWPT_VTD_S1 } from "./uapi/hwpt.ts"
import type { DomainUserData } from "./user-data.ts"

/** Core's own kinds, all of which must be passed whole. */
const LAYOUTS: Readonly<Record<number, UserDataLayout>> = {
  1: nested(HWPT_VTD_S1.size, bytes => ({ type: 1, ...HWPT_VTD_S1.decode(bytes) })),
  2: nested(HWPT_ARM_SMMUV3.size, bytes => ({ type: 2, ...HWPT_ARM_SMMUV3.decode(bytes) })),
  3: nested(HWPT_AMD_GUEST.size, bytes => ({ type: 3, ...HWPT_AMD_GUEST.decode(bytes) })),
  2147483649: {
    describes: "paging",
    size: HWPT_PAGING.size,
    minSize: HWPT_PAGING.size,
    decode: (bytes, flags) => {
      const asked = HWPT_PAGING.decode(bytes)
      return { type: 0x8000_0001, ...asked, flags: (asked.flags | flags) >>> 0 }
    },
  },
}

function nested(size: number, decode: (bytes: Uint8Array) => DomainUserData): UserDataLayout {
  return { describes: "nested", size, minSize: size, decode }
}

/**
 * The layout of a kind of user data, as the driver serves it.
 * @throws EOPNOTSUPP for a type that the driver does not serve
 */
export function userDataLayout(ops: IommuOps, hwptType: number): UserDataLayout {
  if (ops.domainAllocUserDataLen === undefined) {
    throw new IommuError("EOPNOTSUPP", `${ops.name} makes no user-owned domains`)
  }
  const size = ops.domainAllocUserDataLen(hwptType)
  const layout = ops.abi?.userData?.(hwptType) ?? LAYOUTS[hwptType]
  if (layout === undefined) {
    throw new IommuError("EOPNOTSUPP", `user data of type ${hwptType} has no layout`)
  }
  if (layout.size !== size) {
    throw new Error(`bug: ${ops.name} takes ${size} bytes of type ${hwptType}, its layout has ${layout.size}`)
  }
  return layout
}

/** @throws EINVAL when userspace passes fewer bytes than the layout's minimum, or more than it has */
export function checkUserDataLength({ minSize, size }: UserDataLayout, length: number): void {
  if (length >= minSize && length <= size) return
  const right = minSize === size ? `${size}` : `${minSize} to ${size}`
  throw new IommuError("EINVAL", `user data of this type has ${right} bytes, got ${length}`)
}

/**
 * Bytes from userspace as typed user data.
 * @param flags `IOMMU_HWPT_ALLOC_*` of the call that the data came with
 * @throws EOPNOTSUPP for a type that the driver does not serve; EINVAL for a wrong length
 */
export function userDataFromBytes(
  ops: IommuOps,
  hwptType: number,
  bytes: Uint8Array,
  flags = 0,
): DomainUserData {
  const layout = userDataLayout(ops, hwptType)
  checkUserDataLength(layout, bytes.length)
  return layout.decode(padded(bytes, layout.size), flags)
}

/** Bytes with zeros behind them, up to a size. */
export function padded(bytes: Uint8Array, size: number): Uint8Array {
  if (bytes.length === size) return bytes
  const whole = new Uint8Array(size)
  whole.set(bytes)
  return whole
}

/**
 * The ABI struct of user data of core's own kinds, as userspace would pass it.
 * @throws EOPNOTSUPP for a third-party kind
 */
export function userDataToBytes(data: DomainUserData): Uint8Array {
  switch (data.type) {
    case 1:
      return HWPT_VTD_S1.encode(data)
    case 2:
      return HWPT_ARM_SMMUV3.encode(data)
    case 3:
      return HWPT_AMD_GUEST.encode(data)
    case 0x8000_0001:
      return HWPT_PAGING.encode(data)
    default:
      throw new IommuError("EOPNOTSUPP", "user data of another's kind is encoded by its own layout")
  }
}
