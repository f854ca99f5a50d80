import { execFileSync } from "node:child_process"

/** The C compiler of this machine, or null: tests that need one are skipped then, and the report says so. */
export const compiler: string | null = ["cc", "gcc", "clang"].find(works) ?? null

if (compiler === null)
  console.warn("skipped: no C compiler found; install gcc to compare with Linux's headers")

function works(command: string): boolean {
  try {
    execFileSync(command, ["--version"], { stdio: "ignore" })
    return true
  } catch {
    return false
  }
}
