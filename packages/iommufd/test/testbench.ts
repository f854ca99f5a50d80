/** An iommufd on the mock IOMMU of Linux's selftests, with memory of its process. */
import { type IommuDevice, MemoryAccount } from "@iommu/core"
import {
  type BoundDevice,
  type Iommufd,
  openIommufd,
  type Process,
  type ProcessOptions,
} from "@iommu/iommufd"
import {
  type MockDeviceOptions,
  type MockIommu,
  type MockIommuOptions,
  mockDevice,
  mockIommu,
} from "@iommu/iommufd/testing"
import { expect } from "vitest"
import { type Workbench, workbench } from "./workbench.ts"

export interface Testbench extends Workbench {
  readonly iommufd: Iommufd
  readonly mock: MockIommu
  /** A probed device that nobody has yet. */
  probed(options?: Partial<MockDeviceOptions>, mock?: MockIommu): IommuDevice
  /** A device of the iommufd. */
  bound(options?: Partial<MockDeviceOptions>, mock?: MockIommu): BoundDevice
  open(process?: Process): Iommufd
}

export function testbench(
  options: { readonly mock?: MockIommuOptions; readonly process?: Partial<ProcessOptions> } = {},
): Testbench {
  const bench = workbench(options.process)
  const mock = mockIommu(options.mock)
  const host = new MemoryAccount("host")
  const iommufd = openIommufd(bench.process)
  let devices = 0
  const probed = (more: Partial<MockDeviceOptions> = {}, iommu = mock): IommuDevice => {
    const device = mockDevice({ id: ++devices, account: host, ...more })
    iommu.probeDevice(device)
    return device
  }
  return {
    ...bench,
    iommufd,
    mock,
    probed,
    bound: (more, iommu = mock) => iommufd.bindDevice({ ops: iommu, device: probed(more, iommu) }),
    open: (process = bench.process) => openIommufd(process),
  }
}

/** The call throws this errno, and a sentence. */
export function expectErrno(code: string, call: () => unknown): void {
  expect(call).toThrow(new RegExp(`^${code}: .{8}`))
}
