/** AMD-Vi under comparison. AMD 48882 rev 3.10. */
import { amdModel, registers } from "@iommu/amd"
import type { Records, VendorDiff } from "../vendor-diff.ts"
import { type AmdCase, amdCases, MAX_ACCESSES } from "./amd-case.ts"
import { AMD_BYPASS, amdScript, EVENT_LOG_BYTES, EVT_TAIL } from "./amd-script.ts"
import { amdStale } from "./amd-stale.ts"

const { REGISTERS } = registers
const EVENT_BYTES = 16

export const amdDiff: VendorDiff<AmdCase> = {
  devices: MAX_ACCESSES,
  profiles: [""],
  identity: [{ name: "EXT_FEATURES", offset: REGISTERS.EXT_FEATURES[0], bytes: 8 }],
  bypass: AMD_BYPASS,
  compared: ["CMD_HEAD"],
  derived: [],
  cases: amdCases,
  script: amdScript,
  records: (_, script, observation) =>
    observation.rounds.map(({ registers: values, areas: [log] }, round): Records => {
      const index = script.rounds[round].reads.findIndex(({ name }) => name === EVT_TAIL)
      const tail = Number(values[index]) % EVENT_LOG_BYTES
      const records = new Map<number, bigint[][]>()
      for (let at = 0; at < tail; at += EVENT_BYTES) {
        const view = new DataView(log.buffer, log.byteOffset + at, EVENT_BYTES)
        const words = [view.getBigUint64(0, true), view.getBigUint64(8, true)]
        const device = Number(words[0] & 0xffffn)
        records.set(device, [...(records.get(device) ?? []), words])
      }
      return records
    }),
  stale: amdStale,
  model: ({ identity }, memory, caches) =>
    amdModel({ memory, extFeatures: identity["EXT_FEATURES"], extFeatures2: 0n, caches: caches ?? "exact" }),
}
