/** A driver of ours on QEMU's IOMMU: its devices, DMA through its tables, and what became of each access. */
import { amdDriver } from "@iommu/amd"
import {
  IOMMU_READ,
  IOMMU_WRITE,
  type IommuDevice,
  type IommuOps,
  type IommuPlatform,
  iommuDevice,
  MemoryAccount,
  type PagingDomain,
} from "@iommu/core"
import { smmuv3Driver } from "@iommu/smmuv3"
import { vtdDriver } from "@iommu/vtd"
import {
  type DriverMachine,
  type Edu,
  LAYOUTS,
  type QemuBinary,
  type Recipe,
  startDriverMachine,
  type TestAttributes,
  type TestDevice,
  type TestWrite,
  type Vendor,
} from "../src/index.ts"

const MIB = 1024 ** 2
const TABLE_BYTES = 8 * MIB
/** Between the start of RAM and the driver's tables: what firmware of the machine may have there, and blocks. */
const TABLES_AT = 16 * MIB
const DEVICES = 2
/** A QEMU on a busy machine is long in starting. */
export const START_TIMEOUT_MS = 120_000

const DRIVERS: Readonly<Record<Vendor, (platform: IommuPlatform, variant: string) => IommuOps>> = {
  vtd: (platform, variant) =>
    vtdDriver(platform, { mode: variant === "legacy" ? "legacy" : "scalable", hostAddressBits: 48 }),
  smmuv3: platform => smmuv3Driver(platform),
  amd: platform => amdDriver(platform, { maxDeviceId: 0xff }),
}

/** Where a domain of the test keeps a page for what devices read: {@link DriverWorld.read}. */
export const MAILBOX_IOVA = 0x7f_fff0_0000n

export interface Endpoint {
  readonly device: IommuDevice
  readonly edu: Edu
}

/** A device that says itself what came of its writes. */
export interface Tester {
  readonly device: IommuDevice
  readonly testDevice: TestDevice
}

export class DriverWorld {
  readonly machine: DriverMachine
  readonly ops: IommuOps
  readonly endpoints: readonly Endpoint[]
  /** None where QEMU has no `iommu-testdev`. */
  readonly testers: readonly Tester[]
  readonly account: MemoryAccount = new MemoryAccount("owner")
  /** 2 MiB of RAM, aligned to their size, and the same beyond 4 GiB. */
  readonly low: number
  readonly high: number = 4 * 1024 * MIB
  readonly mailbox: number
  #nextTag = 0x1000_0001

  private constructor(machine: DriverMachine, recipe: Recipe, ramBase: number) {
    this.machine = machine
    this.low = ramBase + TABLES_AT + TABLE_BYTES
    this.mailbox = this.low + 4 * MIB
    this.ops = DRIVERS[recipe.vendor](machine, recipe.variant)
    this.endpoints = machine.devices.map(edu => ({ device: this.#probed(edu.id), edu }))
    this.testers = machine.testDevices.map(testDevice => ({
      device: this.#probed(testDevice.id),
      testDevice,
    }))
  }

  #probed(id: number): IommuDevice {
    const device = iommuDevice({ id, account: this.account })
    this.ops.probeDevice(device)
    return device
  }

  static async start(binary: QemuBinary, recipe: Recipe): Promise<DriverWorld> {
    const { base } = LAYOUTS[binary.target].ram[0]
    const tables = { base: base + TABLES_AT, size: TABLE_BYTES }
    const machine = await startDriverMachine(binary, recipe, DEVICES, tables)
    return new DriverWorld(machine, recipe, base)
  }

  /** The mailbox has its place in every domain whose devices read. */
  openMailbox(domain: PagingDomain): void {
    const page = Number(domain.pageSizes & -domain.pageSizes)
    domain.map(MAILBOX_IOVA, this.mailbox, page, IOMMU_READ | IOMMU_WRITE)
  }

  /** A word that no other access has. */
  tag(): number {
    return this.#nextTag++
  }

  peek(address: number): number {
    const word = Buffer.alloc(4)
    this.machine.ram.read(address, word)
    return word.readUInt32LE()
  }

  poke(address: number, value: number): void {
    const word = Buffer.alloc(4)
    word.writeUInt32LE(value)
    this.machine.ram.write(address, word)
  }

  /**
   * The word that a device reads at an IOVA. A refused read gives what the bus gives, which is none of our tags.
   * @param open a domain with the mailbox; the device is put on it after the read when it is on another one
   */
  read({ device, edu }: Endpoint, iova: bigint, open: PagingDomain | null = null): number {
    this.machine.dmaRead(edu, iova, 4)
    open?.attachDev(device)
    this.poke(this.mailbox, 0)
    this.machine.dmaWrite(edu, MAILBOX_IOVA, 4)
    return this.peek(this.mailbox)
  }

  /** Loads a word into a device's buffer, through the mailbox. */
  arm({ edu }: Endpoint, word: number): void {
    this.poke(this.mailbox, word)
    this.machine.dmaRead(edu, MAILBOX_IOVA, 4)
  }

  /** True when a word that the device writes at an IOVA arrives at an address; the word is removed again. */
  writeLands(endpoint: Endpoint, iova: bigint, address: number): boolean {
    const word = this.tag()
    const before = this.peek(address)
    this.arm(endpoint, word)
    this.machine.dmaWrite(endpoint.edu, iova, 4)
    const landed = this.peek(address) === word
    this.poke(address, before)
    return landed
  }

  /** True when what a device reads at an IOVA is what stands at an address. */
  readFinds(endpoint: Endpoint, iova: bigint, address: number): boolean {
    const word = this.tag()
    this.poke(address, word)
    return this.read(endpoint, iova) === word
  }

  /** What a device says of its write at an IOVA, which is to arrive at an address; the word is removed again. */
  tryWrite(
    { testDevice }: Tester,
    iova: bigint,
    address: number | bigint,
    attributes?: TestAttributes,
  ): TestWrite {
    const before = this.peek(Number(address))
    const came = this.machine.testWrite(testDevice, iova, BigInt(address), attributes)
    this.poke(Number(address), before)
    return came
  }
}
