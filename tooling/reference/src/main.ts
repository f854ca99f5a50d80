/** `pnpm reference` writes docs/reference; with `--check` it writes nothing and fails when a file is stale. */
import { parseArgs } from "node:util"
import { generatedFiles, staleFiles, writeFiles } from "./files.ts"

const { values } = parseArgs({ options: { check: { type: "boolean", default: false } } })

if (values.check) {
  const stale = staleFiles()
  for (const path of stale) console.error(`${path} is stale: run pnpm reference`)
  process.exitCode = stale.length === 0 ? 0 : 1
} else {
  writeFiles()
  for (const { path } of generatedFiles()) console.log(path)
}
