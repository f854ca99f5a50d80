/** Random ioctls on an iommufd, and what happens between them: attaches, closed files, page requests, changed memory. */
import { isIommuError, type PageRequest, type ViommuEvent } from "@iommu/core"
import type { BoundDevice, Iommufd, QueueFile } from "@iommu/iommufd"
import type { Random } from "./random.ts"
import { BYTES, COMMANDS, FLAGS, type Kind, LENGTHS, type Struct, WANTED } from "./structs.ts"

const MAX = (1n << 64n) - 1n
const DEVICES = 3
const PASIDS = [1, 2, 1024] as const

/** What the calls meet. */
export interface FuzzTarget {
  readonly iommufd: Iommufd
  /** Where the process has 64 KiB of memory. */
  readonly userVa: bigint
  /** Types of data, and wrong ones. */
  readonly types: readonly number[]
  /** Values of members, by `struct.member`, that commands need to get through. */
  readonly right: Readonly<Record<string, readonly (number | bigint)[]>>
  /** Gives the iommufd a device that it did not have. */
  bind(random: Random): BoundDevice
  /** A page request of a device. */
  raise?(device: BoundDevice, request: PageRequest): void
  readonly event: ViommuEvent
  /** A call that random members would seldom be right for. @param id of an object that a member wants */
  also?(random: Random, id: (member: string) => number): unknown
  /** Bytes to lie where structs point to. */
  data(random: Random): Uint8Array
}

/** Random calls on one iommufd. */
export class IoctlFuzz {
  readonly target: FuzzTarget
  readonly iommufd: Iommufd
  readonly devices: BoundDevice[] = []
  /** How often each errno came out, and "done". */
  readonly answers = new Map<string, number>()
  /** How often the command of each struct got through. */
  readonly succeeded = new Map<string, number>()
  readonly #random: Random
  /** Of objects, a few calls ago: some of them are gone by now. */
  #objects: readonly { readonly id: number; readonly kind: string }[] = []
  #sinceListed = 0

  constructor(random: Random, target: FuzzTarget) {
    this.#random = random
    this.target = target
    this.iommufd = target.iommufd
    for (let i = 0; i < DEVICES; i++) this.devices.push(target.bind(random))
  }

  ioctl(): void {
    const [command, struct] = this.#random.one(COMMANDS)
    const before = this.answers.get("done")
    const bytes = this.#random.below(16) === 0 ? this.#random.bytes(struct.size + 4) : this.#struct(struct)
    this.#count(() => this.iommufd.ioctl(this.#random.below(200) === 0 ? command + 0x40 : command, bytes))
    if (this.answers.get("done") !== before)
      this.succeeded.set(struct.name, (this.succeeded.get(struct.name) ?? 0) + 1)
  }

  /** What else happens to an iommufd, between ioctls. */
  disturb(): void {
    if (this.devices.length < DEVICES) {
      this.#count(() => this.devices.push(this.target.bind(this.#random)))
      return
    }
    const device = this.#random.one(this.devices)
    const id = this.#id("ptId")
    const pasid = this.#random.one(PASIDS)
    this.#count(
      this.#random.one<() => unknown>([
        () => device.attach(id),
        () => device.replace(id),
        () => device.detach(),
        () => device.attachPasid(pasid, id),
        () => device.replacePasid(pasid, id),
        () => device.detachPasid(pasid),
        () => this.#unbind(device),
        () => this.#closeFile(),
        () => this.#closeFile(),
        () => this.#raise(device),
        () => this.#readFile(),
        () => this.#scribble(),
        () => this.target.also?.(this.#random, member => this.#id(member)),
      ]),
    )
  }

  /** Ids of queues with an open file. */
  get openFiles(): number[] {
    const { objects } = this.iommufd.context.objects
    const files = new Set(
      this.iommufd.process.files.descriptors.map(fd => this.iommufd.process.files.get(fd)),
    )
    return objects.flatMap(object =>
      (object.kind === "fault" || object.kind === "veventq") && files.has(object.file) ? [object.id] : [],
    )
  }

  /** Everything goes; what is left then is a leak. */
  finish(): void {
    for (const device of this.devices) {
      device.detach()
      for (const pasid of PASIDS) device.detachPasid(pasid)
      device.unbind()
    }
    const { files } = this.iommufd.process
    for (const fd of files.descriptors) files.close(fd)
  }

  #unbind(device: BoundDevice): void {
    device.unbind()
    this.devices.splice(this.devices.indexOf(device), 1)
  }

  #closeFile(): void {
    const fd = this.#random.below(24)
    if (fd > 1) this.iommufd.process.files.close(fd)
  }

  #files(): QueueFile[] {
    return this.iommufd.context.objects.objects.flatMap(object =>
      object.kind === "fault" || object.kind === "veventq" ? [object.file] : [],
    )
  }

  #readFile(): void {
    const files = this.#files()
    if (files.length === 0) return
    const file = this.#random.one(files)
    const count = 8 * this.#random.below(30)
    file.readTo(this.iommufd.process.memory, this.#address(), count)
    if ("writeFrom" in file && typeof file.writeFrom === "function") {
      file.writeFrom(this.iommufd.process.memory, this.#address(), count)
    }
  }

  #raise(bound: BoundDevice): void {
    this.target.raise?.(bound, {
      device: bound.device.id,
      pasid: this.#random.one([null, 1, 2]),
      address: this.#address(),
      read: true,
      write: false,
      execute: false,
      privileged: false,
      last: true,
      group: 1,
    })
    for (const object of this.iommufd.context.objects.objects) {
      if (object.kind === "viommu") object.viommu.onEvent?.(this.target.event)
    }
  }

  /** Changes the memory that structs point to. */
  #scribble(): void {
    const { memory } = this.iommufd.process
    const at =
      this.target.userVa +
      BigInt(this.#random.one([8 * this.#random.below(512), 0x1000 * this.#random.below(8)]))
    memory.write(at, this.target.data(this.#random))
  }

  #count(call: () => unknown): void {
    let answer = "done"
    try {
      call()
    } catch (error) {
      if (!isIommuError(error)) throw error
      answer = error.code
    }
    this.answers.set(answer, (this.answers.get(answer) ?? 0) + 1)
  }

  #struct({ name: struct, size, members }: Struct): Uint8Array {
    const longer = this.#random.below(16) === 0 ? 8 : 0
    const bytes = new Uint8Array(size + longer)
    const view = new DataView(bytes.buffer)
    for (const { name, kind, type, offset } of members) {
      const value = kind === "size" ? bytes.length : this.#value(kind, struct, name)
      if (type === "u64") view.setBigUint64(offset, BigInt(value), true)
      else if (type === "u16") view.setUint16(offset, Number(value), true)
      else view.setUint32(offset, Number(value), true)
    }
    if (this.#random.below(40) === 0) view.setUint32(0, this.#random.below(64), true)
    return bytes
  }

  #value(kind: Kind, struct: string, name: string): number | bigint {
    const right = this.target.right[`${struct}.${name}`]
    if (right !== undefined && this.#random.below(3) > 0) return this.#random.one(right)
    switch (kind) {
      case "id":
        return this.#id(name)
      case "flags":
        return this.#random.one(FLAGS)
      case "reserved":
        return this.#random.below(100) === 0 ? 1 : 0
      case "type":
        return this.#random.one(this.target.types)
      case "bytes":
        return this.#random.one(BYTES)
      case "length":
        return this.#random.one(LENGTHS)
      case "address":
        return this.#address()
      case "iova":
        return this.#random.below(4) === 0
          ? this.#address()
          : 0x100_0000n + BigInt(this.#random.below(8) * 0x1000)
      case "small":
      case "size":
        return this.#random.below(4)
    }
  }

  /** Most often that of an object, and of one that the member wants. */
  #id(member = "any"): number {
    if (this.#sinceListed++ % 16 === 0) this.#objects = this.iommufd.context.objects.objects
    if (this.#random.below(16) === 0 || this.#objects.length === 0) {
      return this.#random.one([0, 1, 30, 0x7fff_ffff])
    }
    const kinds = WANTED[member]
    const right = kinds === undefined ? [] : this.#objects.filter(({ kind }) => kinds.includes(kind))
    const isRight = right.length > 0 && this.#random.below(4) > 0
    return this.#random.one(isRight ? right : this.#objects).id
  }

  #address(): bigint {
    const inMemory = this.target.userVa + BigInt(this.#random.below(0x11) * 0x1000)
    const iova = 0x100_0000n + BigInt(this.#random.below(32) * 0x800)
    return this.#random.one([inMemory, inMemory, inMemory + 8n, iova, iova, iova, 0n, MAX, MAX - 0xfffn])
  }
}
