import type { PageAllocator } from "./page-allocator.ts"
import type { PhysicalMemory } from "./physical-memory.ts"
import type { Mmio } from "./registers.ts"

/** All that a driver touches: an IOMMU's registers, the memory it shares with it, and where its tables may lie. */
export interface IommuPlatform {
  readonly mmio: Mmio
  readonly memory: PhysicalMemory
  readonly pages: PageAllocator
}
