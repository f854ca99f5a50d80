/** What lives in this process: guest RAM, the IOMMU model, the disk behind it. */
import { backedMemory, type CachePolicy, type IommuModel, type PhysicalMemory } from "@iommu/core"
import { NvmeController } from "../nvme/controller.ts"
import { Disk } from "../nvme/disk.ts"
import type { BootPlatform } from "../platform.ts"
import { FreshnessWatch } from "../watch/freshness.ts"
import { Transcript } from "../watch/transcript.ts"
import { DmaPort } from "./dma-port.ts"
import type { RamFile } from "./ram-file.ts"
import { RegisterTrap } from "./trap.ts"
import { WatchedModel } from "./watched-model.ts"

export interface HardwareOptions {
  readonly platform: BootPlatform
  readonly createModel: (memory: PhysicalMemory, caches: CachePolicy) => IommuModel
  readonly caches: CachePolicy
  readonly ram: RamFile
  readonly ramBytes: number
  /** The disk's requester id. */
  readonly device: number
  /** An interrupt message on its way to the machine's interrupt controller. */
  readonly onMessage: (address: bigint, data: number) => void
}

export interface Hardware {
  readonly iommu: WatchedModel
  readonly transcript: Transcript
  readonly trap: RegisterTrap
  readonly disk: Disk
  readonly nvme: NvmeController
  readonly port: DmaPort
  /** Messages that the IOMMU itself has sent. */
  readonly sent: { iommu: number }
  /** Under `hoard`. */
  readonly freshness: FreshnessWatch | null
}

const DISK_BYTES = 64 * 2 ** 20

export function createHardware(options: HardwareOptions): Hardware {
  const { platform, onMessage } = options
  const ram = { base: platform.board.ramBase, size: options.ramBytes }
  const memory = backedMemory([ram], options.ram)
  const iommu = new WatchedModel(options.createModel(memory, options.caches), memory)
  const sent = { iommu: 0 }
  iommu.onInterrupt = (address, data) => {
    sent.iommu++
    // A message to memory is written by the model.
    if (!memory.contains(address)) onMessage(address, data)
  }
  const transcript = new Transcript(iommu.mmio, memory, platform.registers.specs, platform.commandQueue)
  iommu.onFirstTable = () => transcript.bringUpEnds()
  const port = new DmaPort({ model: iommu, memory, device: options.device, onMessage })
  const disk = new Disk(DISK_BYTES)
  const freshness = options.caches === "hoard" ? watchFreshness(options, iommu) : null
  if (freshness !== null) transcript.onWrite = () => freshness.registersChanged()
  return {
    freshness,
    iommu,
    transcript,
    trap: new RegisterTrap(transcript, platform.registers.bytes),
    disk,
    nvme: new NvmeController(port, disk),
    port,
    sent,
  }
}

function watchFreshness(options: HardwareOptions, model: WatchedModel): FreshnessWatch {
  const watch = new FreshnessWatch({
    model,
    ramBase: options.platform.board.ramBase,
    ramBytes: options.ramBytes,
    ram: options.ram,
    createModel: memory => options.createModel(memory, "none"),
    registers: options.platform.registers.specs,
  })
  model.onTranslation = (device, iovaHi, iovaLo, access, status) =>
    watch.check(device, iovaHi, iovaLo, access, status)
  return watch
}
