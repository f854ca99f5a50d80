#!/usr/bin/env node
/** `fetch-qemu SUITE...`: unpacks the QEMUs of Debian suites into the cache, for comparisons, tests and boots. */
import { Command } from "commander"
import { fetchQemu } from "./binary/fetch.ts"

await new Command("fetch-qemu")
  .description("Unpack the QEMUs of Debian suites into .cache/qemu; the system stays as it is")
  .argument("<suite...>", "bookworm, bookworm-backports, trixie-backports…")
  .exitOverride(error => process.exit(error.exitCode === 0 ? 0 : 2))
  .action((suites: readonly string[]) => {
    for (const suite of suites) fetchQemu(suite)
  })
  .parseAsync()
