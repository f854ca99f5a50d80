import { cpus } from "node:os"
import type { Measurement } from "./measure.ts"
import type { Quantity } from "./quantity.ts"

/** What `--json` prints and `--compare` reads. */
export interface Report {
  readonly schema: 2
  readonly machine: { readonly cpu: string; readonly node: string; readonly v8: string }
  readonly results: readonly Measurement[]
  readonly quantities: readonly Quantity[]
}

export function machineOf(): Report["machine"] {
  return { cpu: cpus()[0]?.model ?? "unknown", node: process.versions.node, v8: process.versions.v8 }
}
