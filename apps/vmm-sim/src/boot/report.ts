/** What a boot showed, as a document and as text. */
import Table from "cli-table3"
import { type BootRun, DISK_ID, describeMachine } from "./boot.ts"
import {
  type Checksum,
  checksumsOf,
  faultTextsOf,
  printedFeatures,
  problemsOf,
  switchesOf,
} from "./checks.ts"
import { type BringUpLines, linuxBringUp, ownBringUpLines } from "./compare/bring-ups.ts"
import type { ToldFault } from "./watch/fault-texts.ts"

export interface BootReport {
  readonly vendor: string
  /** Mode, and what else differs from a plain boot. */
  readonly boot: string
  readonly machine: string
  readonly cpus: number
  readonly caches: string
  /** Lines of the kernel's log by the vendor's driver, before the guest's script began. */
  readonly driver: readonly string[]
  /** Feature registers that the kernel printed, and what it turned on of those that are watched. */
  readonly features: Readonly<Record<string, string>>
  /** As the kernel names it: DMA-FQ is lazy, DMA strict, identity passed through. */
  readonly domain: string
  readonly registersRead: Readonly<Record<string, number>>
  readonly registersWritten: Readonly<Record<string, number>>
  readonly commands: Readonly<Record<string, number>>
  readonly translations: number
  /** Translations for which no table was read. */
  readonly fromCaches: number
  readonly refused: number
  /** Pages that the longest walk has read, configuration structures included. */
  readonly longestWalk: number
  /** Under `hoard`: translations asked of a second model that keeps nothing, and those that differed. */
  readonly freshness: { readonly compared: number; readonly stale: number } | null
  readonly tablePages: number
  readonly interrupts: { readonly iommu: number; readonly disk: number }
  readonly faults: readonly FaultReport[]
  readonly disk: {
    readonly commands: Readonly<Record<string, number>>
    readonly bytesRead: number
    readonly bytesWritten: number
    readonly flushes: number
  }
  readonly checksums: readonly Checksum[]
  /** What the kernel's driver said to bring the IOMMU up, and for its first unmap, in normal form. */
  readonly linux: BringUpLines
  /** The same of our own driver on the same model. */
  readonly own: BringUpLines
  readonly poweredOff: boolean
  readonly milliseconds: number
  /** What did not come out as it must; empty when all is well. */
  readonly problems: readonly string[]
  /** Only with problems: the end of the console, and the last accesses of registers. */
  readonly lastLines: readonly string[]
  readonly lastAccesses: readonly string[]
}

interface FaultReport {
  readonly reason: string
  readonly code: number
  readonly device: number
  readonly address: string
  readonly access: number
  readonly record: readonly string[] | null
  readonly detail: string
  /** Lines of our decoder for the record, and whether the kernel has printed exactly these. */
  readonly text: readonly string[]
  readonly isTold: boolean
}

const LAST_LINES = 20

export function reportOf(run: BootRun): BootReport {
  const { plan, hardware, console } = run
  const { counts } = hardware.iommu
  const problems = problemsOf(run)
  return {
    vendor: plan.platform.name,
    boot: plan.name,
    machine: describeMachine(plan),
    cpus: plan.cpus,
    caches: plan.caches,
    driver: console.kernelLines(plan.platform.driverLines, console.bootLines).slice(0, 40),
    features: featuresOf(run),
    domain: console.mark("domain")?.[0] ?? "unknown",
    registersRead: Object.fromEntries(hardware.transcript.reads),
    registersWritten: Object.fromEntries(hardware.transcript.writes),
    commands: Object.fromEntries(hardware.transcript.commands),
    translations: counts.translations,
    fromCaches: counts.fromCaches,
    refused: counts.refused,
    longestWalk: counts.longestWalk,
    freshness:
      hardware.freshness === null
        ? null
        : { compared: hardware.freshness.compared, stale: hardware.freshness.stale },
    tablePages: counts.tablePages.size,
    interrupts: { iommu: hardware.sent.iommu, disk: hardware.nvme.interruptsSent },
    faults: faultTextsOf(run).faults.map(faultReport),
    disk: { commands: Object.fromEntries(hardware.nvme.commands), ...hardware.disk.counts },
    checksums: checksumsOf(run),
    linux: linuxBringUp(plan.platform, hardware.transcript),
    own: ownBringUpLines(plan.platform, plan.mode, DISK_ID),
    poweredOff: run.end.code === 0,
    milliseconds: run.milliseconds,
    problems,
    lastLines: problems.length === 0 ? [] : console.lines.slice(-LAST_LINES),
    lastAccesses: problems.length === 0 ? [] : [...hardware.transcript.lastAccesses],
  }
}

function featuresOf(run: BootRun): Record<string, string> {
  return Object.fromEntries([
    ...printedFeatures(run).map(({ register, value }) => [register, `0x${value.toString(16)}`]),
    ...switchesOf(run).map(({ name, on }) => [name, on ? "on" : "off"]),
  ])
}

function faultReport({ fault, text, isTold }: ToldFault): FaultReport {
  return {
    reason: fault.reason,
    code: fault.code,
    device: fault.device,
    address: `0x${fault.address.toString(16)}`,
    access: fault.access,
    record: fault.record?.map(word => `0x${word.toString(16).padStart(16, "0")}`) ?? null,
    detail: fault.detail,
    text,
    isTold,
  }
}

function faultText({ reason, detail, address, text, isTold }: FaultReport): string {
  const lines = text.map(line => `  ${line.replaceAll("\t", " ")}`)
  return [
    `${reason}: ${detail}, ${address}`,
    `  Linux ${isTold ? "prints" : "did not print"}:`,
    ...lines,
  ].join("\n")
}

/** One boot in one line. */
export function reportLine(report: BootReport): string {
  const verdict = report.problems.length === 0 ? "ok    " : "WRONG "
  const seconds = (report.milliseconds / 1000).toFixed(1)
  const stale = report.freshness === null ? "" : `, ${report.freshness.stale} stale`
  return (
    `${verdict} ${`${report.vendor}: ${report.boot}`.padEnd(36)} ${report.domain.padEnd(8)} ` +
    `${report.translations} translations${stale}, ${sumOf(report.commands)} commands, ` +
    `${report.faults.length} faults, longest walk ${report.longestWalk}, ${seconds} s`
  )
}

function sumOf(counts: Readonly<Record<string, number>>): number {
  return Object.values(counts).reduce((sum, times) => sum + times, 0)
}

/** The whole of one boot, for people. */
export function reportText(report: BootReport): string {
  const table = new Table({ style: { head: [], border: [] }, colWidths: [22, 100], wordWrap: true })
  const counts = (of: Readonly<Record<string, number>>): string =>
    Object.entries(of)
      .sort(([, a], [, b]) => b - a)
      .map(([name, times]) => `${name} ${times}`)
      .join(", ")
  const megabytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`
  const good = report.checksums.filter(sum => sum.written !== "" && sum.written === sum.read).length
  table.push(
    ["machine", `${report.machine}, ${report.cpus} CPU, ${report.vendor}: ${report.boot}`],
    ["the driver says", report.driver.join("\n")],
    [
      "features",
      Object.entries(report.features)
        .map(([name, value]) => `${name} ${value}`)
        .join(", "),
    ],
    ["domain of the disk", report.domain],
    ["registers written", counts(report.registersWritten)],
    ["registers read", counts(report.registersRead)],
    ["commands", counts(report.commands)],
    ["translations", `${report.translations}, of which ${report.fromCaches} without reading a table`],
    ...(report.freshness === null
      ? []
      : [["stale translations", `${report.freshness.stale} of ${report.freshness.compared} compared`]]),
    ["table pages read", `${report.tablePages}, by the longest walk ${report.longestWalk}`],
    ["interrupts", `${report.interrupts.iommu} of the IOMMU, ${report.interrupts.disk} of the disk`],
    ["disk", `${megabytes(report.disk.bytesWritten)} written, ${megabytes(report.disk.bytesRead)} read`],
    ["checksums", `${good} of ${report.checksums.length} equal`],
    ["faults", report.faults.map(faultText).join("\n")],
    [
      "end",
      `${report.poweredOff ? "power-off" : "ended"} after ${(report.milliseconds / 1000).toFixed(1)} s`,
    ],
    ["verdict", report.problems.length === 0 ? "ok" : report.problems.join("\n")],
  )
  const lines = [table.toString()]
  if (report.problems.length > 0) {
    lines.push("last lines of the console:", ...report.lastLines)
    lines.push("last accesses of registers:", ...report.lastAccesses)
  }
  return lines.join("\n")
}
