/** An address space under an id, and the page tables that show it to devices: Linux's `struct iommufd_ioas`. */
import type { Ioas } from "../ioas/ioas.ts"
import type { HwptPaging } from "./hwpt.ts"
import type { IommufdContext } from "./iommufd-context.ts"
import { type Identity, KernelObject, type ObjectState } from "./object.ts"

export class IoasObject extends KernelObject {
  readonly kind = "ioas"
  readonly ioas: Ioas
  readonly context: IommufdContext
  /** In the order in which they were made. */
  readonly pageTables: HwptPaging[] = []

  constructor(identity: Identity, context: IommufdContext, ioas: Ioas) {
    super(identity)
    this.context = context
    this.ioas = ioas
  }

  /** Fills a new domain with what is mapped. @throws EADDRINUSE, EFAULT, ENOMEM, EINVAL; nothing is changed then */
  addPageTable(hwpt: HwptPaging): void {
    this.ioas.addDomain(hwpt.domain)
    this.pageTables.push(hwpt)
    this.users++
  }

  removePageTable(hwpt: HwptPaging): void {
    this.ioas.removeDomain(hwpt.domain)
    this.pageTables.splice(this.pageTables.indexOf(hwpt), 1)
    this.users--
  }

  destroy(): void {
    if (this.context.vfioIoas === this) this.context.vfioIoas = null
    this.ioas.destroy()
  }

  state(): ObjectState {
    const { ranges, alignment } = this.ioas.iovaRanges()
    return {
      pageTables: this.pageTables.map(hwpt => hwpt.id),
      areas: this.ioas.areas.size,
      hugePages: this.ioas.usesHugePages,
      alignment: `0x${alignment.toString(16)}`,
      ranges: ranges.map(rangeText),
      allowed: this.ioas.allowed.map(rangeText),
    }
  }
}

function rangeText({ start, last }: { readonly start: bigint; readonly last: bigint }): string {
  return `0x${start.toString(16)}-0x${last.toString(16)}`
}
