import type { FaultDecoder } from "@iommu/core"
import { EVENT_BYTES, PPR_BYTES } from "../spec/events.ts"
import { explain } from "./explain.ts"
import { linuxLines } from "./linux-lines.ts"
import { readLinuxLog } from "./linux-log.ts"
import { decodePageRequest } from "./page-request.ts"
import { decodeRecord, type SmmuV3Record } from "./record.ts"

/** The Event queue and the PRI queue of an SMMUv3. */
export const smmuv3Decoder: FaultDecoder<SmmuV3Record> = {
  vendor: "smmuv3",
  recordBytes: EVENT_BYTES,
  pageRequestBytes: PPR_BYTES,
  decode: decodeRecord,
  explain,
  linuxLines,
  readLinuxLog,
  decodePageRequest,
}
