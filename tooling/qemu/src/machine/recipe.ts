/** Machines with an IOMMU, by vendor and by what the IOMMU is set up to do. */
import { deviceProperties } from "../binary/probe.ts"
import { describeBinary, type QemuBinary, type QemuTarget } from "../binary/qemu-binary.ts"

export type Vendor = "vtd" | "smmuv3" | "amd"

export const VENDORS: readonly Vendor[] = ["vtd", "smmuv3", "amd"]

/** A variant of a vendor's IOMMU that a QEMU has. */
export interface Recipe {
  readonly vendor: Vendor
  /** What the IOMMU does: `legacy`, `scalable-first`, `nested`… */
  readonly variant: string
  /** Arguments that choose the machine and its IOMMU. */
  readonly args: readonly string[]
}

export interface RecipeBook {
  readonly recipes: readonly Recipe[]
  /** Variants that this QEMU does not have, one line each. */
  readonly missing: readonly string[]
}

export const TARGET_OF: Readonly<Record<Vendor, QemuTarget>> = {
  vtd: "x86_64",
  smmuv3: "aarch64",
  amd: "x86_64",
}

/**
 * What a guest would need and nobody here does. QEMU works its maps of memory and ports out anew, for each device on the
 * bus, whenever translation goes on or off: without these, in less than half of the time (QEMU 11.1: 4.7 ms for 11.5).
 */
const LEFT_OUT = ["sata", "smbus", "smm", "hpet", "pit", "vmport", "acpi"]
/** RAM below and above 4 GiB, so that addresses of more than 32 bits have something behind them. */
const Q35: string = [
  "q35,max-ram-below-4g=32M,kernel-irqchip=split",
  ...LEFT_OUT.map(name => `${name}=off`),
].join(",")

/** What a QEMU can do for a vendor; nothing at all when it is of another target. */
export function recipesOf(binary: QemuBinary, vendor: Vendor): RecipeBook {
  if (binary.target !== TARGET_OF[vendor]) return { recipes: [], missing: [] }
  switch (vendor) {
    case "vtd":
      return vtd(binary)
    case "smmuv3":
      return smmuv3(binary)
    case "amd":
      return amd(binary)
  }
}

function vtd(binary: QemuBinary): RecipeBook {
  const has = deviceProperties(binary, "intel-iommu")
  const scalable = ["scalable-mode", "x-scalable-mode"].find(name => has.has(name))
  const firstStage = ["fsts", "flts", "x-flts"].find(name => has.has(name))
  const recipe = (variant: string, ...properties: string[]): Recipe => ({
    vendor: "vtd",
    variant,
    args: ["-machine", Q35, "-device", ["intel-iommu", "aw-bits=48", ...properties].join(",")],
  })
  return collect(binary, [
    ["legacy", has.has("aw-bits") && recipe("legacy")],
    ["scalable-second", scalable !== undefined && recipe("scalable-second", `${scalable}=on`)],
    [
      "scalable-first",
      scalable !== undefined &&
        firstStage !== undefined &&
        recipe("scalable-first", `${scalable}=on`, `${firstStage}=on`),
    ],
  ])
}

/** QEMU 10.0 has `pt`, which bypasses translation unless it is off; 10.2 and later have `dma-remap` in its place. */
function amd(binary: QemuBinary): RecipeBook {
  const has = deviceProperties(binary, "amd-iommu")
  const properties = [...(has.has("pt") ? ["pt=off"] : []), ...(has.has("dma-remap") ? ["dma-remap=on"] : [])]
  return collect(binary, [
    [
      "v1",
      binary.devices.has("amd-iommu") && {
        vendor: "amd",
        variant: "v1",
        args: ["-machine", Q35, "-device", ["amd-iommu", ...properties].join(",")],
      },
    ],
  ])
}

/** Machines from 9.2 on are always nested, so the stage is chosen on the last one that listens. */
const SMMU_STAGES_MACHINE = "virt-9.1"

function smmuv3(binary: QemuBinary): RecipeBook {
  const chooses = binary.machines.has(SMMU_STAGES_MACHINE)
  const machine = (type: string, ...more: string[]): string[] => [
    "-machine",
    `${type},iommu=smmuv3,gic-version=3`,
    "-cpu",
    "cortex-a57",
    ...more,
  ]
  const staged = (variant: string, stage: string): Recipe => ({
    vendor: "smmuv3",
    variant,
    args: machine(SMMU_STAGES_MACHINE, "-global", `arm-smmuv3.stage=${stage}`),
  })
  return collect(binary, [
    // Before it could be chosen there was stage 1 alone.
    [
      "stage1",
      chooses ? staged("stage1", "1") : { vendor: "smmuv3", variant: "stage1", args: machine("virt") },
    ],
    ["stage2", chooses && staged("stage2", "2")],
    ["nested", chooses && staged("nested", "nested")],
  ])
}

function collect(
  binary: QemuBinary,
  variants: readonly (readonly [name: string, recipe: Recipe | false])[],
): RecipeBook {
  const recipes: Recipe[] = []
  const missing: string[] = []
  for (const [name, recipe] of variants) {
    if (recipe === false) missing.push(`${describeBinary(binary)} has no ${name}`)
    else recipes.push(recipe)
  }
  return { recipes, missing }
}
