import { amdDecoder } from "@iommu/amd"
import type { DecodedRecord, FaultDecoder } from "@iommu/core"
import { smmuv3Decoder } from "@iommu/smmuv3"
import { vtdDecoder } from "@iommu/vtd"

/** By the vendor's name on the command line. */
export const DECODERS: Readonly<Record<string, FaultDecoder<DecodedRecord>>> = {
  vtd: vtdDecoder,
  smmuv3: smmuv3Decoder,
  amd: amdDecoder,
}
