import type { AmdModelOptions } from "@iommu/amd"
import {
  DTE_GIOV,
  DTE_GV,
  DTE_TV,
  DTE_V,
  GCR3_TRP_MODE,
  IRW,
  Machine,
  ON,
  PRWU,
  page,
  pde,
} from "./machine.ts"

/** A device with guest tables behind a GCR3 table; host tables of 2 MiB pages map 64 MiB one to one, or none. */
export class GuestMachine extends Machine {
  readonly gcr3: bigint = this.table()
  readonly #mode: bigint
  readonly #root: bigint
  /** Host page directory: one entry for each 2 MiB. */
  readonly host: bigint

  constructor(
    mode: 0 | 3 = 3,
    control: bigint = ON | GCR3_TRP_MODE,
    options: Omit<AmdModelOptions, "memory"> = {},
  ) {
    super(options, control)
    this.#mode = BigInt(mode)
    this.host = this.table()
    for (let i = 0; i < 32; i++) this.set(this.host, { [i]: page(BigInt(i) << 21n) })
    this.#root = mode === 0 ? 0n : this.table({ 0: pde(2, this.host) })
    this.device()
  }

  device(low = DTE_GIOV, glx = 0n, paging = 0n, gcr3: bigint = this.gcr3): void {
    this.dte(
      1,
      DTE_V |
        DTE_TV |
        DTE_GV |
        low |
        (this.#mode << 9n) |
        this.#root |
        IRW |
        (glx << 56n) |
        (((gcr3 >> 12n) & 7n) << 58n),
      9n | (((gcr3 >> 15n) & 0xffffn) << 16n) | (((gcr3 >> 31n) & 0x1f_ffffn) << 43n),
      paging << 54n,
    )
  }

  /** Guest tables of four levels that lead index 0 down to the given PTE table; their root goes to a PASID. */
  guest(pasid: number, level1: bigint, levels = 4, rights = PRWU): bigint[] {
    const tables = [level1]
    for (let level = 2; level <= levels; level++)
      tables.push(this.table({ 0: (tables.at(-1) as bigint) | rights }))
    this.set(this.gcr3, { [pasid]: (tables.at(-1) as bigint) | 1n })
    return tables
  }
}
