import {
  ACCESS_READ,
  ACCESS_WRITE,
  type Fault,
  fromHalves,
  hi32,
  type IommuDevice,
  type IommuModel,
  lo32,
  NO_PASID,
  type PhysicalMemory,
  type WalkStep,
} from "@iommu/core"

/** One translation that a device's access needed. */
export interface TracedWalk {
  readonly title: string
  readonly steps: readonly WalkStep[]
  readonly outcome: string
}

/** A device that does DMA through the IOMMU, in pieces that translate alike. */
export class Endpoint {
  readonly device: IommuDevice
  readonly #model: IommuModel
  readonly #memory: PhysicalMemory
  readonly #watch: ((walk: TracedWalk) => void) | null
  /** Transactions sent, refused ones included. */
  dmas = 0

  constructor(
    device: IommuDevice,
    model: IommuModel,
    memory: PhysicalMemory,
    watch: ((walk: TracedWalk) => void) | null,
  ) {
    this.device = device
    this.#model = model
    this.#memory = memory
    this.#watch = watch
  }

  /** @returns null when all bytes were written, else why the first piece that failed was refused */
  write(iova: bigint, bytes: Uint8Array): Fault | null {
    return this.#pieces(iova, bytes.length, ACCESS_WRITE, (pa, offset, length) => {
      this.#memory.write(pa, bytes.subarray(offset, offset + length))
    })
  }

  /** Fills `into`. @returns null when all bytes were read, else why the first piece that failed was refused */
  read(iova: bigint, into: Uint8Array): Fault | null {
    return this.#pieces(iova, into.length, ACCESS_READ, (pa, offset, length) => {
      into.set(this.#memory.read(pa, length), offset)
    })
  }

  #pieces(
    iova: bigint,
    length: number,
    access: number,
    move: (pa: bigint, offset: number, length: number) => void,
  ): Fault | null {
    let offset = 0
    while (offset < length) {
      const at = iova + BigInt(offset)
      const fault = this.#translate(at, access)
      if (fault !== null) return fault
      const { paHi, paLo, sizeLg2 } = this.#model.result
      const left = (1n << BigInt(sizeLg2)) - (at & ((1n << BigInt(sizeLg2)) - 1n))
      const piece = Number(left < BigInt(length - offset) ? left : BigInt(length - offset))
      move(fromHalves(paHi, paLo), offset, piece)
      offset += piece
    }
    return null
  }

  #translate(iova: bigint, access: number): Fault | null {
    this.dmas++
    const steps: WalkStep[] = []
    if (this.#watch) this.#model.trace = step => steps.push(step)
    const status = this.#model.translate(this.device.id, NO_PASID, hi32(iova), lo32(iova), access)
    this.#model.trace = null
    const { result } = this.#model
    const fault = status === 0 ? null : result.fault
    this.#watch?.({
      title: `${this.device.name}: ${access === ACCESS_WRITE ? "write" : "read"} at 0x${iova.toString(16)}`,
      steps,
      outcome: fault ? fault.detail : `0x${fromHalves(result.paHi, result.paLo).toString(16)}`,
    })
    return fault
  }
}
