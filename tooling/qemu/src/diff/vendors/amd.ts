/** AMD-Vi under comparison. AMD 48882 rev 3.10. */
import { amdModel, registers } from "@iommu/amd"
import type { Records, VendorDiff } from "../vendor-diff.ts"
import { type AmdCase, amdCases, MAX_ACCESSES } from "./amd-case.ts"
import { amdCommands } from "./amd-commands.ts"
import { eventsOf } from "./amd-events.ts"
import { AMD_BYPASS, amdScript, EVENT_LOG_BYTES, EVT_TAIL } from "./amd-script.ts"
import { amdStale } from "./amd-stale.ts"

const { REGISTERS } = registers

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
      const records = new Map<number, (readonly bigint[])[]>()
      for (const words of eventsOf(log, tail)) {
        const device = Number(words[0] & 0xffffn)
        records.set(device, [...(records.get(device) ?? []), words])
      }
      return records
    }),
  stale: amdStale,
  commands: amdCommands,
  model: ({ identity }, memory, caches) =>
    amdModel({ memory, extFeatures: identity["EXT_FEATURES"], extFeatures2: 0n, caches: caches ?? "exact" }),
}
