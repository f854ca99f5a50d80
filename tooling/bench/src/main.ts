/**
 * Measures every package's bench cases in one process, all formats and models loaded, next to the yardsticks.
 * @see docs/performance.md
 */
import { readFileSync } from "node:fs"
import { parseArgs } from "node:util"
import { allCases, allQuantities } from "./cases.ts"
import { compare, readReport } from "./compare.ts"
import { measure, sample, WARM_UP_MS } from "./measure.ts"
import { comparisonTable, markdownTables, quantityTable, resultTable } from "./print.ts"
import { measureQuantity } from "./quantity.ts"
import { machineOf, type Report } from "./report.ts"
import { withFurtherTries } from "./tries.ts"

const USAGE = `usage: bench [--json | --markdown] [--compare FILE] [--only TEXT] [--rounds N]

  --json          print one JSON document instead of a table
  --markdown      print the tables of docs/performance.md
  --compare FILE  compare with an earlier --json document: ratios to the yardsticks and quantities, then and now
  --only TEXT     only operations, quantities and subjects that contain TEXT
  --rounds N      rounds of measuring each case against its yardstick (default 9)
`

/** CPU time of one sample. */
const SAMPLE_MS = 4

function main(args: readonly string[]): number {
  const options = readOptions(args)
  if (options === null) return 2
  const { only } = options
  const chosenCases = () =>
    allCases().filter(({ operation, subject }) => `${operation} ${subject}`.includes(only))
  const cases = chosenCases()
  for (const bench of cases) sample(bench, WARM_UP_MS)
  const measuring = { rounds: options.rounds, sampleMs: SAMPLE_MS }
  const results = withFurtherTries(
    cases.map(bench => measure(bench, measuring)),
    measuring,
    chosenCases,
  )
  const quantities = allQuantities()
    .filter(({ what, subject }) => `${what} ${subject}`.includes(only))
    .map(measureQuantity)
  const report: Report = { schema: 2, machine: machineOf(), results, quantities }
  const isOk = [...results, ...quantities].every(({ ok }) => ok)
  if (options.json) process.stdout.write(`${JSON.stringify(report, null, 1)}\n`)
  else if (options.markdown) process.stdout.write(markdownTables(report))
  else process.stdout.write(`${resultTable(results)}\n${quantityTable(quantities)}`)
  if (options.earlier !== null) {
    const text = comparisonTable(compare(options.earlier, report))
    if (options.json) process.stderr.write(text)
    else process.stdout.write(`\n${text}`)
  }
  return isOk ? 0 : 1
}

interface Options {
  readonly json: boolean
  readonly markdown: boolean
  readonly earlier: Report | null
  readonly only: string
  readonly rounds: number
}

function readOptions(args: readonly string[]): Options | null {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: {
        json: { type: "boolean", default: false },
        markdown: { type: "boolean", default: false },
        compare: { type: "string" },
        only: { type: "string", default: "" },
        rounds: { type: "string", default: "9" },
      },
    })
    const rounds = Number(values.rounds)
    if (!Number.isInteger(rounds) || rounds < 1) throw new Error("--rounds takes a whole number from 1 up")
    const earlier = values.compare === undefined ? null : readReport(readFileSync(values.compare, "utf8"))
    return { json: values.json, markdown: values.markdown, earlier, only: values.only, rounds }
  } catch (error) {
    process.stderr.write(`bench: ${error instanceof Error ? error.message : String(error)}\n${USAGE}`)
    return null
  }
}

process.exitCode = main(process.argv.slice(2))
