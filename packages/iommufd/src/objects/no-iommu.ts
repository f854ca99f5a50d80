/**
 * Devices without an IOMMU: the table of their address space exists in software alone, and their driver asks it where
 * pages lie, because the device itself needs to know.
 */
import {
  type BlockedDomain,
  type DomainUserData,
  type DriverCapabilities,
  type IommuDevice,
  type IommuDomain,
  IommuError,
  type IommuOps,
  PageTableFormatId,
} from "@iommu/core"
import type { PhysicalRun } from "../ioas/physical-run.ts"
import type { Process } from "../process/process.ts"
import type { IommufdContext } from "./iommufd-context.ts"
import { NoIommuDomain } from "./no-iommu-domain.ts"

/** @throws EPERM without CAP_SYS_RAWIO */
export function checkRawIo(caller: Process): void {
  if (!caller.capable("CAP_SYS_RAWIO")) throw new IommuError("EPERM", "physical addresses need CAP_SYS_RAWIO")
}

/** IOMMU_IOAS_NOIOMMU_GET_PA. @throws EPERM, EINVAL, EOVERFLOW, ENOENT, EOPNOTSUPP */
export function physicalRun(
  { objects }: IommufdContext,
  caller: Process,
  ioasId: number,
  iova: bigint,
  length: bigint,
): PhysicalRun {
  checkRawIo(caller)
  if (length === 0n) throw new IommuError("EINVAL", "a range is not empty")
  if (iova >= (1n << 64n) - 1n) throw new IommuError("EOVERFLOW", "the IOVA is smaller than 2^64 - 1")
  const { ioas, pageTables } = objects.get(ioasId, "ioas")
  const domain = pageTables.map(hwpt => hwpt.domain).find(isNoIommu) ?? null
  return ioas.physicalRun(domain, iova, length)
}

function isNoIommu(domain: unknown): domain is NoIommuDomain {
  return domain instanceof NoIommuDomain
}

/** The "driver" of these devices. It takes neither flags nor user data, and nests nothing. */
export class NoIommu implements IommuOps {
  readonly name = "no IOMMU"
  readonly capabilities: DriverCapabilities = {
    nesting: false,
    dirtyTracking: false,
    pasidBits: 0,
    formats: [PageTableFormatId.DEFAULT],
    userDataTypes: [],
    invalidateDataTypes: [],
    coherentWalks: true,
  }
  readonly blockedDomain: BlockedDomain = {
    type: "blocked",
    ops: this,
    attachDev: () => {},
    detachDev: () => {},
    free: () => {},
  }

  capable(): boolean {
    return false
  }

  hwInfo(): null {
    return null
  }

  probeDevice(): void {}

  releaseDevice(): void {}

  domainAllocUser(device: IommuDevice, parent: null, data: DomainUserData | null): NoIommuDomain
  domainAllocUser(device: IommuDevice, parent: IommuDomain, data: DomainUserData | null): never
  domainAllocUser(device: IommuDevice, parent: IommuDomain | null, data: DomainUserData | null): NoIommuDomain
  domainAllocUser(
    device: IommuDevice,
    parent: IommuDomain | null,
    data: DomainUserData | null,
  ): NoIommuDomain {
    if (parent !== null || data !== null) {
      throw new IommuError("EOPNOTSUPP", "without an IOMMU there are neither flags nor user data")
    }
    return new NoIommuDomain(this, device.account)
  }

  domainAllocUserDataLen(hwptType: number): number {
    throw new IommuError("EOPNOTSUPP", `user data of type ${hwptType} is not served without an IOMMU`)
  }
}
