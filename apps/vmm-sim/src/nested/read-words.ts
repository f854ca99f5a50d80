import type { PhysicalMemory } from "@iommu/core"

/** 64-bit words of a structure in memory. @throws EFAULT where no memory answers */
export function readWords(memory: PhysicalMemory, address: bigint, count: number): bigint[] {
  return Array.from({ length: count }, (_, i) => memory.read64(address + BigInt(i) * 8n))
}
