/** HWPT_GET_DIRTY_BITMAP of a terabyte, with the domains of drivers whose hardware marks what it wrote to. */
import {
  createMemory,
  hi32,
  type IommuModel,
  iommuDevice,
  lo32,
  MemoryAccount,
  NO_PASID,
  PAGING_DIRTY_TRACKING,
  PageAllocator,
  type PagingDomain,
  pagingParameters,
} from "@iommu/core"
import { Ioas, MachineMemory, Process, UserBitmap, UserMemory } from "@iommu/iommufd"
import { BENCH_VENDORS, type BenchVendor } from "./machines.ts"
import type { QuantityCase } from "./quantity.ts"

const TABLES = { base: 0x1_0000_0000n, size: 64n << 20n }
const BITMAP = { base: 0x2_0000_0000n, size: 32n << 20n }
const BLOCK = 2n << 20n
const IOVA = 1n << 40n
const LENGTH = 1n << 40n
const PAGE = 4096n
const USER_VA = 1n << 44n
const BITMAP_VA = 1n << 43n
const ACCESS_WRITE = 2
const ROUNDS = 3

export function dirtyBitmapQuantities(): QuantityCase[] {
  return BENCH_VENDORS.flatMap(vendor => [
    quantity(vendor, "nothing dirty", machine => readMs(machine)),
    quantity(vendor, "all of it dirty", machine => {
      writeEverywhere(machine)
      return readMs(machine)
    }),
  ])
}

function quantity(
  vendor: BenchVendor,
  state: string,
  measure: (machine: DirtyMachine) => number,
): QuantityCase {
  return {
    what: `dirty bitmap of 1 TiB in 2 MiB leaves, ${state}`,
    subject: vendor.nested.name,
    unit: "ms",
    limit: null,
    measure: () => {
      const machine = dirtyMachine(vendor)
      return Math.min(...Array.from({ length: ROUNDS }, () => measure(machine)))
    },
  }
}

interface DirtyMachine {
  readonly model: IommuModel
  readonly device: number
  readonly domain: PagingDomain
  readonly ioas: Ioas
  readonly process: Process
}

/** A device on a domain that tracks, with a terabyte of memory in pieces of 2 MiB. */
function dirtyMachine(vendor: BenchVendor): DirtyMachine {
  const memory = createMemory([TABLES, BITMAP])
  const model = vendor.nested.hostModel(memory, "exact")
  const pages = new PageAllocator(memory, TABLES)
  const ops = vendor.nested.hostDriver({ mmio: model.mmio, memory, pages }, {})
  const account = new MemoryAccount("bench")
  const device = iommuDevice({ id: 0x0010, account })
  ops.probeDevice(device)
  const domain = ops.domainAllocUser?.(device, null, pagingParameters({ flags: PAGING_DIRTY_TRACKING }))
  if (domain === undefined) throw new Error(`${vendor.nested.name} makes no domains that track dirty pages`)
  const user = new UserMemory(new MachineMemory(memory))
  user.map(BITMAP_VA, BITMAP.base, BITMAP.size)
  // A gap between pieces keeps leaves at 2 MiB.
  for (let at = 0n; at < LENGTH; at += BLOCK) user.map(USER_VA + at, (1n << 42n) + 2n * at, BLOCK)
  const process = new Process({
    name: "bench",
    user: { name: "bench", lockedPages: 0 },
    account,
    memory: user,
  })
  const ioas = new Ioas({ account, pinPolicy: { mode: "user" } })
  ioas.addDomain(domain)
  ioas.map(process, { userVa: USER_VA, length: LENGTH, iova: IOVA, readable: true, writeable: true })
  domain.attachDev(device)
  ioas.setDirtyTracking(domain, "on")
  return { model, device: device.id, domain, ioas, process }
}

function writeEverywhere({ model, device }: DirtyMachine): void {
  for (let at = IOVA; at < IOVA + LENGTH; at += BLOCK) {
    const status = model.translate(device, NO_PASID, hi32(at), lo32(at), ACCESS_WRITE)
    if (status !== 0) throw new Error(`the model refuses a write: ${model.result.fault?.reason}`)
  }
}

/** One read that forgets, into a bitmap of 32 MiB. */
function readMs({ ioas, domain, process }: DirtyMachine): number {
  const { user, system } = globalThis.process.cpuUsage()
  const request = { iova: IOVA, length: LENGTH, pageSize: PAGE }
  ioas.readDirty(domain, request, "clear", new UserBitmap(process.memory, BITMAP_VA))
  const now = globalThis.process.cpuUsage()
  return (now.user + now.system - user - system) / 1000
}
