/** Attaching to any domain of the mock. */
import { type DomainControl, type IommuDevice, type IommuDomain, IommuError, NO_PASID } from "@iommu/core"
import type { MockDeviceState } from "./mock-device.ts"
import type { MockIommu } from "./mock-iommu.ts"

/** Kernel memory of an attachment, so that attaching can fail for want of it. */
const ATTACHMENT_BYTES = 64
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
    put(state, NO_PASID, this)
    state.viommu = this.viommuOf()
  }

  detachDev(this: IommuDomain & MockDomain, device: IommuDevice): void {
    const state = this.ops.stateOf(device)
    take(state, NO_PASID, this)
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
    put(state, pasid, this)
  }

  removeDevPasid(this: IommuDomain & MockDomain, device: IommuDevice, pasid: number): void {
    const state = this.ops.stateOf(device)
    if (pasid === FAILING_PASID) state.failsPasid1024 = false
    take(state, pasid, this)
  }

  /** The vIOMMU through which an attached device is seen. */
  viommuOf(): ReturnType<MockIommu["stateOf"]>["viommu"] {
    return null
  }

  abstract checkAttach(device: IommuDevice): void
  abstract free(): void
}

function put(
  { device, attachments }: MockDeviceState,
  pasid: number,
  domain: IommuDomain & MockDomain,
): void {
  const { account } = device
  account.chargeBytes(ATTACHMENT_BYTES)
  forget(attachments, pasid)
  attachments.set(pasid, { domain, account })
  domain.attachments++
}

function take({ attachments }: MockDeviceState, pasid: number, domain: IommuDomain & MockDomain): void {
  if (attachments.get(pasid)?.domain !== domain) {
    throw new IommuError("EINVAL", "the device or the PASID is on another domain")
  }
  forget(attachments, pasid)
}

function forget(attachments: MockDeviceState["attachments"], pasid: number): void {
  const old = attachments.get(pasid)
  if (old === undefined) return
  attachments.delete(pasid)
  old.account.unchargeBytes(ATTACHMENT_BYTES)
  if (old.domain instanceof MockDomain) old.domain.attachments--
}
