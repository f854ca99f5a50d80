/** VT-d under comparison. Intel VT-d 5.10 (D51397-018). */
import { registers, vtdModel } from "@iommu/vtd"
import type { RegisterRead } from "../script.ts"
import type { Records, VendorDiff } from "../vendor-diff.ts"
import { MAX_ACCESSES, type VtdCase, vtdCases } from "./vtd-case.ts"
import { vtdCommands } from "./vtd-commands.ts"
import { FRCD_HI, FRCD_LO, VTD_BYPASS, vtdScript } from "./vtd-script.ts"
import { vtdStale } from "./vtd-stale.ts"

const { REGISTERS } = registers
/** QEMU's host address width is its `aw-bits`. */
const HOST_ADDRESS_WIDTH = 48
const F = 1n << 63n

export const vtdDiff: VendorDiff<VtdCase> = {
  devices: MAX_ACCESSES,
  profiles: [""],
  identity: [
    { name: "VER", offset: REGISTERS.VER[0], bytes: 4 },
    { name: "CAP", offset: REGISTERS.CAP[0], bytes: 8 },
    { name: "ECAP", offset: REGISTERS.ECAP[0], bytes: 8 },
  ],
  bypass: VTD_BYPASS,
  compared: ["FSTS", "IQH", "GSTS"],
  derived: ["FSTS"],
  cases: vtdCases,
  script: vtdScript,
  records: (_, script, observation) =>
    observation.rounds.map(({ registers: values }, round): Records => {
      const value = (name: string): bigint => values[indexOf(script.rounds[round].reads, name)]
      const [lo, hi] = [value(FRCD_LO), value(FRCD_HI)]
      return (hi & F) === 0n ? new Map() : new Map([[Number(hi & 0xffffn), [[lo, hi]]]])
    }),
  stale: vtdStale,
  commands: vtdCommands,
  model: ({ identity }, memory, caches) =>
    vtdModel({
      memory,
      capabilities: { ver: identity["VER"], cap: identity["CAP"], ecap: identity["ECAP"] },
      hostAddressWidth: HOST_ADDRESS_WIDTH,
      caches: caches ?? "exact",
    }),
}

function indexOf(reads: readonly RegisterRead[], name: string): number {
  return reads.findIndex(read => read.name === name)
}
