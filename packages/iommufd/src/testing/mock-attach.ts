/** Attaching to any domain of the mock. */
import { type DomainControl, type IommuDevice, type IommuDomain, IommuError, NO_PASID } from "@iommu/core"
import type { MockIommu } from "./mock-iommu.ts"

/** A second attach of this PASID fails, once: the selftests' way to test a roll back. */
const FAILING_PASID = 1024

export abstract class MockDomain implements DomainControl {
  readonly ops: MockIommu
  /** Devices and PASIDs on it. */
  attachments = 0

  constructor(ops: MockIommu) {
    this.ops = ops
  }

  attachDev(this: IommuDomain & MockDomain, device: IommuDevice): void {
    const state = this.ops.stateOf(device)
    this.checkAttach(device)
    move(state.domains, NO_PASID, this)
    state.viommu = this.viommuOf()
  }

  detachDev(this: IommuDomain & MockDomain, device: IommuDevice): void {
    const state = this.ops.stateOf(device)
    if (state.domains.get(NO_PASID) !== this)
      throw new IommuError("EINVAL", "the device is on another domain")
    move(state.domains, NO_PASID, null)
    state.viommu = null
  }

  setDevPasid(this: IommuDomain & MockDomain, device: IommuDevice, pasid: number): void {
    const state = this.ops.stateOf(device)
    if (pasid === FAILING_PASID) {
      const fails = state.failsPasid1024
      state.failsPasid1024 = !fails
      if (fails) throw new IommuError("ENOMEM", "the second attach of PASID 1024 fails on purpose")
    }
    this.checkAttach(device)
    move(state.domains, pasid, this)
  }

  removeDevPasid(this: IommuDomain & MockDomain, device: IommuDevice, pasid: number): void {
    const state = this.ops.stateOf(device)
    if (pasid === FAILING_PASID) state.failsPasid1024 = false
    if (state.domains.get(pasid) !== this) throw new IommuError("EINVAL", "the PASID is on another domain")
    move(state.domains, pasid, null)
  }

  /** The vIOMMU through which an attached device is seen. */
  viommuOf(): ReturnType<MockIommu["stateOf"]>["viommu"] {
    return null
  }

  abstract checkAttach(device: IommuDevice): void
  abstract free(): void
}

function move(
  domains: Map<number, IommuDomain>,
  pasid: number,
  domain: (IommuDomain & MockDomain) | null,
): void {
  const old = domains.get(pasid)
  if (old instanceof MockDomain) old.attachments--
  domains.delete(pasid)
  if (domain === null) return
  domains.set(pasid, domain)
  domain.attachments++
}
