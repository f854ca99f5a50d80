/** Starts a QEMU whose IOMMU and disk live in this process. */
import { writeFileSync } from "node:fs"
import { makeWorkFolder, type QemuBinary, type QemuSession, startSession, type WorkFolder } from "@iommu/qemu"
import { type Complain, type PlacedFunction, transportOf } from "../transport/attach.ts"
import type { Board } from "./boards.ts"
import { type Firmware, type FirmwareFacts, firmwareArguments } from "./firmware.ts"

export interface StartOptions {
  readonly binary: QemuBinary
  readonly board: Board
  readonly firmware: Firmware
  readonly facts: FirmwareFacts
  readonly ramFile: string
  readonly ramBytes: number
  readonly cpus: number
  readonly kernel: string
  readonly initramfs: Uint8Array
  readonly append: string
  readonly functions: readonly PlacedFunction[]
  readonly timeoutMs: number
  /** Text of the guest's console, as it comes. */
  readonly onConsole: (text: string) => void
  readonly complain: Complain
}

/**
 * The machine, stopped before its first instruction.
 * @throws Error when QEMU does not start, or has no way to reach functions of another process
 */
export async function startMachine(options: StartOptions): Promise<QemuSession> {
  const transport = transportOf(options.binary)
  if (transport === null) throw new Error("this QEMU has neither vfio-user-pci nor x-pci-proxy-dev")
  const sockets = makeWorkFolder()
  const attachment = await transport.attach(options.functions, sockets, options.complain)
  try {
    return await startSession(
      options.binary,
      folder => [...machineArguments(options, folder), ...attachment.args],
      {
        timeoutMs: options.timeoutMs,
        links: attachment.links,
        onStart: started => {
          attachment.onStart(started)
          started.stdout.setEncoding("utf8")
          started.stdout.on("data", options.onConsole)
          void started.ended.then(() => sockets.remove())
        },
      },
    )
  } catch (error) {
    sockets.remove()
    throw error
  }
}

function machineArguments(options: StartOptions, folder: WorkFolder): string[] {
  const { board, binary, ramFile, ramBytes, cpus, firmware, facts } = options
  const machine = [
    ...["-machine", `${board.machine},memory-backend=ram`, ...board.processor],
    // CPUs take turns: while a function outside is asked, QEMU lets others run, and drops what another CPU asks of the
    // same function meanwhile ("Blocked re-entrant IO").
    ...["-accel", "tcg,thread=single", "-smp", String(cpus), "-m", String(ramBytes / 2 ** 20)],
    ...["-object", `memory-backend-file,id=ram,mem-path=${ramFile},size=${ramBytes},share=on`],
    "-nodefaults",
  ]
  const initramfs = folder.file("initramfs")
  writeFileSync(initramfs, options.initramfs)
  return [
    ...machine,
    ...firmwareArguments(firmware, facts, binary, machine, folder),
    ...["-display", "none", "-no-reboot", "-S", "-serial", "stdio"],
    ...["-kernel", options.kernel, "-initrd", initramfs, "-append", options.append],
  ]
}
