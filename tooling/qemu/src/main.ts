#!/usr/bin/env node
import { CommanderError } from "commander"
import { diffCommand } from "./diff/command.ts"

/** Exit codes: 0 nothing new, 1 a new difference, 2 a wrong command line. */
const EXIT_UNUSABLE = 2

const program = diffCommand().exitOverride().showHelpAfterError()
try {
  await program.parseAsync()
} catch (error) {
  if (!(error instanceof CommanderError)) throw error
  process.exitCode = error.exitCode === 0 ? 0 : EXIT_UNUSABLE
}
