import {
  type DomainAllocUser,
  type DomainUserData,
  type IommuDevice,
  type IommuOps,
  MemoryAccount,
  type NestedDomain,
  PAGING_DIRTY_TRACKING,
  PAGING_NEST_PARENT,
  PAGING_PASID,
  type PagingDomain,
  pagingParameters,
} from "@iommu/core"
import { assertTrue } from "./assert.ts"
import type { ConformanceMachine, ConformanceTarget, UserDataContract, ViommuContract } from "./target.ts"

/** A machine on the test bench: an owner with an account, and shorthands for what most tests do. */
export interface TestBench {
  readonly machine: ConformanceMachine
  readonly ops: IommuOps
  readonly account: MemoryAccount
  /** A probed device of the owner. */
  probed(n: number): IommuDevice
  /** The driver's default paging domain. */
  paging(device: IommuDevice): PagingDomain
  nestParent(device: IommuDevice): PagingDomain
  dirtyTracking(device: IommuDevice): PagingDomain
  pasidDomain(device: IommuDevice): PagingDomain
  nested(device: IommuDevice, parent: PagingDomain, contract: UserDataContract): NestedDomain
}

export function testBench(target: ConformanceTarget): TestBench {
  const machine = target.create()
  const { ops } = machine
  const account = new MemoryAccount("owner")
  const paging = (device: IommuDevice, flags: number): PagingDomain =>
    allocUser(ops)(device, null, flags === 0 ? null : pagingParameters({ flags }))
  return {
    machine,
    ops,
    account,
    probed: n => {
      const device = machine.device(n, account)
      ops.probeDevice(device)
      return device
    },
    paging: device => paging(device, 0),
    nestParent: device => paging(device, PAGING_NEST_PARENT),
    dirtyTracking: device => paging(device, PAGING_DIRTY_TRACKING),
    pasidDomain: device => paging(device, PAGING_PASID),
    nested: (device, parent, contract) => allocUser(ops)(device, parent, contract.valid(machine, parent)),
  }
}

/** The op, for chapters that run only where it exists. */
export function allocUser(ops: IommuOps): DomainAllocUser<DomainUserData> {
  assertTrue(ops.domainAllocUser !== undefined, "the driver has domainAllocUser")
  return ops.domainAllocUser.bind(ops)
}

/** The contract of a driver's nested user data. */
export function nestedContract(target: ConformanceTarget): UserDataContract {
  const contract = target.userData.find(data => data.parent === "nest-parent")
  assertTrue(contract !== undefined, "a driver that nests has a contract of nested user data")
  return contract
}

/** The contract of a driver's virtual IOMMUs. */
export function viommuContract(target: ConformanceTarget): ViommuContract {
  assertTrue(target.viommu !== undefined, "a driver with virtual IOMMUs has a contract of them")
  return target.viommu
}

/** The smallest page of a domain, in bytes. */
export function smallestPage(domain: PagingDomain): bigint {
  return domain.pageSizes & -domain.pageSizes
}

/** All page sizes of a domain in bytes, ascending. */
export function pageSizes(domain: PagingDomain): bigint[] {
  const sizes: bigint[] = []
  for (let bit = 0n; bit < 64n; bit++) {
    if ((domain.pageSizes >> bit) & 1n) sizes.push(1n << bit)
  }
  return sizes
}

/** An IOVA inside the aperture that is aligned to `align` and leaves `room` bytes behind it. */
export function iovaFor(domain: PagingDomain, align: bigint, room: bigint): bigint {
  const { start, last } = domain.aperture
  const iova = ((start + align) / align) * align
  assertTrue(iova + room - 1n <= last, "the aperture has room for the test")
  return iova
}
