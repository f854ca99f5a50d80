/**
 * A PCIe device that does DMA: with an address translation cache (ATC) when it uses ATS, and with page requests when
 * it uses PRI. PCI Express Base 6.0 chapter 10.
 */
import { ATS_SUCCESS, type AtsDevice, type AtsModel, type PageRequest, PRI_SUCCESS } from "./ats.ts"
import { CacheStore } from "./cache-store.ts"
import { IommuError } from "./errno.ts"
import { ACCESS_READ, ACCESS_WRITE, type Fault, HELD, type IommuModel, NO_PASID } from "./hardware.ts"
import type { PhysicalMemory } from "./physical-memory.ts"
import { fromHalves, hi32, lo32, toU64, type U64Like } from "./u64.ts"

export interface EndpointOptions {
  readonly model: IommuModel & Partial<AtsModel>
  /** What lies behind the IOMMU. */
  readonly memory: PhysicalMemory
  /** Source id, StreamID or DeviceID. */
  readonly device: number
  /** Sends translation requests and keeps the answers. */
  readonly ats?: boolean
  /** Asks for pages that are not there; needs {@link ats}. */
  readonly pri?: boolean
  /** Translated requests carry the PASID: an optional feature of devices and IOMMUs. PCI Express Base 6.0 chapter 10. */
  readonly pasidInTranslated?: boolean
}

/** How a DMA ended. */
export type DmaResult =
  | { readonly kind: "done" }
  /** The IOMMU refused; the bytes before it were moved. */
  | { readonly kind: "refused"; readonly fault: Fault | null }
  /** The device asked for the page and can try again when the group is answered. */
  | { readonly kind: "page-requested"; readonly group: number }
  /** The IOMMU holds the rest under this number; null: it has no room, and the device must send again. */
  | { readonly kind: "held"; readonly held: number | null }

/** Where a piece of a DMA goes; null is nowhere: reads give zero, writes are dropped. */
interface Target {
  readonly pa: bigint | null
  readonly size: bigint
}

const DONE: DmaResult = { kind: "done" }
/** Page Request Group Indexes have 9 bits. */
const GROUPS = 512
const ATC_SETS = 64
const ATC_WAYS = 4
/** Words of a cached translation: address halves, allowed accesses, 1 for a global one. */
const ATC_WORDS = 4
/** Sizes of which the ATC holds translations: 4 KiB to 2^63 bytes. */
const SMALLEST_LG2 = 12
const LARGEST_LG2 = 63

export class Endpoint implements AtsDevice {
  readonly device: number
  /** False: the device does not answer invalidations in time. */
  answersInvalidations = true
  /** Answers to page requests that have arrived, by group. */
  readonly responses: Map<number, number> = new Map()
  readonly #options: EndpointOptions
  readonly #atc = new CacheStore({ policy: "exact", sets: ATC_SETS, ways: ATC_WAYS, dataWords: ATC_WORDS })
  #sizes = 0n
  #nextGroup = 0

  /** @throws EINVAL when ATS is asked for and the model has none */
  constructor(options: EndpointOptions) {
    if (options.ats === true && options.model.connect === undefined) {
      throw new IommuError("EINVAL", "the IOMMU has no ATS")
    }
    if (options.pri === true && options.ats !== true) throw new IommuError("EINVAL", "PRI needs ATS")
    this.device = options.device
    this.#options = options
    options.model.connect?.(options.device, this)
  }

  /** Translations in the ATC. */
  get cached(): number {
    return this.#atc.size
  }

  /** Reads memory into `into`. @param pasid 0 and up, or none */
  read(iova: U64Like, into: Uint8Array, pasid: number = NO_PASID): DmaResult {
    return this.#transfer(toU64(iova, "iova"), into.length, ACCESS_READ, pasid, (pa, offset, length) => {
      if (pa === null) into.fill(0, offset, offset + length)
      else into.set(this.#options.memory.read(pa, length), offset)
    })
  }

  write(iova: U64Like, bytes: Uint8Array, pasid: number = NO_PASID): DmaResult {
    return this.#transfer(toU64(iova, "iova"), bytes.length, ACCESS_WRITE, pasid, (pa, offset, length) => {
      if (pa !== null) this.#options.memory.write(pa, bytes.subarray(offset, offset + length))
    })
  }

  invalidate(address: bigint, sizeLg2: number, pasid: number | null, allPasids: boolean): boolean {
    if (!this.answersInvalidations) return false
    const last = sizeLg2 >= 64 ? (1n << 64n) - 1n : address + (1n << BigInt(sizeLg2)) - 1n
    const first = sizeLg2 >= 64 ? 0n : address
    this.#atc.dropWhere((ofPasid, pageHi, pageLo, pageLg2, at) => {
      const isGlobal = this.#atc.words[at + 3] === 1
      const inPasid = ofPasid === (pasid ?? NO_PASID) || (ofPasid !== NO_PASID && (allPasids || isGlobal))
      const start = fromHalves(pageHi, pageLo)
      return inPasid && start <= last && start + (1n << BigInt(pageLg2)) - 1n >= first
    })
    return true
  }

  /** Completes an invalidation that nobody asked for, or that was given up before. */
  completeUnasked(): void {
    this.#options.model.strayCompletion?.(this.device)
  }

  pageGroupResponse(group: number, _pasid: number | null, code: number): void {
    this.responses.set(group, code)
  }

  /** True when the group was answered and the pages are there. */
  mayRetry(group: number): boolean {
    return this.responses.get(group) === PRI_SUCCESS
  }

  #transfer(
    iova: bigint,
    length: number,
    access: number,
    pasid: number,
    move: (pa: bigint | null, offset: number, length: number) => void,
  ): DmaResult {
    for (let offset = 0; offset < length; ) {
      const at = iova + BigInt(offset)
      const target =
        this.#options.ats === true
          ? this.#throughAtc(at, access, pasid)
          : this.#untranslated(at, access, pasid)
      if ("kind" in target) return target
      const room = target.size - (at & (target.size - 1n))
      const piece = Number(room < BigInt(length - offset) ? room : BigInt(length - offset))
      move(target.pa, offset, piece)
      offset += piece
    }
    return DONE
  }

  #untranslated(iova: bigint, access: number, pasid: number): Target | DmaResult {
    const { model } = this.#options
    const status = model.translate(this.device, pasid, hi32(iova), lo32(iova), access)
    const { fault } = model.result
    if (status === HELD) return { kind: "held", held: fault?.held ?? null }
    if (status !== 0) {
      if (fault?.completes === true) return { pa: null, size: 1n << BigInt(SMALLEST_LG2) }
      return { kind: "refused", fault }
    }
    const { paHi, paLo, sizeLg2 } = model.result
    return { pa: fromHalves(paHi, paLo), size: 1n << BigInt(sizeLg2) }
  }

  #throughAtc(iova: bigint, access: number, pasid: number): Target | DmaResult {
    const hit = this.#lookUp(iova, access, pasid)
    if (hit !== null) return this.#translated(hit, access, pasid)
    const { model } = this.#options
    const answer = model.translationRequest?.(this.device, pasid, hi32(iova), lo32(iova), access)
    const { completion } = model
    if (answer !== ATS_SUCCESS || completion === undefined)
      return { kind: "refused", fault: model.atsFault ?? null }
    if (completion.untranslatedOnly) return this.#untranslated(iova, access, pasid)
    if ((completion.allowed & access) !== access) return this.#ask(iova, access, pasid)
    const size = 1n << BigInt(completion.sizeLg2)
    const base = fromHalves(completion.addressHi, completion.addressLo)
    this.#keep(
      iova - (iova & (size - 1n)),
      base,
      completion.sizeLg2,
      completion.allowed,
      completion.global,
      pasid,
    )
    return this.#translated({ pa: base + (iova & (size - 1n)), size }, access, pasid)
  }

  /** A translated request still passes the IOMMU, which may refuse it. */
  #translated(target: { pa: bigint; size: bigint }, access: number, pasid: number): Target | DmaResult {
    const { model } = this.#options
    const carried = this.#options.pasidInTranslated === true ? pasid : NO_PASID
    const status = model.translatedRequest?.(this.device, carried, hi32(target.pa), lo32(target.pa), access)
    if (status !== 0) return { kind: "refused", fault: model.atsFault ?? null }
    const { reached } = model
    if (reached === undefined) return target
    const size = 1n << BigInt(reached.sizeLg2)
    return {
      pa: fromHalves(reached.paHi, reached.paLo),
      size: size < target.size ? size : target.size,
    }
  }

  #lookUp(iova: bigint, access: number, pasid: number): { pa: bigint; size: bigint } | null {
    for (let lg2 = SMALLEST_LG2; lg2 <= LARGEST_LG2; lg2++) {
      if (((this.#sizes >> BigInt(lg2)) & 1n) === 0n) continue
      const size = 1n << BigInt(lg2)
      const page = iova - (iova & (size - 1n))
      const at = this.#atc.find(pasid, hi32(page), lo32(page), lg2)
      const { words } = this.#atc
      if (at < 0 || ((words[at + 2] as number) & access) !== access) continue
      return { pa: fromHalves(words[at] as number, words[at + 1] as number) + (iova & (size - 1n)), size }
    }
    return null
  }

  #keep(page: bigint, pa: bigint, lg2: number, allowed: number, global: boolean, pasid: number): void {
    this.#sizes |= 1n << BigInt(lg2)
    const at = this.#atc.insert(pasid, hi32(page), lo32(page), lg2)
    this.#atc.words.set([hi32(pa) | 0, lo32(pa) | 0, allowed, global ? 1 : 0], at)
  }

  #ask(iova: bigint, access: number, pasid: number): DmaResult {
    const { model } = this.#options
    if (this.#options.pri !== true) return { kind: "refused", fault: model.atsFault ?? null }
    const group = this.#nextGroup
    this.#nextGroup = (group + 1) % GROUPS
    this.responses.delete(group)
    const request: PageRequest = {
      device: this.device,
      pasid: pasid === NO_PASID ? null : pasid,
      address: iova - (iova & 0xfffn),
      read: (access & ACCESS_READ) !== 0,
      write: (access & ACCESS_WRITE) !== 0,
      execute: false,
      privileged: false,
      last: true,
      group,
    }
    model.pageRequest?.(request)
    return { kind: "page-requested", group }
  }
}
