import { Command, Option } from "commander"
import { reportTable, walkLines } from "../nested/report.ts"
import { type NestedReport, runNested } from "../nested/scenario.ts"
import { NESTED_VENDORS } from "../nested/vendors.ts"

interface NestedOptions {
  readonly vendor: string
  readonly abi?: true
  readonly json?: true
  readonly trace?: true
}

const NOTES = `
Per vendor: a host with the vendor's IOMMU, its driver and an iommufd; a VMM that binds two devices to it, maps the
guest's RAM (4 KiB, 2 MiB and 1 GiB leaves) and nests the guest's tables on it; a guest whose own driver builds stage 1
in its memory behind a virtual IOMMU; DMA through both stages, and the faults of broken accesses, which reach the guest
where the kernel serves that. It is run on hardware that caches nothing, as reported, and once more on hardware that
forgets nothing until it is told to.

Exit code: 0 when every byte and every fault is as it must be, 1 when not, 2 for a wrong command line.`

export function runCommand(): Command {
  return new Command("run").description("Run a whole machine").addCommand(nestedCommand())
}

function nestedCommand(): Command {
  return new Command("nested")
    .description("Nested DMA: guest-owned stage 1 over host-owned stage 2")
    .addOption(
      new Option("--vendor <vendor>", "whose IOMMU")
        .choices([...Object.keys(NESTED_VENDORS), "all"])
        .default("all"),
    )
    .option("--abi", "let the VMM reach iommufd by ioctls alone, byte by byte")
    .option("--json", "print one JSON document")
    .option("--trace", "print each walk, table by table")
    .addHelpText("after", NOTES)
    .action(nested)
}

function nested(options: NestedOptions): void {
  const names = options.vendor === "all" ? Object.keys(NESTED_VENDORS) : [options.vendor]
  const reports: NestedReport[] = []
  for (const name of names) {
    const vendor = NESTED_VENDORS[name]
    if (vendor === undefined) continue
    const trace = options.trace === true && options.json !== true
    if (trace) console.log(`\n${vendor.name}\n`)
    const face = options.abi === true ? "abi" : "typed"
    reports.push(
      runNested(vendor, face, trace ? walk => console.log(`${walkLines(walk).join("\n")}\n`) : null),
    )
  }
  const ok = reports.every(report => report.problems.length === 0)
  if (options.json) {
    console.log(JSON.stringify({ machines: reports, ok }))
  } else {
    console.log(reportTable(reports))
    for (const { vendor, problems } of reports)
      for (const problem of problems) console.error(`${vendor}: ${problem}`)
  }
  process.exitCode = ok ? 0 : 1
}
