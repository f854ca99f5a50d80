/** A device's way to memory: core's endpoint, and messages, which go to where interrupts are taken. */
import {
  ACCESS_WRITE,
  type DmaResult,
  Endpoint,
  fromHalves,
  hi32,
  IommuError,
  type IommuModel,
  lo32,
  NO_PASID,
  type PhysicalMemory,
  TRANSLATED,
} from "@iommu/core"
import type { Dma } from "../pci/dma.ts"

export interface DmaPortOptions {
  readonly model: IommuModel
  readonly memory: PhysicalMemory
  /** Source id, StreamID or DeviceID. */
  readonly device: number
  /** A write that reached an address without memory: a doorbell of the interrupt controller. */
  readonly onMessage: (address: bigint, data: number) => void
}

export class DmaPort implements Dma {
  readonly #options: DmaPortOptions
  readonly #endpoint: Endpoint
  /** Transfers that were translated to where no memory is: a master abort on a real bus. */
  aborts = 0

  constructor(options: DmaPortOptions) {
    this.#options = options
    this.#endpoint = new Endpoint(options)
  }

  read(iova: bigint, into: Uint8Array): boolean {
    return this.#ended(() => this.#endpoint.read(iova, into))
  }

  write(iova: bigint, bytes: Uint8Array): boolean {
    return this.#ended(() => this.#endpoint.write(iova, bytes))
  }

  message(address: bigint, data: number): boolean {
    const { model, memory, device, onMessage } = this.#options
    if (model.translate(device, NO_PASID, hi32(address), lo32(address), ACCESS_WRITE) !== TRANSLATED)
      return false
    const target = fromHalves(model.result.paHi, model.result.paLo)
    if (memory.contains(target, 4)) memory.write(target, new Uint8Array(Uint32Array.of(data).buffer))
    else onMessage(target, data)
    return true
  }

  #ended(transfer: () => DmaResult): boolean {
    try {
      return transfer().kind === "done"
    } catch (error) {
      // A guest may map an address where nothing is. Anything else is an error of ours.
      if (!(error instanceof IommuError) || error.code !== "EFAULT") throw error
      this.aborts++
      return false
    }
  }
}
