/** Device memory behind a file: dma-bufs that VFIO exports, and that can be taken back at any time. */
import { IommuError, type MemoryAccount } from "@iommu/core"
import type { UserFile } from "../process/file-table.ts"
import type { FrameRun } from "./frame-pins.ts"
import type { FileExtent } from "./mem-file.ts"

export class DmaBuf implements UserFile {
  readonly kind = "dma-buf"
  readonly extents: readonly FileExtent[]
  /** Linux takes only those of VFIO PCI, whose physical addresses it can ask for. */
  readonly exporter: "vfio-pci" | "other"
  readonly #importers = new Set<DmaBufPages>()
  #revoked = false

  constructor(extents: readonly FileExtent[], exporter: "vfio-pci" | "other" = "vfio-pci") {
    this.extents = extents
    this.exporter = exporter
  }

  get bytes(): bigint {
    return this.extents.reduce((sum, extent) => sum + extent.length, 0n)
  }

  get isRevoked(): boolean {
    return this.#revoked
  }

  /** Takes the memory back: no IOMMU maps it when this returns. */
  revoke(): void {
    this.#revoked = true
    for (const importer of this.#importers) importer.revoke()
  }

  /** Lets new mappings be made; those of before stay empty. */
  restore(): void {
    this.#revoked = false
  }

  /** Called by {@link DmaBufPages} alone. */
  attach(importer: DmaBufPages): void {
    this.#importers.add(importer)
  }

  detach(importer: DmaBufPages): void {
    this.#importers.delete(importer)
  }
}

/** An area that maps the pages and must empty its domains when they are revoked. */
export interface RevocableArea {
  emptyDomains(): void
}

const OBJECT_BYTES = 256

/** As `PinnedPages`, for memory that is neither pinned nor counted. */
export class DmaBufPages {
  readonly kind = "dma-buf"
  readonly writeable: boolean
  readonly fromFile = true
  readonly #dmaBuf: DmaBuf
  readonly #account: MemoryAccount
  readonly #firstPage: number
  readonly #frame: number
  readonly #areas = new Set<RevocableArea>()
  #references = 1
  #isRevoked = false

  /**
   * @throws EINVAL beyond its end; EOPNOTSUPP for another exporter than VFIO, or memory in pieces; ENODEV when it is
   *   revoked now; ENOMEM
   */
  constructor(dmaBuf: DmaBuf, start: bigint, length: bigint, writeable: boolean, account: MemoryAccount) {
    if (start + length > dmaBuf.bytes) {
      throw new IommuError("EINVAL", `the dma-buf ends after 0x${dmaBuf.bytes.toString(16)} bytes`)
    }
    if (dmaBuf.exporter !== "vfio-pci") {
      throw new IommuError("EOPNOTSUPP", "only dma-bufs that VFIO PCI exports tell their physical address")
    }
    const [extent, ...more] = dmaBuf.extents
    if (extent === undefined || more.length > 0) {
      throw new IommuError("EOPNOTSUPP", "a dma-buf of more than one physical range cannot be mapped")
    }
    if (dmaBuf.isRevoked) throw new IommuError("ENODEV", "the dma-buf is revoked")
    account.chargeBytes(OBJECT_BYTES)
    this.#dmaBuf = dmaBuf
    this.#account = account
    this.#firstPage = Number(start >> 12n)
    this.#frame = Number(extent.address >> 12n) + this.#firstPage
    this.writeable = writeable
    dmaBuf.attach(this)
  }

  get isRevoked(): boolean {
    return this.#isRevoked
  }

  sourceAddress(byte: bigint): bigint {
    return (BigInt(this.#firstPage) << 12n) + byte
  }

  get(): void {
    this.#references++
  }

  put(): void {
    this.#references--
    if (this.#references > 0) return
    this.#dmaBuf.detach(this)
    this.#account.unchargeBytes(OBJECT_BYTES)
  }

  /** The area is in domains from now on. */
  track(area: RevocableArea): void {
    this.#areas.add(area)
  }

  untrack(area: RevocableArea): void {
    this.#areas.delete(area)
  }

  runAt(page: number, pages: number): FrameRun {
    return { frame: this.#frame + page, pages }
  }

  /** Empties all domains; the mapping does not come back. */
  revoke(): void {
    for (const area of this.#areas) area.emptyDomains()
    this.#isRevoked = true
  }
}
