/** The machine of a capture: its memory, and its vendor's model with the registers as the dump has them. */
import {
  ACCESS_READ,
  ACCESS_WRITE,
  type DmaOutcome,
  type IommuModel,
  memoryFromPages,
  PAGE_SIZE,
  type PhysicalMemory,
  translateRequest,
} from "@iommu/core"
import type { Capture } from "../capture/load.ts"
import type { Vendor } from "../capture/schema.ts"
import { withEmptyLog } from "./fault-log.ts"
import { VENDOR_PARTS } from "./vendors.ts"

export class Machine {
  readonly memory: PhysicalMemory
  /** Names of registers in the capture that the model does not have. */
  readonly unknownRegisters: readonly string[]
  readonly #vendor: Vendor
  readonly #registers: Readonly<Record<string, bigint>>
  #model: IommuModel

  constructor(capture: Capture) {
    const logPage = freePage(capture.pages)
    const data = new Uint8Array(capture.data.length + PAGE_SIZE)
    data.set(capture.data)
    this.memory = memoryFromPages([...capture.pages, logPage], data)
    this.#vendor = capture.vendor
    this.#registers = withEmptyLog(capture.vendor, capture.registers, logPage)
    this.#model = VENDOR_PARTS[this.#vendor].model(this.memory)
    this.unknownRegisters = this.#model.restoreRegisters(this.#registers)
  }

  get model(): IommuModel {
    return this.#model
  }

  /** Power off and on: nothing cached, log empty, registers as dumped. Memory stays. */
  restart(): void {
    this.#model = VENDOR_PARTS[this.#vendor].model(this.memory)
    this.#model.restoreRegisters(this.#registers)
  }

  read(device: number, iova: bigint): DmaOutcome {
    return this.#request(device, iova, ACCESS_READ)
  }

  write(device: number, iova: bigint): DmaOutcome {
    return this.#request(device, iova, ACCESS_WRITE)
  }

  #request(device: number, iova: bigint, access: number): DmaOutcome {
    const outcome = translateRequest(this.#model, { device, iova, access })
    if (!outcome.ok) this.#model.restoreRegisters(this.#registers)
    return outcome
  }
}

/** The lowest page that the dump does not have. */
function freePage(pages: readonly bigint[]): bigint {
  const taken = new Set(pages)
  let page = BigInt(PAGE_SIZE)
  while (taken.has(page)) page += BigInt(PAGE_SIZE)
  return page
}
