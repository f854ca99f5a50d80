/** Boots of one vendor that differ in one thing each: what hardware can do, what the kernel is told, how many CPUs. */
import type { CachePolicy } from "@iommu/core"
import type { BootPlatform } from "./platform.ts"
import type { PolicyName } from "./policy.ts"

export interface Scenario {
  readonly mode: string
  readonly policy: PolicyName
  readonly cpus: number
  readonly caches: CachePolicy
}

const PLAIN: Omit<Scenario, "mode"> = { policy: "default", cpus: 1, caches: "exact" }

/** Every mode as it is, and the first one in all other respects. */
export function scenariosOf(platform: BootPlatform): Scenario[] {
  const modes = Object.keys(platform.modes)
  const mode = modes[0] as string
  return [
    ...modes.map(name => ({ ...PLAIN, mode: name })),
    { ...PLAIN, mode, policy: "strict" },
    { ...PLAIN, mode, policy: "lazy" },
    { ...PLAIN, mode, policy: "passthrough" },
    { ...PLAIN, mode, cpus: 2 },
    { ...PLAIN, mode, cpus: 2, policy: "lazy", caches: "hoard" },
    { ...PLAIN, mode, policy: "strict", caches: "hoard" },
  ]
}

/** `legacy, strict, 2 CPUs, hoard`: what differs from a plain boot. */
export function scenarioName({ mode, policy, cpus, caches }: Scenario): string {
  return [
    mode,
    ...(policy === "default" ? [] : [policy]),
    ...(cpus === 1 ? [] : [`${cpus} CPUs`]),
    ...(caches === "exact" ? [] : [caches]),
  ].join(", ")
}
