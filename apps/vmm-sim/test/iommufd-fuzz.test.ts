/**
 * Random ioctls on an iommufd whose devices are behind real drivers and models of hardware: whatever a process writes
 * into structs, page tables' words and invalidations, only errnos come out, and nothing is left at the end.
 */
import {
  createMemory,
  HWPT_PAGING,
  iommuDevice,
  MemoryAccount,
  PageAllocator,
  pagingParameters,
} from "@iommu/core"
import { type BoundDevice, MachineMemory, openIommufd, Process, UserMemory } from "@iommu/iommufd"
import { describe, expect, it } from "vitest"
import { type FuzzTarget, IoctlFuzz } from "../../../packages/iommufd/test/fuzz/ioctl-fuzz.ts"
import { Random } from "../../../packages/iommufd/test/fuzz/random.ts"
import { wrongUsers } from "../../../packages/iommufd/test/object-invariants.ts"
import type { NestedVendor } from "../src/nested/vendor.ts"
import { NESTED_VENDORS } from "../src/nested/vendors.ts"

const ROUNDS = 8
const CALLS_A_ROUND = 4000
const USER_RAM = { base: 0x1_0000_0000n, size: 0x1_0000n }
const HOST_TABLES = { base: 0x100_0000n, size: 0x400_0000n }
const USER_VA = 0x7f00_0000_0000n
const PAGES = Array.from({ length: 8 }, (_, page) => USER_VA + BigInt(page * 0x1000))
const PAGING = 0x8000_0001
/** Bytes of guests that are not all wrong: VT-d's first stage and an invalidation of it, an STE, two DTEs. */
const WORDS: readonly (readonly bigint[])[] = [
  [1n, 0x1000n, 48n, 0n],
  [0x1000n, 1n, 0n, 0n],
  [0x0000_0000_0000_200bn, 0n, 0n, 0n],
  [0x0000_0000_0000_0009n, 0n, 0n, 0n],
  [0x0180_0000_0000_0003n, 0x8000_0000_0000n, 0n, 0n],
]

interface VendorTarget extends FuzzTarget {
  leftOver(): unknown
}

function target(vendor: NestedVendor): VendorTarget {
  const memory = createMemory([USER_RAM, HOST_TABLES])
  const model = vendor.hostModel(memory, "hoard")
  const ops = vendor.hostDriver(
    { mmio: model.mmio, memory, pages: new PageAllocator(memory, HOST_TABLES) },
    {},
  )
  const machine = new MachineMemory(memory)
  const user = new UserMemory(machine)
  user.map(USER_VA, USER_RAM.base, USER_RAM.size)
  const process = new Process({
    name: "vmm",
    user: { name: "user", lockedPages: 0 },
    account: new MemoryAccount("vmm", 400),
    memory: user,
    fileLimit: 24,
  })
  const iommufd = openIommufd(process)
  const host = new MemoryAccount("host")
  const viommu = vendor.viommu?.type ?? 77
  const sizes = ops.capabilities.userDataTypes.map(type => ops.domainAllocUserDataLen?.(type) ?? 0)
  let devices = 0
  return {
    iommufd,
    userVa: USER_VA,
    types: [0, 1, 2, 3, PAGING, viommu, 0x8000_0003, 0xdead],
    right: {
      "iommu_hwpt_alloc.flags": [0, 0, 1, 1, 2, 8],
      "iommu_hwpt_alloc.dataType": [0, 0, ...ops.capabilities.userDataTypes],
      "iommu_hwpt_alloc.dataLen": [0, 0, ...sizes],
      "iommu_hwpt_alloc.dataUptr": PAGES,
      "iommu_viommu_alloc.type": [viommu],
      "iommu_viommu_alloc.flags": [0],
      "iommu_hwpt_invalidate.dataType": ops.capabilities.invalidateDataTypes,
      "iommu_hwpt_invalidate.entryLen": vendor.viommu === null ? [24] : [16],
      "iommu_hwpt_invalidate.dataUptr": PAGES,
      "iommu_ioas_map.flags": [4, 6, 6, 7],
      "iommu_ioas_map.length": [0x1000n, 0x2000n],
      "iommu_ioas_map.userVa": PAGES,
      "iommu_ioas_copy.flags": [4, 6, 7],
    },
    bind: (random): BoundDevice => {
      // Numbers come back, as when the same function is given away again.
      const device = iommuDevice({
        id: 8 + (devices++ % 64),
        account: host,
        pasidBits: random.one([0, 8]),
        ats: random.below(2) === 0,
      })
      ops.probeDevice(device)
      return iommufd.bindDevice({ ops, device })
    },
    also: (random, id) => {
      const type = random.one(ops.capabilities.userDataTypes)
      const length = ops.domainAllocUserDataLen?.(type) ?? 0
      const bytes = new Uint8Array(BigUint64Array.from(random.one(WORDS)).buffer).slice(0, length)
      return iommufd.hwptAlloc({ deviceId: id("devId"), parentId: id("ptId"), data: { type, bytes } })
    },
    event: { type: vendor.viommu?.events.type ?? 1, data: new Uint8Array(32) },
    data: random => {
      if (random.below(3) === 0) return random.bytes(32)
      if (random.below(4) === 0) return HWPT_PAGING.encode(pagingParameters({ flags: random.below(16) }))
      return new Uint8Array(BigUint64Array.from(random.one(WORDS)).buffer)
    },
    leftOver: () => [machine.pins.total, process.account.usagePages, process.pinnedPages],
  }
}

describe("iommufd over real drivers", () => {
  for (const [name, vendor] of Object.entries(NESTED_VENDORS)) {
    it(`survives ${ROUNDS * CALLS_A_ROUND} random ioctls on ${name}`, () => {
      Error.stackTraceLimit = 0
      const succeeded = new Map<string, number>()
      for (let round = 0; round < ROUNDS; round++) {
        const world = target(vendor)
        const fuzz = new IoctlFuzz(new Random(round), world)
        for (let call = 0; call < CALLS_A_ROUND; call++) {
          fuzz.ioctl()
          if (call % 4 === 0) fuzz.disturb()
          if (call % 500 === 0) expect(wrongUsers(fuzz.iommufd, fuzz.openFiles), `round ${round}`).toEqual([])
        }
        fuzz.finish()
        expect(world.leftOver(), `round ${round}`).toEqual([0, 0, 0])
        for (const [struct, count] of fuzz.succeeded)
          succeeded.set(struct, (succeeded.get(struct) ?? 0) + count)
      }
      expect(succeeded.get("iommu_hwpt_alloc")).toBeGreaterThan(50)
      expect(succeeded.get("iommu_hwpt_invalidate")).toBeGreaterThan(0)
    })
  }
})
