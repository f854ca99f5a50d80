/**
 * For tests of what stands on iommufd: the mock IOMMU of Linux's selftests, and machines to run it on.
 * @packageDocumentation
 */
export * from "./testing/fault-injection.ts"
export * from "./testing/machine.ts"
export * from "./testing/mock-abi.ts"
export {
  DEVICE_CACHE_DEFAULT,
  DEVICE_CACHE_SLOTS,
  MOCK_PASID_BITS,
  type MockDeviceOptions,
  mockDevice,
} from "./testing/mock-device.ts"
export { type MockIommu, type MockIommuOptions, mockIommu } from "./testing/mock-iommu.ts"
export { type MockNestedDomain, NESTED_IOTLB_SLOTS } from "./testing/mock-nested.ts"
export * from "./testing/mock-paging.ts"
export type { MockViommu } from "./testing/mock-viommu.ts"
