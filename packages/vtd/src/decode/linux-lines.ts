/** Lines of Linux's log for fault records: `dmar_fault_do_one` in 6.1, 6.12, 6.18 and 7.2. */
import { type LinuxContext, requesterName } from "@iommu/core"
import { FI_INDEX_SHIFT, FRCD } from "../spec/events.ts"
import { isInterruptLine, reasonText } from "./linux-text.ts"
import type { VtdRecord } from "./record.ts"

/** After this line, kernels with DMAR_DEBUG dump the tables that the request met, which no record holds. */
export function linuxLines(record: VtdRecord, context: LinuxContext): string[] {
  const { FI, T1, PV, PP } = FRCD.decode(record.words)
  const device = `Request device [${deviceText(record.device, context)}]`
  const reason = `[fault reason ${hex(record.reason, 2)}] ${reasonText(record.reason)}`
  if (isInterruptLine(record.reason)) {
    return [`DMAR: [INTR-REMAP] ${device} fault index ${hex(FI >> FI_INDEX_SHIFT)} ${reason}`]
  }
  // Linux looks at T1 alone: an atomic operation is a read, a page request a write.
  const access = T1 === 1n ? "DMA Read" : "DMA Write"
  const pasid = PP === 1n ? `PASID ${hex(PV)}` : "NO_PASID"
  return [`DMAR: [${access} ${pasid}] ${device} fault addr ${hex(FI << 12n)} ${reason}`]
}

function deviceText(id: number, { release, segment }: LinuxContext): string {
  switch (release) {
    case "6.1":
    case "6.12":
    case "6.18":
      return requesterName(id)
    case "7.2":
      return `${segment.toString(16).padStart(4, "0")}:${requesterName(id)}`
  }
}

function hex(value: bigint | number, digits = 1): string {
  return `0x${value.toString(16).padStart(digits, "0")}`
}
