/** Starts a QEMU whose IOMMU and disk live in this process, and lets it run. */
import { writeFileSync } from "node:fs"
import { FIRST_LINK, type QemuBinary, type QemuSession, type Qtest, startSession } from "@iommu/qemu"
import type { PciFunction } from "../pci/function.ts"
import type { BootPlatform } from "../platform.ts"
import { serveProxy } from "../transport/proxy-link.ts"

export interface StartOptions {
  readonly binary: QemuBinary
  readonly platform: BootPlatform
  readonly ramFile: string
  readonly ramBytes: number
  readonly cpus: number
  readonly kernel: string
  readonly initramfs: Uint8Array
  readonly append: string
  readonly acpiTables: readonly Uint8Array[]
  readonly functions: readonly PlacedFunction[]
  readonly timeoutMs: number
  /** A line of the guest's console. */
  readonly onConsole: (text: string) => void
  readonly complain: (what: string) => void
}

/** A function and its slot on bus 0. */
interface PlacedFunction {
  readonly fn: PciFunction
  readonly slot: number
}

/** The machine, stopped before its first instruction. */
export async function startMachine(options: StartOptions): Promise<QemuSession> {
  return startSession(
    options.binary,
    folder => {
      const file = (name: string, bytes: Uint8Array): string => {
        writeFileSync(folder.file(name), bytes)
        return folder.file(name)
      }
      const tables = options.acpiTables.flatMap((table, n) => [
        "-acpitable",
        `file=${file(`table${n}`, table)}`,
      ])
      return [
        ...machineArguments(options),
        ...tables,
        "-kernel",
        options.kernel,
        "-initrd",
        file("initramfs", options.initramfs),
        "-append",
        options.append,
        ...options.functions.flatMap(({ slot }, n) => [
          "-device",
          `x-pci-proxy-dev,fd=${FIRST_LINK + n},addr=${slot.toString(16)}.0`,
        ]),
      ]
    },
    {
      timeoutMs: options.timeoutMs,
      links: options.functions.length,
      onStart: started => {
        started.links.forEach((link, n) => {
          const fn = options.functions[n]?.fn
          if (fn !== undefined) serveProxy(link, fn, options.complain)
        })
        started.stdout.setEncoding("utf8")
        started.stdout.on("data", options.onConsole)
      },
    },
  )
}

function machineArguments({ ramFile, ramBytes, cpus }: StartOptions): string[] {
  return [
    ...["-machine", "q35,memory-backend=ram", "-accel", "tcg", "-smp", String(cpus)],
    ...["-m", String(ramBytes / 2 ** 20)],
    ...["-object", `memory-backend-file,id=ram,mem-path=${ramFile},size=${ramBytes},share=on`],
    ...["-nodefaults", "-display", "none", "-no-reboot", "-S", "-serial", "stdio"],
  ]
}

const CONFIG_ADDRESS = 0xcf8
const CONFIG_DATA = 0xcfc
const COMMAND = 0x04
const COMMAND_MEMORY = 2
const BAR0 = 0x10

/** Gives a function on bus 0 its BAR 0 through the ports of PCI configuration mechanism 1, as firmware does. */
export async function placeBar(qtest: Qtest, slot: number, address: number): Promise<void> {
  const write = async (register: number, value: number): Promise<void> => {
    await qtest.outl(CONFIG_ADDRESS, 0x8000_0000 + slot * 2048 + register)
    await qtest.outl(CONFIG_DATA, value)
  }
  await write(BAR0, address)
  await write(COMMAND, COMMAND_MEMORY)
}
