/** A running machine with an IOMMU and devices that do DMA behind it, driven without waiting for each answer. */
import { closeSync, existsSync, openSync } from "node:fs"
import { tmpdir } from "node:os"
import type { QemuBinary } from "../binary/qemu-binary.ts"
import { cpuSecondsOf } from "../process/cpu-time.ts"
import { type QemuSession, type SessionOptions, startSession } from "../process/session.ts"
import type { WorkFolder } from "../process/work-folder.ts"
import { Edu, RUNNING } from "./edu.ts"
import { writeFirmware } from "./firmware.ts"
import { IOMMU_BASE, LAYOUTS, type MachineLayout } from "./layout.ts"
import { RamFile } from "./ram-file.ts"
import type { Recipe } from "./recipe.ts"
import { TestDevice } from "./test-device.ts"

/** Device numbers of the first `edu`: those below are the machine's own. */
const FIRST_SLOT = 4
/** From a broken connection to the end of the process. */
const END_MS = 1_000
/** RAM in a file on memory where there is such a file system, so that nothing is written to a disk. */
const MEMORY_FOLDER = "/dev/shm"

/** Arguments of every machine: no devices of its own, and a CPU whose clock jumps to the next timer while it sleeps. */
export function machineArguments(
  binary: QemuBinary,
  recipe: Recipe,
  folder: WorkFolder,
  devices: number,
): string[] {
  const { ramBytes } = LAYOUTS[binary.target]
  const firmware = folder.file("firmware")
  const ram = folder.file("ram")
  writeFirmware(firmware, binary.target)
  closeSync(openSync(ram, "w"))
  const [machine, type, ...rest] = recipe.args
  return [
    machine,
    `${type},memory-backend=ram`,
    ...rest,
    "-m",
    `size=${ramBytes / 1024 ** 2}M`,
    "-object",
    `memory-backend-file,id=ram,size=${ramBytes},mem-path=${ram},share=on`,
    "-nodefaults",
    "-display",
    "none",
    "-accel",
    "tcg",
    "-icount",
    "shift=0,sleep=off",
    "-bios",
    firmware,
    ...upTo(devices).flatMap(index => ["-device", Edu.argument(FIRST_SLOT + index)]),
    ...testDevicesOf(binary, devices).flatMap(({ slot }) => ["-device", TestDevice.argument(slot)]),
  ]
}

export function devicesOf(binary: QemuBinary, count: number): Edu[] {
  return upTo(count).map(index => new Edu(FIRST_SLOT + index, index, LAYOUTS[binary.target]))
}

/** As many as there are `edu`, behind them, or none where QEMU has no such device. */
export function testDevicesOf(binary: QemuBinary, count: number): TestDevice[] {
  if (!TestDevice.isIn(binary)) return []
  return upTo(count).map(
    index => new TestDevice(FIRST_SLOT + count + index, count + index, LAYOUTS[binary.target]),
  )
}

function upTo(count: number): number[] {
  return Array.from({ length: count }, (_, index) => index)
}

/** Where the RAM file of a machine goes. */
export function workFolderParent(): string {
  return existsSync(MEMORY_FOLDER) ? MEMORY_FOLDER : tmpdir()
}

export interface QemuMachine {
  readonly binary: QemuBinary
  readonly recipe: Recipe
  readonly layout: MachineLayout
  /** Physical address of the IOMMU's registers. */
  readonly iommu: number
  readonly devices: readonly Edu[]
  /** One for each of {@link devices}, or none. */
  readonly testDevices: readonly TestDevice[]
  readonly ram: RamFile
  /** Sends lines at once. @returns their answers */
  run(lines: readonly string[]): Promise<string[]>
  /** Waits until none of these devices transfers. */
  idle(devices: readonly Edu[]): Promise<void>
  /** Seconds of CPU that QEMU has used. */
  cpuSeconds(): number
  /** Resets the machine: RAM stays as it is, the devices' buffers too. */
  reset(): Promise<void>
  /** Ends QEMU at once; what waits for it fails. */
  kill(): void
  close(): Promise<void>
}

/**
 * Starts a machine with so many devices, enabled.
 * @throws Error with QEMU's words when it does not start
 */
export async function startMachine(
  binary: QemuBinary,
  recipe: Recipe,
  deviceCount: number,
  options: SessionOptions = {},
): Promise<QemuMachine> {
  const session = await startSession(
    binary,
    folder => machineArguments(binary, recipe, folder, deviceCount),
    { parent: workFolderParent(), ...options },
  )
  const layout = LAYOUTS[binary.target]
  const devices = devicesOf(binary, deviceCount)
  const testDevices = testDevicesOf(binary, deviceCount)
  const ram = new RamFile(session.folder.file("ram"), layout.ram)
  const run = async (lines: readonly string[]): Promise<string[]> => {
    try {
      return await Promise.all(lines.map(line => session.qtest.command(line)))
    } catch (error) {
      throw await withCause(session, error)
    }
  }
  await run([...devices, ...testDevices].flatMap(device => device.enable()))
  return {
    binary,
    recipe,
    layout,
    iommu: IOMMU_BASE[recipe.vendor],
    devices,
    testDevices,
    ram,
    run,
    idle: waiting => waitUntilIdle(run, waiting),
    cpuSeconds: () => cpuSecondsOf(session.process.pid),
    reset: async () => {
      await resetMachine(session)
      await run([...devices, ...testDevices].flatMap(device => device.enable()))
    },
    kill: () => session.process.kill(),
    close: async () => {
      ram.close()
      await session.close()
    },
  }
}

/** Resolves when it has happened, some turns of QEMU's main loop after it was asked for. */
async function resetMachine({ qmp }: QemuSession): Promise<void> {
  const happened = new Promise<void>(resolve => {
    qmp.onEvent = ({ event }) => {
      if (event === "RESET") resolve()
    }
  })
  await qmp.execute("system_reset")
  await happened
  qmp.onEvent = null
}

/** A transfer ends when QEMU's clock reaches its timer, some turns of QEMU's main loop after it was started. */
async function waitUntilIdle(run: QemuMachine["run"], devices: readonly Edu[]): Promise<void> {
  let waiting = devices
  while (waiting.length > 0) {
    // The last one started ends last, so it alone is asked until it is done.
    const last = waiting[waiting.length - 1].poll()
    while ((BigInt((await run([last]))[0]) & RUNNING) !== 0n);
    const states = await run(waiting.map(device => device.poll()))
    waiting = waiting.filter((_, index) => (BigInt(states[index]) & RUNNING) !== 0n)
  }
}

/** QEMU ended in the middle of its work; the message is what it said. */
export class QemuEnded extends Error {}

/** A connection that breaks is QEMU's end: what it said before that, in place of what the socket says. */
async function withCause({ process: qemu }: QemuSession, error: unknown): Promise<unknown> {
  const end = await Promise.race([
    qemu.ended,
    new Promise<null>(resolve => setTimeout(resolve, END_MS, null)),
  ])
  return end === null ? error : new QemuEnded(qemu.describe(), { cause: error })
}
