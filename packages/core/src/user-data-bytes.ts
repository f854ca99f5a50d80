/**
 * The sanitiser's half of the seed: bytes become user data only when their length is the one that the driver's
 * `domainAllocUserDataLen` names, and a driver never sees bytes.
 */
import { IommuError } from "./errno.ts"
import type { IommuOps } from "./ops.ts"
import { HWPT_AMD_GUEST, HWPT_ARM_SMMUV3, HWPT_PAGING, HWPT_VTD_S1 } from "./uapi/hwpt.ts"
import type { DomainUserData } from "./user-data.ts"

/**
 * Bytes from userspace as typed user data.
 * @throws EOPNOTSUPP for a type that the driver does not serve; EINVAL for any other length than the struct's
 */
export function userDataFromBytes(ops: IommuOps, hwptType: number, bytes: Uint8Array): DomainUserData {
  if (ops.domainAllocUserDataLen === undefined) {
    throw new IommuError("EOPNOTSUPP", `${ops.name} makes no user-owned domains`)
  }
  const length = ops.domainAllocUserDataLen(hwptType)
  if (bytes.length !== length) {
    throw new IommuError("EINVAL", `user data of type ${hwptType} has ${length} bytes, got ${bytes.length}`)
  }
  switch (hwptType) {
    case 1:
      return { type: 1, ...HWPT_VTD_S1.decode(bytes) }
    case 2:
      return { type: 2, ...HWPT_ARM_SMMUV3.decode(bytes) }
    case 3:
      return { type: 3, ...HWPT_AMD_GUEST.decode(bytes) }
    case 0x8000_0001:
      return { type: 0x8000_0001, ...HWPT_PAGING.decode(bytes) }
    default:
      throw new IommuError("EOPNOTSUPP", `user data of type ${hwptType} has no layout in core`)
  }
}

/** The ABI struct of user data, as userspace would pass it. */
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
  }
}
