/** What has to be true after a boot: seen by the guest, by the model, and by both alike. */
import { type BootRun, DISK_ID, DISK_NAME } from "./boot.ts"
import { STRETCHES } from "./guest/init-script.ts"
import { compareTexts, type FaultTexts, releasesOf } from "./watch/fault-texts.ts"
import {
  misreadRegisters,
  type PrintedRegister,
  type SwitchState,
  switchProblems,
  switchStates,
} from "./watch/features.ts"

/** SHA-256 of one stretch of the disk: as the guest wrote it, as it read it back, as the disk has it. */
export interface Checksum {
  readonly name: string
  readonly written: string
  readonly read: string
  readonly disk: string
}

export function checksumsOf({ console, hardware }: BootRun): Checksum[] {
  return STRETCHES.map(({ name, offsetKib, sizeKib }) => {
    const sums = console.marks.find(mark => mark.word === "sum" && mark.rest[0] === name)?.rest
    return {
      name,
      written: sums?.[1] ?? "",
      read: sums?.[2] ?? "",
      disk: hardware.disk.digest(offsetKib * 1024, sizeKib * 1024),
    }
  })
}

/** Feature registers as the kernel printed them. */
export function printedFeatures({ plan, console }: BootRun): PrintedRegister[] {
  const { linuxFeatures } = plan.platform
  return linuxFeatures === undefined ? [] : console.lines.flatMap(line => linuxFeatures.of(line))
}

/** What the kernel has turned on of the features that the platform watches. */
export function switchesOf({ plan, hardware }: BootRun): SwitchState[] {
  const { switches = [], registers } = plan.platform
  return switchStates(switches, hardware.iommu.mmio, registers.specs, hardware.transcript.entries)
}

/** The model's faults and the kernel's lines about them. */
export function faultTextsOf({ plan, console, hardware }: BootRun): FaultTexts {
  const version = console.mark("begin")?.[0] ?? (plan.kernel === undefined ? plan.files.release : "")
  return compareTexts(
    hardware.iommu.counts.faults,
    console.kernelLines(/./),
    plan.platform.decoder,
    releasesOf(version),
    { iommu: plan.platform.iommuName, devices: new Map([[DISK_ID, DISK_NAME]]) },
  )
}

/** What did not come out as it must; empty when all is well. */
export function problemsOf(run: BootRun): string[] {
  const ended = endProblems(run)
  return [
    ...ended,
    ...run.complaints,
    ...staleProblems(run),
    ...run.qemuSaid.split("\n").filter(line => line.includes("Blocked re-entrant IO")),
    ...run.console.marks
      .filter(({ word }) => word === "problem")
      .map(({ rest }) => `the guest says: ${rest.join(" ")}`),
    // A guest that did not get to its end has nothing to show for what was to come.
    ...(run.plan.initrd === undefined && ended.length === 0 ? scriptProblems(run) : []),
  ]
}

/** What our own script was to do, and to see. */
function scriptProblems(run: BootRun): string[] {
  return [...domainProblems(run), ...featureProblems(run), ...dataProblems(run), ...faultProblems(run)]
}

function staleProblems({ hardware: { freshness } }: BootRun): string[] {
  if (freshness === null || freshness.stale === 0) return []
  const [first] = freshness.hits
  const where = first === undefined ? "" : `: ${first.iova} went to ${first.kept}, not ${first.now}`
  return [`${freshness.stale} translations were stale${where}`]
}

function endProblems({ end, console, qemuSaid, plan, milliseconds }: BootRun): string[] {
  if (end.signal === "SIGKILL" && milliseconds >= plan.timeoutMs) {
    return [`the guest had not powered off after ${plan.timeoutMs / 1000} s and was ended`]
  }
  if (end.code !== 0) return [`QEMU ended with ${end.signal ?? end.code}: ${qemuSaid}`]
  const panic = console.kernelLines(/Kernel panic|BUG:|Oops|WARNING: CPU/)
  if (panic.length > 0) return [`the guest's kernel says: ${panic[0]}`]
  const hasEnded = plan.initrd !== undefined || console.mark("end") !== null
  return hasEnded ? [] : ["the guest ended before its script did"]
}

function domainProblems({ plan, console }: BootRun): string[] {
  const { domain } = plan.policy
  const seen = console.mark("domain")?.[0]
  return domain === null || seen === domain ? [] : [`the disk's domain is ${seen}, not ${domain}`]
}

function featureProblems(run: BootRun): string[] {
  const { linuxFeatures, switches = [], registers } = run.plan.platform
  const { mmio } = run.hardware.iommu
  const [release = ""] = run.console.mark("begin") ?? []
  return [
    ...(linuxFeatures === undefined
      ? []
      : misreadRegisters(linuxFeatures, printedFeatures(run), mmio, registers.specs)),
    ...switchProblems(switches, switchesOf(run), release),
  ]
}

function dataProblems(run: BootRun): string[] {
  return checksumsOf(run)
    .filter(({ written, read, disk }) => written === "" || written !== read || written !== disk)
    .map(({ name, written, read, disk }) => `${name}: wrote ${written}, read ${read}, the disk has ${disk}`)
}

/** Every rogue DMA refused, recorded, signalled, and told by the kernel in the text of its record; nothing else refused. */
function faultProblems(run: BootRun): string[] {
  const { counts } = run.hardware.iommu
  const problems: string[] = []
  const expected = run.plan.rogue.length
  if (counts.refused !== expected)
    problems.push(`${counts.refused} DMAs were refused, ${expected} should have been`)
  const { faults, unexplained } = faultTextsOf(run)
  for (const { fault, text, isTold } of faults) {
    if (!isTold) problems.push(`of ${fault.reason} the kernel was to print: ${text.join("\n")}`)
  }
  for (const line of unexplained)
    problems.push(`the kernel printed what no record of the model says: ${line}`)
  if (expected > 0 && run.hardware.sent.iommu === 0) problems.push("no interrupt told of a fault")
  return problems
}
