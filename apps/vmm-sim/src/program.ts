import { Command, CommanderError } from "commander"
import { InputError } from "./capture/input-error.ts"
import { bootCommand } from "./commands/boot.ts"
import { decodeCommand } from "./commands/decode.ts"
import { packCommand } from "./commands/pack-capture.ts"
import { runCommand } from "./commands/run.ts"
import { verifyCommand } from "./commands/verify.ts"

/** Exit codes: 0 done, 1 the command found something wrong, 2 unusable input or a wrong command line. */
const EXIT_UNUSABLE = 2

const program = new Command("vmm-sim")
  .description("Whole machines on the @iommu packages")
  .addCommand(runCommand())
  .addCommand(bootCommand())
  .addCommand(verifyCommand())
  .addCommand(decodeCommand())
  .addCommand(packCommand())

function configure(command: Command): void {
  command
    .exitOverride()
    .showHelpAfterError()
    .configureOutput({ outputError: (text, write) => write(text) })
  for (const sub of command.commands) configure(sub)
}

configure(program)
try {
  await program.parseAsync()
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode === 0 ? 0 : EXIT_UNUSABLE
  } else if (error instanceof InputError) {
    process.stderr.write(`vmm-sim: ${error.message}\n`)
    process.exitCode = EXIT_UNUSABLE
  } else {
    throw error
  }
}
