import type { IommuDevice } from "./device.ts"
import { IommuError } from "./errno.ts"
import { toU64 } from "./u64.ts"

/** The devices of one guest by the numbers that the guest knows them by: Linux's `iommufd_viommu.vdevs`. */
export class VirtualDevices {
  readonly #what: string
  readonly #idBits: number
  readonly #devices = new Map<number, IommuDevice>()

  /**
   * @param what names the numbers in errors: "StreamID"
   * @param idBits width of a number, 32 at most
   */
  constructor(what: string, idBits: number) {
    this.#what = what
    this.#idBits = idBits
  }

  get isEmpty(): boolean {
    return this.#devices.size === 0
  }

  /** @throws EINVAL for a number that is too wide, EEXIST for a device that has one and a number that is given */
  add(device: IommuDevice, virtualId: bigint): void {
    if (toU64(virtualId, `virtual ${this.#what}`) >> BigInt(this.#idBits) !== 0n) {
      throw new IommuError("EINVAL", `a ${this.#what} has at most ${this.#idBits} bits`)
    }
    const id = Number(virtualId)
    if (this.#devices.has(id) || this.idOf(device) !== null) {
      throw new IommuError("EEXIST", `${device.name}, or its ${this.#what}, is on the virtual IOMMU already`)
    }
    this.#devices.set(id, device)
  }

  /** Takes the number of a device back, if it has one. */
  remove(device: IommuDevice): void {
    const id = this.idOf(device)
    if (id !== null) this.#devices.delete(id)
  }

  idOf(device: IommuDevice): number | null {
    for (const [id, known] of this.#devices) if (known === device) return id
    return null
  }

  at(virtualId: number): IommuDevice | null {
    return this.#devices.get(virtualId) ?? null
  }
}
