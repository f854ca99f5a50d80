/** How the kernel is told to treat DMA: Documentation/admin-guide/kernel-parameters.txt, iommu.strict, iommu.passthrough. */

export interface DmaPolicy {
  readonly description: string
  readonly append: string
  /** As the kernel names the type of the disk's domain; null where its configuration decides. */
  readonly domain: string | null
  /** False where the disk's DMA passes untranslated, so that no address is refused. */
  readonly translates: boolean
}

/** By the name on the command line; the first is the default. */
export const POLICIES = {
  default: { description: "as the kernel was configured", append: "", domain: null, translates: true },
  strict: {
    description: "invalidated at each unmap",
    append: "iommu.strict=1",
    domain: "DMA",
    translates: true,
  },
  lazy: {
    description: "invalidated in batches",
    append: "iommu.strict=0",
    domain: "DMA-FQ",
    translates: true,
  },
  passthrough: {
    description: "untranslated",
    append: "iommu.passthrough=1",
    domain: "identity",
    translates: false,
  },
} as const satisfies Readonly<Record<string, DmaPolicy>>

export type PolicyName = keyof typeof POLICIES
