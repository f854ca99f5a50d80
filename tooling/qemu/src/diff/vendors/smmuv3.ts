/** SMMUv3 under comparison. Arm IHI 0070 G.b. */
import { registers, smmuv3Model } from "@iommu/smmuv3"
import type { Records, VendorDiff, World } from "../vendor-diff.ts"
import { MAX_ACCESSES, type SmmuCase, smmuCases } from "./smmuv3-case.ts"
import { smmuv3Commands } from "./smmuv3-commands.ts"
import { EVENT_QUEUE_LG2, EVENT_READS, SMMU_BYPASS, smmuScript } from "./smmuv3-script.ts"
import { smmuv3Stale } from "./smmuv3-stale.ts"

const { REGISTERS } = registers
const ID_REGISTERS = ["IDR0", "IDR1", "IDR2", "IDR3", "IDR4", "IDR5", "IIDR", "AIDR"] as const
const EVENT_BYTES = 32
const PROD_INDEX = EVENT_READS.findIndex(({ name }) => name === "EVENTQ_PROD")

export const smmuv3Diff: VendorDiff<SmmuCase> = {
  devices: MAX_ACCESSES,
  profiles: ["linear", "two-level"],
  identity: ID_REGISTERS.map(name => ({ name, offset: REGISTERS[name][0], bytes: 4 })),
  bypass: SMMU_BYPASS,
  compared: ["GERROR", "CMDQ_CONS", "CR0ACK"],
  derived: [],
  cases: smmuCases,
  script: smmuScript,
  records: (_, _script, observation) => {
    let taken = 0
    return observation.rounds.map(({ registers: values, areas: [queue] }): Records => {
      const prod = Number(values[PROD_INDEX]) & (2 ** (EVENT_QUEUE_LG2 + 1) - 1)
      const records = new Map<number, bigint[][]>()
      for (; taken < prod; taken++) {
        const at = (taken % 2 ** EVENT_QUEUE_LG2) * EVENT_BYTES
        const view = new DataView(queue.buffer, queue.byteOffset + at, EVENT_BYTES)
        const words = [0, 8, 16, 24].map(offset => view.getBigUint64(offset, true))
        const device = Number(words[0] >> 32n)
        records.set(device, [...(records.get(device) ?? []), words])
      }
      return records
    })
  },
  stale: smmuv3Stale,
  commands: smmuv3Commands,
  model: ({ identity }: World, memory, caches) => {
    const id = Object.fromEntries(ID_REGISTERS.map(name => [name, Number(identity[name])]))
    return smmuv3Model({ memory, id, caches: caches ?? "exact" })
  },
}
