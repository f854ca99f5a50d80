/** A machine whose IOMMU a driver programs: registers and memory as drivers expect them, synchronous. */
import type { IommuPlatform, MemoryRange, Mmio } from "@iommu/core"
import type { QemuBinary } from "../binary/qemu-binary.ts"
import { BlockingQtest } from "../process/blocking-qtest.ts"
import { type QemuProcess, startQemu } from "../process/qemu-process.ts"
import { hex } from "../process/qtest.ts"
import { makeWorkFolder } from "../process/work-folder.ts"
import { EDU_BUFFER_BYTES, type Edu, RUNNING } from "./edu.ts"
import { IOMMU_BASE, LAYOUTS } from "./layout.ts"
import { devicesOf, machineArguments, testDevicesOf, workFolderParent } from "./qemu-machine.ts"
import { RamFile } from "./ram-file.ts"
import type { Recipe } from "./recipe.ts"
import { SharedMemory } from "./shared-memory.ts"
import { type TestAttributes, type TestDevice, type TestWrite, testWriteOf } from "./test-device.ts"

export interface DriverMachine extends IommuPlatform {
  readonly binary: QemuBinary
  readonly devices: readonly Edu[]
  /** One for each of {@link devices}, or none where QEMU has no `iommu-testdev`. */
  readonly testDevices: readonly TestDevice[]
  readonly ram: RamFile
  /** Copies what the machine wrote, outside of register accesses, into {@link IommuPlatform.memory}. */
  pull(): void
  /** Lets a device read: what it found, as it stands in its buffer. */
  dmaRead(device: Edu, iova: bigint, bytes: number): void
  /** Lets a device write what is in its buffer. */
  dmaWrite(device: Edu, iova: bigint, bytes: number): void
  /**
   * Lets a device write its word.
   * @param physical where the word is to arrive
   */
  testWrite(device: TestDevice, iova: bigint, physical: bigint, attributes?: TestAttributes): TestWrite
  close(): Promise<void>
}

/** A run of tests of one driver. */
const TIMEOUT_MS = 300_000

/**
 * @param tables RAM that the driver takes its pages from
 * @throws Error with QEMU's words when it does not start
 */
export async function startDriverMachine(
  binary: QemuBinary,
  recipe: Recipe,
  deviceCount: number,
  tables: MemoryRange,
): Promise<DriverMachine> {
  const folder = makeWorkFolder(workFolderParent())
  const path = folder.file("qtest")
  const qtest = await BlockingQtest.listen(path)
  let qemu: QemuProcess | null = null
  try {
    const args = machineArguments(binary, recipe, folder, deviceCount)
    qemu = await startQemu(binary, [...args, "-qtest", `unix:${path}`, "-qtest-log", "none"], {
      timeoutMs: TIMEOUT_MS,
    })
    const started = qemu
    await qtest.connected(started.ended, () => started.describe())
    const ram = new RamFile(folder.file("ram"), LAYOUTS[binary.target].ram)
    const devices = devicesOf(binary, deviceCount)
    const testDevices = testDevicesOf(binary, deviceCount)
    qtest.exchange([...devices, ...testDevices].flatMap(device => device.enable()))
    const shared = new SharedMemory(ram, tables)
    const transfer = (device: Edu, lines: readonly string[]): void => {
      shared.push()
      qtest.exchange(lines)
      while ((BigInt(qtest.exchange([device.poll()])[0]) & RUNNING) !== 0n);
      shared.pull()
    }
    return {
      binary,
      devices,
      testDevices,
      ram,
      memory: shared.memory,
      pages: shared.pages,
      mmio: registers(qtest, shared, IOMMU_BASE[recipe.vendor]),
      pull: () => shared.pull(),
      dmaRead: (device, iova, bytes) => transfer(device, device.load(iova, 0, atMostABuffer(bytes))),
      dmaWrite: (device, iova, bytes) => transfer(device, device.store(iova, 0, atMostABuffer(bytes))),
      testWrite: (device, iova, physical, attributes) => {
        shared.push()
        const answers = qtest.exchange(device.write(iova, physical, attributes))
        shared.pull()
        return testWriteOf(answers[answers.length - 1])
      },
      close: async () => {
        ram.close()
        await started.stop()
        await qtest.close()
        folder.remove()
      },
    }
  } catch (error) {
    await qemu?.stop()
    await qtest.close()
    folder.remove()
    throw error
  }
}

function atMostABuffer(bytes: number): number {
  // QEMU aborts for more.
  if (bytes > EDU_BUFFER_BYTES) throw new RangeError(`a transfer has at most ${EDU_BUFFER_BYTES} bytes`)
  return bytes
}

/** What a driver stored before a write is there when the hardware looks; what the hardware stored is there after it. */
function registers(qtest: BlockingQtest, shared: SharedMemory, base: number): Mmio {
  const ask = (line: string): string => qtest.exchange([line])[0]
  const tell = (line: string): void => {
    shared.push()
    ask(line)
    shared.pull()
  }
  return {
    read32: offset => Number(ask(`readl ${hex(base + offset)}`)),
    read64: offset => BigInt(ask(`readq ${hex(base + offset)}`)),
    write32: (offset, value) => tell(`writel ${hex(base + offset)} ${hex(value)}`),
    write64: (offset, value) => tell(`writeq ${hex(base + offset)} ${hex(value)}`),
  }
}
