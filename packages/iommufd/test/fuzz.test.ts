/**
 * A million ioctls of random bytes: mostly structs with plausible members, some of pure noise. Nothing but an errno
 * may come out; references, pins and charges must be right after each batch, and nothing is left at the end of a round.
 */
import {
  iommuDevice,
  isIommuError,
  type MemberSpecs,
  MemoryAccount,
  type PageRequest,
  type StructLayout,
} from "@iommu/core"
import * as uapi from "@iommu/iommufd"
import {
  type BoundDevice,
  type Iommufd,
  MemFile,
  openIommufd,
  type Process,
  type QueueFile,
} from "@iommu/iommufd"
import {
  HW_QUEUE_TYPE_SELFTEST,
  HWPT_DATA_SELFTEST,
  INVALIDATE_DATA_SELFTEST,
  type MockIommu,
  mockDevice,
  mockIommu,
  type TestMachine,
  testMachine,
  VEVENTQ_TYPE_SELFTEST,
  VIOMMU_TYPE_SELFTEST,
} from "@iommu/iommufd/testing"
import { describe, expect, it } from "vitest"
import { wrongUsers } from "./object-invariants.ts"

const CALLS = 1_000_000
const CALLS_A_ROUND = 10_000
const CALLS_A_BATCH = 500
const MAX = (1n << 64n) - 1n

const STRUCTS: readonly (readonly [number, StructLayout<MemberSpecs>])[] = [
  [uapi.IommufdCommand.DESTROY, uapi.IOMMU_DESTROY],
  [uapi.IommufdCommand.IOAS_ALLOC, uapi.IOMMU_IOAS_ALLOC],
  [uapi.IommufdCommand.IOAS_ALLOW_IOVAS, uapi.IOMMU_IOAS_ALLOW_IOVAS],
  [uapi.IommufdCommand.IOAS_COPY, uapi.IOMMU_IOAS_COPY],
  [uapi.IommufdCommand.IOAS_IOVA_RANGES, uapi.IOMMU_IOAS_IOVA_RANGES],
  [uapi.IommufdCommand.IOAS_MAP, uapi.IOMMU_IOAS_MAP],
  [uapi.IommufdCommand.IOAS_MAP, uapi.IOMMU_IOAS_MAP],
  [uapi.IommufdCommand.IOAS_UNMAP, uapi.IOMMU_IOAS_UNMAP],
  [uapi.IommufdCommand.OPTION, uapi.IOMMU_OPTION],
  [uapi.IommufdCommand.VFIO_IOAS, uapi.IOMMU_VFIO_IOAS],
  [uapi.IommufdCommand.HWPT_ALLOC, uapi.IOMMU_HWPT_ALLOC],
  [uapi.IommufdCommand.HWPT_ALLOC, uapi.IOMMU_HWPT_ALLOC],
  [uapi.IommufdCommand.GET_HW_INFO, uapi.IOMMU_GET_HW_INFO],
  [uapi.IommufdCommand.HWPT_SET_DIRTY_TRACKING, uapi.IOMMU_HWPT_SET_DIRTY_TRACKING],
  [uapi.IommufdCommand.HWPT_GET_DIRTY_BITMAP, uapi.IOMMU_HWPT_GET_DIRTY_BITMAP],
  [uapi.IommufdCommand.HWPT_INVALIDATE, uapi.IOMMU_HWPT_INVALIDATE],
  [uapi.IommufdCommand.FAULT_QUEUE_ALLOC, uapi.IOMMU_FAULT_QUEUE_ALLOC],
  [uapi.IommufdCommand.IOAS_MAP_FILE, uapi.IOMMU_IOAS_MAP_FILE],
  [uapi.IommufdCommand.VIOMMU_ALLOC, uapi.IOMMU_VIOMMU_ALLOC],
  [uapi.IommufdCommand.VDEVICE_ALLOC, uapi.IOMMU_VDEVICE_ALLOC],
  [uapi.IommufdCommand.IOAS_CHANGE_PROCESS, uapi.IOMMU_IOAS_CHANGE_PROCESS],
  [uapi.IommufdCommand.VEVENTQ_ALLOC, uapi.IOMMU_VEVENTQ_ALLOC],
  [uapi.IommufdCommand.HW_QUEUE_ALLOC, uapi.IOMMU_HW_QUEUE_ALLOC],
  [uapi.IommufdCommand.IOAS_NOIOMMU_GET_PA, uapi.IOMMU_IOAS_NOIOMMU_GET_PA],
]

const COMMANDS = STRUCTS.map(([command, layout]) => [command, structOf(layout)] as const)

/** Mulberry32: small, fast, and the same on every machine. */
class Random {
  #state: number

  constructor(seed: number) {
    this.#state = seed
  }

  /** From 0 up to, but not including, `end`. */
  below(end: number): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * end)
  }

  one<T>(items: readonly T[]): T {
    return items[this.below(items.length)] as T
  }
}

/** A round of calls on a fresh machine. */
class Round {
  readonly machine: TestMachine = testMachine({ ramBytes: 0x1_0000n })
  readonly process: Process
  readonly iommufd: Iommufd
  readonly mocks: readonly MockIommu[] = [
    mockIommu({ reservedRegions: [{ type: "reserved", start: 0x180_0000n, last: 0x180_0fffn }] }),
    mockIommu({ enforcesCoherency: true }),
  ]
  readonly host = new MemoryAccount("host")
  readonly devices: BoundDevice[] = []
  readonly answers = new Map<string, number>()
  readonly succeeded = new Map<string, number>()
  readonly #random: Random
  #next = 1
  /** Of objects, a few calls ago: some of them are gone by now. */
  #objects: readonly { readonly id: number; readonly kind: string }[] = []
  #sinceListed = 0

  constructor(random: Random) {
    this.#random = random
    this.process = this.machine.process({
      account: new MemoryAccount("owner", 30),
      memlockBytes: 0xc000,
      fileLimit: 24,
      capabilities: ["CAP_SYS_RAWIO", "CAP_SYS_RESOURCE"],
    })
    this.iommufd = openIommufd(this.process)
    this.process.files.install(new MemFile([{ address: this.machine.ramBase, length: 0x8000n }]))
    for (let i = 0; i < 3; i++) this.#bind()
  }

  ioctl(): void {
    const [command, struct] = this.#random.one(COMMANDS)
    const before = this.answers.get("done")
    const bytes = this.#random.below(16) === 0 ? this.#noise(struct.size + 4) : this.#struct(struct)
    this.#count(() => this.iommufd.ioctl(this.#random.below(200) === 0 ? command + 0x40 : command, bytes))
    if (this.answers.get("done") !== before)
      this.succeeded.set(struct.name, (this.succeeded.get(struct.name) ?? 0) + 1)
  }

  /** What else happens to an iommufd, between ioctls. */
  disturb(): void {
    const device = this.#random.one(this.devices)
    const id = this.#id("ptId")
    const pasid = this.#random.one([1, 2, 1024])
    this.#count(
      this.#random.one<() => unknown>([
        () => device.attach(id),
        () => device.replace(id),
        () => device.detach(),
        () => device.attachPasid(pasid, id),
        () => device.replacePasid(pasid, id),
        () => device.detachPasid(pasid),
        () => this.#rebind(device),
        () => this.#closeFile(),
        () => this.#closeFile(),
        () => this.#raise(device),
        () => this.#readFile(),
        () => this.#scribble(),
      ]),
    )
  }

  /** Ids of queues with an open file. */
  get openFiles(): number[] {
    const { objects } = this.iommufd.context.objects
    const files = new Set(this.process.files.descriptors.map(fd => this.process.files.get(fd)))
    return objects.flatMap(object =>
      (object.kind === "fault" || object.kind === "veventq") && files.has(object.file) ? [object.id] : [],
    )
  }

  /** Everything goes; what is left is a leak. */
  finish(): unknown {
    for (const device of this.devices) {
      device.detach()
      for (const pasid of [1, 2, 1024]) device.detachPasid(pasid)
      device.unbind()
    }
    for (const fd of this.process.files.descriptors) this.process.files.close(fd)
    return [this.machine.counts(), this.process.account.usagePages, this.host.usagePages]
  }

  #bind(): void {
    if (this.#random.below(4) === 0) {
      const device = iommuDevice({ id: this.#next++, account: this.host })
      this.devices.push(this.iommufd.bindNoIommuDevice(device))
      return
    }
    const mock = this.#random.one(this.mocks)
    const device = mockDevice({ id: this.#next++, pasid: this.#random.below(2) === 0, account: this.host })
    mock.probeDevice(device)
    try {
      this.devices.push(this.iommufd.bindDevice({ ops: mock, device }))
    } catch (error) {
      mock.releaseDevice(device)
      throw error
    }
  }

  #rebind(device: BoundDevice): void {
    device.unbind()
    this.devices.splice(this.devices.indexOf(device), 1)
    this.#bind()
  }

  #closeFile(): void {
    const fd = this.#random.below(24)
    if (fd > 1) this.process.files.close(fd)
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
    file.readTo(this.process.memory, this.#address(), count)
    if ("writeFrom" in file && typeof file.writeFrom === "function") {
      file.writeFrom(this.process.memory, this.#address(), count)
    }
  }

  #raise({ device, ops }: BoundDevice): void {
    const request: PageRequest = {
      device: device.id,
      pasid: this.#random.one([null, 1, 2]),
      address: this.#address(),
      read: true,
      write: false,
      execute: false,
      privileged: false,
      last: true,
      group: 1,
    }
    this.mocks.find(mock => mock === ops)?.raisePageRequests(device, [request])
    for (const object of this.iommufd.context.objects.objects) {
      if (object.kind === "viommu")
        object.viommu.onEvent?.({ type: VEVENTQ_TYPE_SELFTEST, data: Uint8Array.of(1) })
    }
  }

  /** Changes the memory that structs point to. */
  #scribble(): void {
    const { memory } = this.process
    const at = this.machine.userVa + BigInt(8 * this.#random.below(512))
    memory.write(
      at,
      this.#random.below(3) === 0 ? this.#noise(32) : new Uint8Array(32).fill(this.#random.below(5)),
    )
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

  #noise(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.#random.below(256))
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
    const right = RIGHT[`${struct}.${name}`]
    if (right !== undefined && this.#random.below(3) > 0) return this.#random.one(right)
    switch (kind) {
      case "id":
        return this.#id(name)
      case "flags":
        return this.#random.one(FLAGS)
      case "reserved":
        return this.#random.below(100) === 0 ? 1 : 0
      case "type":
        return this.#random.one(TYPES)
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
    const inMemory = this.machine.userVa + BigInt(this.#random.below(0x11) * 0x1000)
    const iova = 0x100_0000n + BigInt(this.#random.below(32) * 0x800)
    return this.#random.one([inMemory, inMemory, inMemory + 8n, iova, iova, iova, 0n, MAX, MAX - 0xfffn])
  }
}

type Kind = "size" | "iova" | "id" | "flags" | "reserved" | "type" | "bytes" | "length" | "address" | "small"

/** Kinds of objects that members name. */
const WANTED: Readonly<Record<string, readonly string[]>> = {
  devId: ["device"],
  ptId: ["ioas", "ioas", "hwpt-paging", "viommu"],
  hwptId: ["hwpt-paging", "hwpt-nested", "viommu"],
  viommuId: ["viommu"],
  ioasId: ["ioas"],
  dstIoasId: ["ioas"],
  srcIoasId: ["ioas"],
  faultId: ["fault"],
}

/** Values of members that a command needs to get through. */
const RIGHT: Readonly<Record<string, readonly (number | bigint)[]>> = {
  "iommu_hwpt_alloc.flags": [0, 0, 1, 1, 2, 8, 9],
  "iommu_hwpt_alloc.dataType": [0, 0, HWPT_DATA_SELFTEST],
  "iommu_hwpt_alloc.dataLen": [0, 0, 8],
  "iommu_viommu_alloc.type": [VIOMMU_TYPE_SELFTEST],
  "iommu_viommu_alloc.flags": [0],
  "iommu_viommu_alloc.dataLen": [0, 24],
  "iommu_hw_queue_alloc.type": [HW_QUEUE_TYPE_SELFTEST],
  "iommu_hw_queue_alloc.flags": [0],
  "iommu_hw_queue_alloc.length": [1n, 0x40n, 0x1000n],
  "iommu_hwpt_invalidate.dataType": [INVALIDATE_DATA_SELFTEST],
  "iommu_hwpt_invalidate.entryLen": [8, 12],
  "iommu_ioas_map.flags": [4, 6, 7],
  "iommu_ioas_copy.flags": [4, 6, 7],
  "iommu_ioas_noiommu_get_pa.flags": [0],
  "iommu_option.op": [0, 1],
  "iommu_option.optionId": [0, 1],
}

interface Struct {
  readonly name: string
  readonly size: number
  readonly members: readonly {
    readonly name: string
    readonly kind: Kind
    readonly type: string
    readonly offset: number
  }[]
}

/** What kind of value a member wants, told by its name. */
function kindOf(member: string): Kind {
  if (member === "size") return "size"
  if (/id$/i.test(member)) return "id"
  if (/flags/.test(member)) return "flags"
  if (/reserved/.test(member)) return "reserved"
  if (/type/i.test(member)) return "type"
  if (/len$/i.test(member)) return "bytes"
  if (/length|pagesize/i.test(member)) return "length"
  if (/iova$/i.test(member)) return "iova"
  return /iovas$|va$|uptr|data|start/i.test(member) ? "address" : "small"
}

function structOf({ name: struct, size, members }: StructLayout<MemberSpecs>): Struct {
  const scalars = Object.entries(members).filter(([, [type]]) => !type.includes("["))
  return {
    name: struct,
    size,
    members: scalars.map(([name, [type, offset]]) => ({ name, kind: kindOf(name), type, offset })),
  }
}

const FLAGS = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 6, 6, 7, 7, 8, 9, 16]
const BYTES = [0, 0, 8, 8, 8, 12, 24, 24, 32, 4096]
const TYPES = [
  0,
  0,
  1,
  HWPT_DATA_SELFTEST,
  HWPT_DATA_SELFTEST,
  INVALIDATE_DATA_SELFTEST,
  VIOMMU_TYPE_SELFTEST,
  VEVENTQ_TYPE_SELFTEST,
  HW_QUEUE_TYPE_SELFTEST,
  0x8000_0001,
]
const LENGTHS = [0n, 1n, 0x800n, 0x1000n, 0x1000n, 0x2000n, 0x5000n, 1n << 40n, MAX - 1n, MAX]

describe("byte fuzz", () => {
  it(`survives ${CALLS} ioctls with nothing but errnos`, () => {
    const answers = new Map<string, number>()
    const succeeded = new Map<string, number>()
    // Nobody looks at the stacks of a million errors.
    Error.stackTraceLimit = 0
    for (let round = 0; round < CALLS / CALLS_A_ROUND; round++) {
      const fuzz = new Round(new Random(round))
      for (let call = 0; call < CALLS_A_ROUND; call++) {
        fuzz.ioctl()
        if (call % 4 === 0) fuzz.disturb()
        if (call % CALLS_A_BATCH === 0)
          expect(wrongUsers(fuzz.iommufd, fuzz.openFiles), `round ${round}`).toEqual([])
      }
      add(answers, fuzz.answers)
      add(succeeded, fuzz.succeeded)
      const left = { kernelBytes: 0, pinnedPages: 0, lockedPages: 0, userLockedPages: 0 }
      expect(fuzz.finish(), `round ${round}`).toEqual([
        { pins: 0, processes: [{ name: "process 1", ...left }] },
        0,
        0,
      ])
    }
    expect(answers.size).toBeGreaterThan(12)
    // A fuzz that is refused at the door proves nothing: each command got through.
    const seldom = STRUCTS.filter(([, { name }]) => (succeeded.get(name) ?? 0) < 10)
    expect(seldom.map(([, { name }]) => name)).toEqual([])
  })
})

function add(sums: Map<string, number>, more: ReadonlyMap<string, number>): void {
  for (const [key, count] of more) sums.set(key, (sums.get(key) ?? 0) + count)
}
