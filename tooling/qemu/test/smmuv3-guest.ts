/**
 * A guest on a nested SMMUv3: our driver once more, behind a virtual SMMU, with its tables in guest memory that the
 * host maps page by page, never where the guest thinks it is.
 */
import {
  type Invalidation,
  IOMMU_READ,
  IOMMU_WRITE,
  type IommuDevice,
  type IommuModel,
  iommuDevice,
  iommuDomainFree,
  MemoryAccount,
  type NestedDomain,
  PAGE_SIZE,
  PAGING_NEST_PARENT,
  PageAllocator,
  PageTableFormatId,
  type PagingDomain,
  type PhysicalMemory,
  pagingParameters,
} from "@iommu/core"
import { commands, deviceTable, registers, smmuv3Driver, smmuv3Model } from "@iommu/smmuv3"
import type { DriverWorld } from "./driver-world.ts"

const GUEST_PAGES_LG2 = 10
const GUEST_BYTES = PAGE_SIZE * 2 ** GUEST_PAGES_LG2
/** Pieces that stay whole, as the largest granule needs. */
const PIECE_BYTES = 0x1_0000
const PIECES = GUEST_BYTES / PIECE_BYTES
/** Guest-physical: tables first, then the pages that its devices use. */
const GUEST_TABLES = 0x8000_0000
export const GUEST_DATA = 0xc000_0000n
const GUEST_DATA_BYTES = 0x1_0000n
/** A step that visits each piece once, so that neighbours in the guest are none in the host. */
const STEP = 21
const GUEST_IDR1 = Number(registers.IDR1.encode({ SIDSIZE: 8n, CMDQS: 8n, EVENTQS: 8n })[0])
/** The STE bits that a guest may choose. */
const GUEST_BITS = [0xf80f_ffff_ffff_ffffn, 0x3800_00ffn] as const

export class SmmuGuest {
  readonly parent: PagingDomain
  readonly domain: PagingDomain
  readonly #world: DriverWorld
  readonly #device: IommuDevice
  readonly #memory: PhysicalMemory
  readonly #front: IommuModel
  #nested: NestedDomain | null = null

  /** @param granuleLg2 of the guest's stage 1 */
  constructor(world: DriverWorld, device: IommuDevice, granuleLg2: number) {
    this.#world = world
    this.#device = device
    const { ops, machine } = world
    if (ops.domainAllocUser === undefined) throw new Error("no user-owned domains")
    this.parent = ops.domainAllocUser(device, null, pagingParameters({ flags: PAGING_NEST_PARENT }))
    const host = machine.pages.alloc(GUEST_PAGES_LG2, world.account)
    const windows = Array.from({ length: PIECES }, (_, piece) => ({
      base: GUEST_TABLES + piece * PIECE_BYTES,
      size: PIECE_BYTES,
      at: host + ((piece * STEP + 5) % PIECES) * PIECE_BYTES,
    }))
    for (const { base, size, at } of windows) this.parent.map(base, at, size, IOMMU_READ | IOMMU_WRITE)
    this.parent.map(GUEST_DATA, world.low, GUEST_DATA_BYTES, IOMMU_READ | IOMMU_WRITE)
    this.#memory = machine.memory.view(windows)
    // A guest sees what the hardware can do, or its tables ask for what it cannot.
    const id = (name: "IDR0" | "IDR3" | "IDR5"): number => machine.mmio.read32(registers.REGISTERS[name][0])
    this.#front = smmuv3Model({
      memory: this.#memory,
      id: { IDR0: id("IDR0"), IDR1: GUEST_IDR1, IDR3: id("IDR3"), IDR5: id("IDR5") },
    })
    this.#front.onInvalidate = command => this.#carryOut(command)
    const pages = new PageAllocator(this.#memory, { base: GUEST_TABLES, size: GUEST_BYTES })
    const guestOps = smmuv3Driver({ mmio: this.#front.mmio, memory: this.#memory, pages })
    const account = new MemoryAccount("guest")
    const guestDevice = iommuDevice({ id: device.id, account })
    guestOps.probeDevice(guestDevice)
    if (guestOps.domainAllocUser === undefined) throw new Error("no user-owned domains")
    this.domain = guestOps.domainAllocUser(
      guestDevice,
      null,
      pagingParameters({ format: PageTableFormatId.ARM_64_LPAE_S1, granuleLg2, outputBits: 44 }),
    )
    this.domain.attachDev(guestDevice)
  }

  end(): void {
    this.#world.ops.blockedDomain.attachDev(this.#device)
    if (this.#nested !== null) iommuDomainFree(this.#nested)
    iommuDomainFree(this.parent)
  }

  /** Commands on entries make the VMM read them again; the others go to the host's driver. */
  #carryOut({ words }: Invalidation): void {
    const [word0, word1] = words
    const opcode = Number(word0 & 0xffn)
    if (opcode === commands.CMD_CFGI_STE || opcode === commands.CMD_CFGI_STE_RANGE) {
      this.#refresh()
    } else if (opcode !== commands.CMD_TLBI_EL2_ALL) {
      const result = this.#nested?.cacheInvalidateUser?.({ type: 1, entries: [{ cmd: [word0, word1] }] })
      if (result?.error) throw result.error
    }
  }

  #refresh(): void {
    const old = this.#nested
    const ste = this.#guestEntry()
    const { ops } = this.#world
    if (ops.domainAllocUser === undefined) return
    this.#nested = ste === null ? null : ops.domainAllocUser(this.#device, this.parent, { type: 2, ste })
    const domain = this.#nested ?? ops.blockedDomain
    domain.attachDev(this.#device)
    if (old !== null) iommuDomainFree(old)
  }

  /** The guest's STE when it translates. IHI 0070 G.b §3.3.2: a two-level table, or a linear one. */
  #guestEntry(): readonly [bigint, bigint] | null {
    const { mmio } = this.#front
    const { REGISTERS } = registers
    const base = mmio.read64(REGISTERS.STRTAB_BASE[0]) & 0x00ff_ffff_ffff_ffc0n
    const config = mmio.read32(REGISTERS.STRTAB_BASE_CFG[0])
    const isLinear =
      (config & registers.STRTAB_BASE_CFG_FMT) >>> registers.STRTAB_BASE_CFG_FMT_SHIFT ===
      registers.STRTAB_FMT_LINEAR
    if (base === 0n) return null
    let table = base
    if (!isLinear) {
      const descriptor = [this.#memory.read64(base)]
      if (deviceTable.L1STD.get(descriptor, "Span") === 0n) return null
      table = deviceTable.L1STD.getInPlace(descriptor, "L2Ptr")
    }
    const at = table + BigInt(this.#device.id * deviceTable.STE_BYTES)
    const [word0, word1] = [this.#memory.read64(at), this.#memory.read64(at + 8n)]
    const isValid = deviceTable.STE.get([word0, word1], "V") === 1n
    const translates = deviceTable.STE.get([word0, word1], "Config") === 5n
    return isValid && translates ? [word0 & GUEST_BITS[0], word1 & GUEST_BITS[1]] : null
  }
}
