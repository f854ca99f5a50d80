/** Asks a QEMU what it is: version, machines, devices and their properties. Each question starts it once. */
import { spawnSync } from "node:child_process"
import type { QemuBinary, QemuTarget } from "./qemu-binary.ts"

/** How to start a QEMU that has not been asked yet. */
export type QemuCommand = Pick<QemuBinary, "command" | "environment" | "origin">

const PROBE_TIMEOUT_MS = 20_000

/**
 * @returns the QEMU with all it says about itself
 * @throws Error when it does not start or is none
 */
export function probeBinary(start: QemuCommand): QemuBinary {
  const version = /version (\d+\.\d+\.\d+)/.exec(ask(start, ["-version"]))?.[1]
  if (version === undefined)
    throw new Error(`${start.command.join(" ")} does not say its version as QEMU does`)
  const machineHelp = ask(start, ["-machine", "help"])
  return {
    ...start,
    version,
    target: targetOf(machineHelp, start),
    machines: firstWords(machineHelp),
    devices: new Set(
      [...ask(start, ["-device", "help"]).matchAll(/^name "([^"]+)"/gm)].map(([, name]) => name),
    ),
    accelerators: firstWords(ask(start, ["-accel", "help"])),
  }
}

/** Names of a device's properties, from `-device NAME,help`; empty for a device that this QEMU does not have. */
export function deviceProperties(binary: QemuBinary, device: string): ReadonlySet<string> {
  if (!binary.devices.has(device)) return new Set()
  const help = ask(binary, ["-device", `${device},help`])
  return new Set([...help.matchAll(/^ {2}([\w-]+)=/gm)].map(([, name]) => name))
}

/** The name says it when the file has not been renamed; machines always do. */
function targetOf(machineHelp: string, start: QemuCommand): QemuTarget {
  if (/^q35\b/m.test(machineHelp)) return "x86_64"
  if (/^virt\b/m.test(machineHelp)) return "aarch64"
  throw new Error(`${start.command.join(" ")} has neither the machine q35 nor virt`)
}

function ask({ command, environment }: QemuCommand, args: readonly string[]): string {
  const [program, ...before] = command
  const answer = spawnSync(program, [...before, ...args], {
    encoding: "utf8",
    env: { ...process.env, ...environment },
    timeout: PROBE_TIMEOUT_MS,
  })
  if (answer.error) throw answer.error
  if (answer.status !== 0) {
    throw new Error(
      `${command.join(" ")} ${args.join(" ")} ended with ${answer.status}: ${answer.stderr.trim()}`,
    )
  }
  return answer.stdout
}

function firstWords(help: string): Set<string> {
  return new Set(
    help
      .split("\n")
      .slice(1)
      .map(line => line.split(" ")[0])
      .filter(word => word !== ""),
  )
}
