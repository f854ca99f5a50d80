/** The least that is a driver: paging domains in a Map, no hardware, no nesting, no dirty tracking, no PASID. */
import {
  type BlockedDomain,
  type DomainUserData,
  type DriverCapabilities,
  fromHalves,
  HWPT_PAGING,
  HwptDataType,
  hi32,
  IOMMU_READ,
  IOMMU_WRITE,
  type IommuDevice,
  type IommuDomain,
  IommuError,
  type IommuOps,
  isIommuError,
  lo32,
  PageTableFormatId,
  type PagingDomain,
  toU64,
  type U64Like,
} from "@iommu/core"

const PAGE = 4096n
/** Entries that one accounted page of the pretended table holds. */
const ENTRIES_PER_PAGE = 8
const APERTURE = { start: 1n << 24n, last: (1n << 32n) - 1n }

export function mockDriver(): IommuOps {
  return new MockOps()
}

/** A driver that cannot serve iommufd, and therefore has no `domainAllocUser`. */
export function mockDriverWithoutUserDomains(): IommuOps {
  return new MockHost([])
}

class MockHost implements IommuOps {
  readonly name = "mock"
  readonly capabilities: DriverCapabilities
  /** Which domain each probed device is on. */
  readonly attached = new Map<IommuDevice, IommuDomain>()
  readonly blockedDomain: BlockedDomain = {
    type: "blocked",
    ops: this,
    attachDev: device => this.put(device, this.blockedDomain),
    detachDev: () => {},
    free: () => {},
  }

  constructor(userDataTypes: readonly number[]) {
    this.capabilities = {
      nesting: false,
      dirtyTracking: false,
      pasidBits: 0,
      formats: [PageTableFormatId.DEFAULT],
      userDataTypes,
      invalidateDataTypes: [],
      coherentWalks: true,
    }
  }

  capable(): boolean {
    return false
  }

  hwInfo(): null {
    return null
  }

  probeDevice(device: IommuDevice): void {
    if (this.attached.has(device)) throw new IommuError("EEXIST", `${device.name} is probed already`)
    this.attached.set(device, this.blockedDomain)
  }

  releaseDevice(device: IommuDevice): void {
    const domain = this.domainOf(device)
    if (domain !== this.blockedDomain) throw new IommuError("EBUSY", `${device.name} is on a domain`)
    this.attached.delete(device)
  }

  put(device: IommuDevice, domain: IommuDomain): void {
    this.domainOf(device)
    this.attached.set(device, domain)
  }

  domainOf(device: IommuDevice): IommuDomain {
    const domain = this.attached.get(device)
    if (domain === undefined) throw new IommuError("ENODEV", `${device.name} was not probed`)
    return domain
  }
}

class MockOps extends MockHost {
  constructor() {
    super([HwptDataType.PAGING])
  }

  domainAllocUserDataLen(hwptType: number): number {
    if (hwptType === HwptDataType.PAGING) return HWPT_PAGING.size
    throw new IommuError("EOPNOTSUPP", `the mock takes no user data of type ${hwptType}`)
  }

  domainAllocUser(device: IommuDevice, parent: null, data: DomainUserData | null): PagingDomain
  domainAllocUser(device: IommuDevice, parent: IommuDomain, data: DomainUserData | null): never
  domainAllocUser(device: IommuDevice, parent: IommuDomain | null, data: DomainUserData | null): PagingDomain
  domainAllocUser(
    device: IommuDevice,
    parent: IommuDomain | null,
    data: DomainUserData | null,
  ): PagingDomain {
    this.domainOf(device)
    if (parent !== null) throw new IommuError("EOPNOTSUPP", "the mock does not nest")
    if (data !== null) checkPagingData(data)
    return new MockDomain(this, device.account)
  }
}

function checkPagingData(data: DomainUserData): void {
  if (data.type !== HwptDataType.PAGING) throw new IommuError("EOPNOTSUPP", "only paging data is understood")
  if (data.flags !== 0) throw new IommuError("EOPNOTSUPP", "the mock has no flags")
  if (data.__reserved !== 0) throw new IommuError("EOPNOTSUPP", "a reserved member is set")
  if (data.format !== 0 || data.levels + data.granuleLg2 + data.inputBits + data.outputBits !== 0) {
    throw new IommuError("EOPNOTSUPP", "the mock has one format")
  }
}

class MockDomain implements PagingDomain {
  readonly type = "paging"
  readonly format = PageTableFormatId.DEFAULT
  readonly nestParent = false
  readonly pageSizes = PAGE
  readonly aperture = APERTURE
  readonly ops: MockHost
  readonly #account: IommuDevice["account"]
  readonly #pages = new Map<bigint, bigint>()
  #charged = 0
  #freed = false
  physHi = 0
  physLo = 0

  constructor(ops: MockHost, account: IommuDevice["account"]) {
    this.ops = ops
    this.#account = account
  }

  attachDev(device: IommuDevice): void {
    if (this.#freed) throw new IommuError("EINVAL", "the domain was freed")
    this.ops.put(device, this)
  }

  detachDev(device: IommuDevice): void {
    if (this.ops.domainOf(device) !== this)
      throw new IommuError("EINVAL", `${device.name} is on another domain`)
    this.ops.put(device, this.ops.blockedDomain)
  }

  map(iova: U64Like, pa: U64Like, size: U64Like, prot: number): void {
    const [at, to, length] = [toU64(iova, "iova"), toU64(pa, "pa"), this.#checkRange(iova, size)]
    if (to % PAGE !== 0n || (prot & (IOMMU_READ | IOMMU_WRITE)) === 0) {
      throw new IommuError("EINVAL", "a mapping is aligned, and readable or writable")
    }
    if (at < APERTURE.start || at + length - 1n > APERTURE.last || to + length > 1n << 52n) {
      throw new IommuError("ERANGE", "the mapping lies outside aperture or output width")
    }
    for (let offset = 0n; offset < length; offset += PAGE) {
      if (this.#pages.has(at + offset))
        throw new IommuError("EEXIST", "a page of the range is mapped already")
    }
    this.#resize(this.#pages.size + Number(length / PAGE))
    for (let offset = 0n; offset < length; offset += PAGE) this.#pages.set(at + offset, to + offset)
  }

  unmap(iova: U64Like, size: U64Like): bigint {
    const length = this.#checkRange(iova, size)
    let removed = 0n
    for (let offset = 0n; offset < length; offset += PAGE) {
      if (this.#pages.delete(toU64(iova, "iova") + offset)) removed += PAGE
    }
    this.#resize(this.#pages.size)
    return removed
  }

  unmapFast(iova: U64Like, size: U64Like): bigint {
    return this.unmap(iova, size)
  }

  iotlbSync(): void {}

  flushIotlbAll(): void {}

  iovaToPhys(iova: U64Like): bigint | null {
    const at = toU64(iova, "iova")
    const page = this.#pages.get(at - (at % PAGE))
    return page === undefined ? null : page + (at % PAGE)
  }

  mapPages(iovaHi: number, iovaLo: number, paHi: number, paLo: number, pages: number, prot: number): number {
    try {
      this.map(fromHalves(iovaHi, iovaLo), fromHalves(paHi, paLo), BigInt(pages) * PAGE, prot)
      return 0
    } catch (error) {
      if (!isIommuError(error)) throw error
      return error.errno
    }
  }

  unmapPages(iovaHi: number, iovaLo: number, pages: number): number {
    return Number(this.unmap(fromHalves(iovaHi, iovaLo), BigInt(pages) * PAGE) / PAGE)
  }

  iovaToPhysHalves(iovaHi: number, iovaLo: number): number {
    const pa = this.iovaToPhys(fromHalves(iovaHi, iovaLo))
    if (pa === null) return 2
    this.physHi = hi32(pa)
    this.physLo = lo32(pa)
    return 0
  }

  free(): void {
    if (this.#freed) throw new IommuError("EINVAL", "the domain was freed already")
    if ([...this.ops.attached.values()].includes(this))
      throw new IommuError("EBUSY", "a device is on the domain")
    this.#pages.clear()
    this.#resize(0)
    this.#freed = true
  }

  #checkRange(iova: U64Like, size: U64Like): bigint {
    if (this.#freed) throw new IommuError("EINVAL", "the domain was freed")
    const length = toU64(size, "size")
    if (length === 0n || length % PAGE !== 0n || toU64(iova, "iova") % PAGE !== 0n) {
      throw new IommuError("EINVAL", "a range is whole pages")
    }
    return length
  }

  #resize(entries: number): void {
    const pages = Math.ceil(entries / ENTRIES_PER_PAGE)
    if (pages > this.#charged) this.#account.charge(pages - this.#charged)
    else this.#account.uncharge(this.#charged - pages)
    this.#charged = pages
  }
}
