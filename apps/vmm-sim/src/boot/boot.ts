/** One boot: a machine put together, run until the guest powers off, and looked at from both sides. */
import { type CachePolicy, requesterName } from "@iommu/core"
import { describeBinary, makeWorkFolder, type QemuBinary, type QemuEnd } from "@iommu/qemu"
import { GuestConsole } from "./guest/console.ts"
import type { RogueDma } from "./guest/init-script.ts"
import { buildInitramfs } from "./guest/initramfs.ts"
import type { GuestFiles, GuestKernel } from "./guest/kernels.ts"
import { keepRun, keptFolder } from "./keep.ts"
import { createHardware, type Hardware } from "./machine/hardware.ts"
import { createRamFile, type RamFile } from "./machine/ram-file.ts"
import { type StartOptions, startMachine } from "./machine/start.ts"
import type { BootMode, BootPlatform } from "./platform.ts"
import type { DmaPolicy } from "./policy.ts"

export interface BootPlan {
  readonly platform: BootPlatform
  /** For people: `legacy, strict, 2 CPUs`. */
  readonly name: string
  readonly mode: BootMode
  readonly policy: DmaPolicy
  readonly binary: QemuBinary
  readonly files: GuestFiles
  /** Modules that the guest loads, as in {@link GuestKernel}. */
  readonly modules: readonly string[]
  /** Another kernel than the cache's. */
  readonly kernel?: string
  /** Another first file system than ours: then nothing is known of what the guest does. */
  readonly initrd?: Uint8Array
  /** Added to the kernel's command line. */
  readonly append: string
  readonly cpus: number
  readonly caches: CachePolicy
  readonly rogue: readonly Omit<RogueDma, "registers">[]
  readonly timeoutMs: number
  /** Folder where RAM, console, disk and transcript stay; absent: nothing stays. */
  readonly keepIn?: string
  readonly onConsoleLine: (line: string) => void
}

/** What is there when the guest is gone. */
export interface BootRun {
  readonly plan: BootPlan
  readonly hardware: Hardware
  readonly console: GuestConsole
  readonly end: QemuEnd
  readonly qemuSaid: string
  readonly milliseconds: number
  /** What our side could not serve. */
  readonly complaints: readonly string[]
}

const RAM_BYTES = 512 * 2 ** 20
const TRAP_SLOT = 2
const DISK_SLOT = 3
const COMPANION_SLOT = 4
/** Requester ids are bus, device, function. */
export const DISK_ID: number = DISK_SLOT * 8
/** Driver and name of the disk in the kernel's log. */
export const DISK_NAME: string = `nvme 0000:${requesterName(DISK_ID)}`

/** @throws Error when QEMU does not start; nothing is left running then */
export async function bootGuest(plan: BootPlan): Promise<BootRun> {
  const folder = plan.keepIn === undefined ? makeWorkFolder() : keptFolder(plan.keepIn)
  const ram = createRamFile(folder.file("ram"), RAM_BYTES)
  try {
    const run = await runMachine(plan, ram)
    if (plan.keepIn !== undefined) keepRun(run, folder)
    return run
  } finally {
    ram.close()
    folder.remove()
  }
}

async function runMachine(plan: BootPlan, ram: RamFile): Promise<BootRun> {
  const started = performance.now()
  const console = new GuestConsole(plan.onConsoleLine)
  const complaints: string[] = []
  let sendMessage: (address: bigint, data: number) => void = () => undefined
  const hardware = createHardware({
    platform: plan.platform,
    createModel: plan.mode.createModel,
    caches: plan.caches,
    ram,
    ramBytes: RAM_BYTES,
    device: DISK_ID,
    onMessage: (address, data) => sendMessage(address, data),
  })
  const session = await startMachine({
    ...machineOf(plan, ram, hardware),
    onConsole: text => console.push(text),
    complain: what => complaints.push(what),
  })
  try {
    // An interrupt on its way to a machine that has just ended reaches nobody.
    sendMessage = (address, data) => void session.qtest.writel(address, data).catch(() => undefined)
    await plan.platform.board.placeBar(session.qtest, TRAP_SLOT, plan.platform.registers.base)
    hardware.trap.hide()
    await session.qmp.execute("cont")
    const end = await session.process.ended
    const milliseconds = Math.round(performance.now() - started)
    const qemuSaid = session.process.stderr.trim()
    return { plan, hardware, console, end, qemuSaid, milliseconds, complaints }
  } finally {
    await session.close()
  }
}

function machineOf(
  plan: BootPlan,
  ram: RamFile,
  { iommu, trap, nvme }: Hardware,
): Omit<StartOptions, "onConsole" | "complain"> {
  const { platform, mode, policy } = plan
  const companion = platform.companion?.(iommu.mmio)
  const { board } = platform
  const given = [board.append, mode.append, policy.append, plan.append]
  const words = [`console=${board.console}`, "panic=-1", ...given]
  return {
    binary: plan.binary,
    board,
    firmware: platform.firmware,
    facts: { mmio: iommu.mmio, companionDevice: COMPANION_SLOT * 8 },
    ramFile: ram.path,
    ramBytes: RAM_BYTES,
    cpus: plan.cpus,
    kernel: plan.kernel ?? plan.files.vmlinuz,
    initramfs: plan.initrd ?? initramfsOf(plan, nvme.rogueOffset),
    append: words.filter(word => word !== "").join(" "),
    functions: [
      { fn: trap, slot: TRAP_SLOT },
      { fn: nvme, slot: DISK_SLOT },
      ...(companion === undefined ? [] : [{ fn: companion, slot: COMPANION_SLOT }]),
    ],
    timeoutMs: plan.timeoutMs,
  }
}

function initramfsOf({ files, modules, rogue }: BootPlan, registers: number): Uint8Array {
  return buildInitramfs({
    files,
    modules,
    rogue: rogue.map(dma => ({ ...dma, registers })),
  })
}

/** `Linux 6.1.0-50-cloud-amd64 on QEMU 7.2.22 x86_64 (system)`. */
export function describeMachine({ files, kernel, binary }: BootPlan): string {
  return `${kernel ?? `Linux ${files.release}`} on ${describeBinary(binary)}`
}
