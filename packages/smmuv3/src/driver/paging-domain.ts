/** A domain with tables that the driver builds: stage 1 in a CD, or stage 2 in an STE. */
import {
  type DirtyBitmap,
  type DirtyOps,
  type Hpa,
  type IommuDevice,
  IommuError,
  type Iova,
  type PageFaultHandler,
  PageTableFormatId,
  type PagingDomain,
  type U64Like,
} from "@iommu/core"
import type { PageTable } from "@iommu/pagetable"
import * as ste from "../spec/device-table.ts"
import { TG0_4KB, TG0_16KB, TG0_64KB } from "../spec/pasid-table.ts"
import { type Attachment, attachPasid, attachRid, detachPasid, detachRid } from "./attach.ts"
import { atsFields, type Entry, incomingShareability } from "./device-table.ts"
import type { Features } from "./features.ts"
import { invalidateAll, invalidateGather } from "./invalidate.ts"
import type { SmmuNestedDomain } from "./nested-domain.ts"
import type { SmmuV3Driver } from "./ops.ts"
import { type PasidTable, type Stage1Root, stage1Ste } from "./pasid-table.ts"
import { addressSizeCode, type PagingPlan } from "./user-data.ts"

const NO_ATTACHMENTS: readonly Attachment[] = Object.freeze([])
const NO_CHILDREN: readonly SmmuNestedDomain[] = Object.freeze([])

/** What the constructor of a domain takes over. */
export interface PagingDomainParts {
  readonly ops: SmmuV3Driver
  readonly plan: PagingPlan
  readonly table: PageTable
  /** ASID of a stage 1, VMID of a stage 2. */
  readonly tag: number
}

export class SmmuPagingDomain implements PagingDomain {
  readonly ops: SmmuV3Driver
  readonly plan: PagingPlan
  readonly table: PageTable
  /** ASID of a stage 1, VMID of a stage 2; 0 after {@link free}. */
  tag: number
  /** Who is on the domain. Replaced on change, never mutated. */
  attachments: readonly Attachment[] = NO_ATTACHMENTS
  /** Nested domains over this one, likewise. */
  children: readonly SmmuNestedDomain[] = NO_CHILDREN
  /** Only domains that track have the property at all: an own field costs every domain 8 bytes. */
  declare readonly dirty?: DirtyOps

  constructor({ ops, plan, table, tag }: PagingDomainParts) {
    this.ops = ops
    this.plan = plan
    this.table = table
    this.tag = tag
    if (plan.dirty) this.dirty = new DirtyTracking(this)
  }

  get type(): "paging" {
    return "paging"
  }

  get format(): number {
    return this.plan.stage === 1 ? PageTableFormatId.ARM_64_LPAE_S1 : PageTableFormatId.ARM_64_LPAE_S2
  }

  get nestParent(): boolean {
    return this.plan.nestParent
  }

  get pageSizes(): bigint {
    return this.table.pageSizes
  }

  get aperture(): { readonly start: Iova; readonly last: Iova } {
    return { start: this.plan.apertureStart, last: this.plan.apertureLast }
  }

  get pageFaultHandler(): PageFaultHandler | null | undefined {
    return this.ops.pageRequests.handlers.of(this)
  }

  set pageFaultHandler(handler: PageFaultHandler | null | undefined) {
    this.ops.pageRequests.handlers.set(this, handler ?? null)
  }

  /** True where the devices' accesses are coherent whatever they ask for (IORT's CANWBS). */
  enforceCacheCoherency(): boolean {
    return this.ops.hardware.canwbs
  }

  attachDev(device: IommuDevice): void {
    attachRid(this.ops, device, this)
  }

  detachDev(device: IommuDevice): void {
    detachRid(this.ops, device, this)
  }

  free(): void {
    if (this.tag === 0) throw new IommuError("EINVAL", "the domain is freed already")
    if (this.attachments.length > 0) throw new IommuError("EBUSY", "a device or a PASID is on the domain")
    if (this.children.length > 0) throw new IommuError("EBUSY", "nested domains use the domain")
    if (this.ops.hasViommuOn(this)) throw new IommuError("EBUSY", "a virtual SMMU uses the domain")
    this.ops.pageRequests.handlers.forget(this)
    this.table.free()
    const ids = this.plan.stage === 1 ? this.ops.hardware.asids : this.ops.hardware.vmids
    ids.give(this.tag)
    this.tag = 0
  }

  /** A block may take the place of an emptied table, which caches must forget before it is reused. */
  map(iova: U64Like, pa: U64Like, size: U64Like, prot: number): void {
    this.table.map(iova, pa, size, prot)
    if (this.table.gather.count > 0) this.iotlbSync()
  }

  unmap(iova: U64Like, size: U64Like): bigint {
    const unmapped = this.unmapFast(iova, size)
    this.iotlbSync()
    return unmapped
  }

  unmapFast(iova: U64Like, size: U64Like): bigint {
    return this.table.unmap(iova, size)
  }

  iotlbSync(): void {
    if (this.table.gather.count > 0) invalidateGather(this)
    this.table.gatherDone()
  }

  flushIotlbAll(): void {
    invalidateAll(this)
    this.table.gatherDone()
  }

  iovaToPhys(iova: U64Like): Hpa | null {
    return this.table.iovaToPhys(iova)
  }

  mapPages(iovaHi: number, iovaLo: number, paHi: number, paLo: number, pages: number, prot: number): number {
    const status = this.table.mapPages(iovaHi, iovaLo, paHi, paLo, pages, prot)
    if (pages !== 1 && this.table.gather.count > 0) this.iotlbSync()
    return status
  }

  unmapPages(iovaHi: number, iovaLo: number, pages: number): number {
    return this.table.unmapPages(iovaHi, iovaLo, pages)
  }

  iovaToPhysHalves(iovaHi: number, iovaLo: number): number {
    return this.table.iovaToPhysHalves(iovaHi, iovaLo)
  }

  get physHi(): number {
    return this.table.physHi
  }

  get physLo(): number {
    return this.table.physLo
  }

  /** The STE of a device whose requests without PASID are here. */
  ste(table: PasidTable | null, ats: boolean): Entry {
    const { features } = this.ops.hardware
    return table === null
      ? stage2Ste(features, this.stage2Root, ats)
      : stage1Ste(features, table, ste.S1DSS_SSID0, ats)
  }

  /** What the CD of a device on this stage 1 says. */
  get stage1Root(): Stage1Root {
    const { inputBits, outputBits, granuleLg2, lpa2, dirty } = this.plan
    return {
      root: this.table.root,
      asid: this.tag,
      inputBits,
      tg: granuleCode(granuleLg2),
      ips: addressSizeCode(outputBits),
      ds: lpa2,
      dirty,
    }
  }

  /** What the STE of a device on this stage 2, or on a nested domain over it, says. */
  get stage2Root(): Stage2Root {
    const { inputBits, outputBits, granuleLg2, levels, lpa2 } = this.plan
    return {
      root: this.table.root,
      vmid: this.tag,
      inputBits,
      sl0: startLevelCode(granuleLg2, levels),
      tg: granuleCode(granuleLg2),
      ps: addressSizeCode(outputBits),
      ds: lpa2,
    }
  }
}

/** What an STE says of stage 2. */
export interface Stage2Root {
  readonly root: bigint
  readonly vmid: number
  readonly inputBits: number
  /** S2SL0_2 and S2SL0 as one number. */
  readonly sl0: number
  readonly tg: number
  readonly ps: number
  readonly ds: boolean
}

/** The STE of a stream with stage 2 alone, §5.2. Table walks are write-back, inner shareable where that is coherent. */
export function stage2Ste(features: Features, stage2: Stage2Root, ats: boolean): Entry {
  const cacheable = features.COHACC ? 1n : 0n
  const words = ste.STE.encode({
    V: 1n,
    Config: BigInt(ste.CONFIG_S2),
    ...atsFields(features, ats),
    SHCFG: incomingShareability(features),
    S2VMID: BigInt(stage2.vmid),
    S2T0SZ: BigInt(64 - stage2.inputBits),
    S2SL0: BigInt(stage2.sl0 & 3),
    S2IR0: cacheable,
    S2OR0: cacheable,
    S2SH0: features.COHACC ? 3n : 2n,
    S2TG: BigInt(stage2.tg),
    S2PS: BigInt(stage2.ps),
    S2AA64: 1n,
    S2PTW: 1n,
    S2S: features.STALL_MODEL === 2 ? 1n : 0n,
    S2R: 1n,
    S2SL0_2: BigInt(stage2.sl0 >> 2),
    S2DS: stage2.ds ? 1n : 0n,
  })
  return words.with(3, (words[3] as bigint) | stage2.root)
}

/** A stage 1 of an SMMU that has SubstreamIDs. */
export class SmmuPasidDomain extends SmmuPagingDomain {
  setDevPasid(device: IommuDevice, pasid: number): void {
    attachPasid(this.ops, device, pasid, this)
  }

  removeDevPasid(device: IommuDevice, pasid: number): void {
    detachPasid(this.ops, device, pasid, this)
  }
}

/** CD.TG0 and STE.S2TG. */
function granuleCode(granuleLg2: number): number {
  if (granuleLg2 === 12) return TG0_4KB
  return granuleLg2 === 14 ? TG0_16KB : TG0_64KB
}

/** STE.S2SL0_2 and S2SL0 as one number, by the level that is looked up first, §5.2. */
const START_LEVEL_CODES_4K: readonly number[] = [3, 0, 1, 2, 4]

function startLevelCode(granuleLg2: number, levels: number): number {
  return granuleLg2 === 12 ? (START_LEVEL_CODES_4K[levels - 1] as number) : levels - 1
}

/**
 * Dirty tracking of a stage 1 with HTTU: a leaf that is writable and clean (DBM) becomes dirty by the first write. The
 * CDs of the domain have HA and HD from the start and leaves start dirty, so switching on means to clear.
 */
class DirtyTracking implements DirtyOps {
  readonly #domain: SmmuPagingDomain

  constructor(domain: SmmuPagingDomain) {
    this.#domain = domain
  }

  setDirtyTracking(enable: boolean): void {
    if (!enable) return
    this.#domain.table.clearDirty()
    this.#domain.iotlbSync()
  }

  /** A leaf that a TLB holds as dirty would not be marked again, so what was cleared is invalidated. */
  readAndClearDirty(dirty: DirtyBitmap): void {
    this.#domain.table.readAndClearDirty(dirty)
    this.#domain.iotlbSync()
  }

  readDirty(dirty: DirtyBitmap): void {
    this.#domain.table.readDirty(dirty)
  }
}
