import type { FaultDecoder } from "@iommu/core"
import { FRCD_BYTES, PAGE_REQ_BYTES } from "../spec/events.ts"
import { explain } from "./explain.ts"
import { linuxLines } from "./linux-lines.ts"
import { readLinuxLog } from "./linux-log.ts"
import { decodePageRequest } from "./page-request.ts"
import { decodeRecord, type VtdRecord } from "./record.ts"

/** Fault recording registers and page requests of VT-d. */
export const vtdDecoder: FaultDecoder<VtdRecord> = {
  vendor: "vtd",
  recordBytes: FRCD_BYTES,
  pageRequestBytes: PAGE_REQ_BYTES,
  decode: decodeRecord,
  explain,
  linuxLines,
  readLinuxLog,
  decodePageRequest,
}
