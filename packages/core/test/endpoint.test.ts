import {
  ACCESS_READ,
  ACCESS_WRITE,
  ATS_SUCCESS,
  ATS_UNSUPPORTED_REQUEST,
  type AtsModel,
  createMemory,
  Endpoint,
  type Fault,
  fromHalves,
  HELD,
  type IommuModel,
  type PageRequest,
  PRI_INVALID_REQUEST,
  PRI_SUCCESS,
  REFUSED,
} from "@iommu/core"
import { beforeEach, describe, expect, it } from "vitest"

/** An IOMMU that maps page to page by a table of the test. */
class PageMap implements IommuModel, AtsModel {
  readonly vendor = "test"
  readonly pages = new Map<bigint, { pa: bigint; allowed: number; global?: boolean }>()
  readonly requests: PageRequest[] = []
  trace = null
  onInvalidate = null
  onInterrupt = null
  readonly atsFault = null
  readonly mmio = { read32: () => 0, write32: () => {}, read64: () => 0n, write64: () => {} }
  readonly result = {
    paHi: 0,
    paLo: 0,
    sizeLg2: 12,
    allowed: 0,
    ipaHi: 0,
    ipaLo: 0,
    stage1SizeLg2: 0,
    stage2SizeLg2: 0,
    fault: null,
  }
  readonly completion = {
    addressHi: 0,
    addressLo: 0,
    sizeLg2: 12,
    allowed: 0,
    global: false,
    untranslatedOnly: false,
  }
  translations = 0
  translated = 0
  refusesTranslated = false

  connect(): void {}

  translate(_device: number, _pasid: number, hi: number, lo: number, access: number): number {
    const page = this.pages.get(fromHalves(hi, lo) & ~0xfffn)
    if (page === undefined || (page.allowed & access) !== access) return 1
    this.result.paLo = Number(page.pa) + (lo & 0xfff)
    return 0
  }

  translationRequest(_device: number, _pasid: number, hi: number, lo: number): number {
    this.translations++
    const page = this.pages.get(fromHalves(hi, lo) & ~0xfffn)
    if (page === undefined) return ATS_UNSUPPORTED_REQUEST
    this.completion.addressLo = Number(page.pa)
    this.completion.allowed = page.allowed
    this.completion.global = page.global ?? false
    return ATS_SUCCESS
  }

  translatedRequest(): number {
    this.translated++
    return this.refusesTranslated ? 1 : 0
  }

  pageRequest(request: PageRequest): void {
    this.requests.push(request)
  }

  restoreRegisters(): string[] {
    return []
  }
}

describe("an endpoint", () => {
  const RW = ACCESS_READ | ACCESS_WRITE
  let model: PageMap
  const memory = createMemory([{ base: 0, size: 0x10_0000 }])
  beforeEach(() => {
    model = new PageMap()
    model.pages.set(0x5000n, { pa: 0x2000n, allowed: RW })
    model.pages.set(0x6000n, { pa: 0x9000n, allowed: RW })
  })

  it("moves bytes across pages, translated piece by piece", () => {
    const endpoint = new Endpoint({ model, memory, device: 1 })
    expect(endpoint.write(0x5ffen, Uint8Array.of(1, 2, 3, 4))).toEqual({ kind: "done" })
    expect([...memory.read(0x2ffe, 2), ...memory.read(0x9000, 2)]).toEqual([1, 2, 3, 4])
    const back = new Uint8Array(4)
    expect(endpoint.read(0x5ffen, back)).toEqual({ kind: "done" })
    expect([...back]).toEqual([1, 2, 3, 4])
    expect(endpoint.read(0x7000n, back)).toEqual({ kind: "refused", fault: null })
  })

  it("asks once with ATS, then sends translated requests until it is told to forget", () => {
    const endpoint = new Endpoint({ model, memory, device: 1, ats: true })
    const byte = Uint8Array.of(9)
    for (let n = 0; n < 3; n++) expect(endpoint.write(0x5000n, byte)).toEqual({ kind: "done" })
    expect([model.translations, model.translated, endpoint.cached]).toEqual([1, 3, 1])
    expect(endpoint.invalidate(0x6000n, 12, null, false)).toBe(true)
    expect(endpoint.cached).toBe(1)
    expect(endpoint.invalidate(0x4000n, 13, null, false)).toBe(true)
    expect(endpoint.cached).toBe(0)
    endpoint.write(0x5000n, byte)
    expect(model.translations).toBe(2)
  })

  it("tells PASIDs apart, and forgets global translations of all of them", () => {
    const endpoint = new Endpoint({ model, memory, device: 1, ats: true })
    const byte = new Uint8Array(1)
    model.pages.set(0x6000n, { pa: 0x9000n, allowed: RW, global: true })
    for (const pasid of [-1, 1, 2]) {
      endpoint.read(0x5000n, byte, pasid)
      endpoint.read(0x6000n, byte, pasid)
    }
    expect(endpoint.cached).toBe(6)
    endpoint.invalidate(0n, 64, 1, false)
    expect(endpoint.cached).toBe(3)
    endpoint.invalidate(0n, 64, null, true)
    expect(endpoint.cached).toBe(0)
  })

  it("does not complete invalidations when it hangs", () => {
    const endpoint = new Endpoint({ model, memory, device: 1, ats: true })
    endpoint.read(0x5000n, new Uint8Array(1))
    endpoint.answersInvalidations = false
    expect(endpoint.invalidate(0n, 64, null, false)).toBe(false)
    expect(endpoint.cached).toBe(1)
  })

  it("asks for a page that lacks the permission, and tries again when it is answered", () => {
    const endpoint = new Endpoint({ model, memory, device: 1, ats: true, pri: true })
    model.pages.set(0x8000n, { pa: 0xa000n, allowed: ACCESS_READ })
    expect(endpoint.write(0x8123n, Uint8Array.of(1))).toEqual({ kind: "page-requested", group: 0 })
    expect(model.requests).toMatchObject([{ device: 1, address: 0x8000n, write: true, last: true, group: 0 }])
    expect(endpoint.mayRetry(0)).toBe(false)
    endpoint.pageGroupResponse(0, null, PRI_INVALID_REQUEST)
    expect(endpoint.mayRetry(0)).toBe(false)
    endpoint.pageGroupResponse(0, null, PRI_SUCCESS)
    expect(endpoint.mayRetry(0)).toBe(true)
    model.pages.set(0x8000n, { pa: 0xa000n, allowed: RW })
    expect(endpoint.write(0x8123n, Uint8Array.of(1))).toEqual({ kind: "done" })
  })

  it("is refused without PRI, by Unsupported Request, and with a translated request that does not pass", () => {
    const endpoint = new Endpoint({ model, memory, device: 1, ats: true })
    model.pages.set(0x8000n, { pa: 0xa000n, allowed: ACCESS_READ })
    expect(endpoint.write(0x8000n, Uint8Array.of(1)).kind).toBe("refused")
    expect(endpoint.read(0x7000n, new Uint8Array(1)).kind).toBe("refused")
    model.refusesTranslated = true
    expect(endpoint.read(0x5000n, new Uint8Array(1)).kind).toBe("refused")
  })

  it("drops writes and reads zero where the IOMMU lets a refused access complete, and says what is held", () => {
    const endpoint = new Endpoint({ model, memory, device: 1 })
    const fault: Fault = {
      reason: "test",
      code: 0,
      device: 1,
      pasid: null,
      address: 0n,
      access: 0,
      stage: 1,
      record: null,
      detail: "",
    }
    const answers = (status: number, more: Partial<Fault>): void => {
      model.translate = () => status
      Object.assign(model.result, { fault: { ...fault, ...more } })
    }
    answers(REFUSED, { completes: true })
    expect(endpoint.write(0x5000n, Uint8Array.of(7))).toEqual({ kind: "done" })
    const into = Uint8Array.of(1, 2, 3)
    expect(endpoint.read(0x5ffen, into)).toEqual({ kind: "done" })
    expect([...into]).toEqual([0, 0, 0])
    answers(HELD, { held: 4 })
    expect(endpoint.read(0x5000n, into)).toEqual({ kind: "held", held: 4 })
    answers(HELD, {})
    expect(endpoint.read(0x5000n, into)).toEqual({ kind: "held", held: null })
  })

  it("reaches memory where the IOMMU leads a translated request", () => {
    const endpoint = new Endpoint({
      model: Object.assign(model, { reached: { paHi: 0, paLo: 0xb010, sizeLg2: 4 } }),
      memory,
      device: 1,
      ats: true,
    })
    expect(endpoint.write(0x5000n, Uint8Array.of(5))).toEqual({ kind: "done" })
    expect([...memory.read(0xb010, 1)]).toEqual([5])
  })

  it("needs a model with ATS to use it, and ATS to use PRI: EINVAL", () => {
    const { translate, result, mmio } = model
    const plain: IommuModel = {
      vendor: "plain",
      mmio,
      result,
      translate,
      trace: null,
      onInvalidate: null,
      onInterrupt: null,
      restoreRegisters: () => [],
    }
    expect(() => new Endpoint({ model: plain, memory, device: 1, ats: true })).toThrow(/EINVAL/)
    expect(() => new Endpoint({ model, memory, device: 1, pri: true })).toThrow(/EINVAL/)
  })
})
