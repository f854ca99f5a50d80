import type { FaultDecoder } from "@iommu/core"
import { EVENT_BYTES } from "../spec/events.ts"
import { explain } from "./explain.ts"
import { linuxLines } from "./linux-lines.ts"
import { readLinuxLog } from "./linux-log.ts"
import { decodePageRequest } from "./page-request.ts"
import { type AmdRecord, decodeRecord } from "./record.ts"

/** The event log and the PPR log of AMD-Vi. */
export const amdDecoder: FaultDecoder<AmdRecord> = {
  vendor: "amd",
  recordBytes: EVENT_BYTES,
  pageRequestBytes: EVENT_BYTES,
  decode: decodeRecord,
  explain,
  linuxLines,
  readLinuxLog,
  decodePageRequest,
}
