/**
 * A million ioctls of random bytes: mostly structs with plausible members, some of pure noise. Nothing but an errno
 * may come out; references, pins and charges must be right after each batch, and nothing is left at the end of a round.
 */
import { iommuDevice, MemoryAccount } from "@iommu/core"
import { type BoundDevice, MemFile, openIommufd } from "@iommu/iommufd"
import {
  HW_QUEUE_TYPE_SELFTEST,
  HWPT_DATA_SELFTEST,
  INVALIDATE_DATA_SELFTEST,
  mockDevice,
  mockIommu,
  testMachine,
  VEVENTQ_TYPE_SELFTEST,
  VIOMMU_TYPE_SELFTEST,
} from "@iommu/iommufd/testing"
import { describe, expect, it } from "vitest"
import { type FuzzTarget, IoctlFuzz } from "./fuzz/ioctl-fuzz.ts"
import { Random } from "./fuzz/random.ts"
import { STRUCTS } from "./fuzz/structs.ts"
import { wrongUsers } from "./object-invariants.ts"

const CALLS = 1_000_000
const CALLS_A_ROUND = 10_000
const CALLS_A_BATCH = 500

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
  "iommu_ioas_noiommu_get_pa.length": [1n, 0x1000n],
  "iommu_option.op": [0, 1],
  "iommu_option.optionId": [0, 1],
}

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

interface MockTarget extends FuzzTarget {
  /** What is left when everything is closed. */
  leftOver(): unknown
}

function mockTarget(): MockTarget {
  const machine = testMachine({ ramBytes: 0x1_0000n })
  const process = machine.process({
    account: new MemoryAccount("owner", 30),
    memlockBytes: 0xc000,
    fileLimit: 24,
    capabilities: ["CAP_SYS_RAWIO", "CAP_SYS_RESOURCE"],
  })
  const iommufd = openIommufd(process)
  process.files.install(new MemFile([{ address: machine.ramBase, length: 0x8000n }]))
  const mocks = [
    mockIommu({ reservedRegions: [{ type: "reserved", start: 0x180_0000n, last: 0x180_0fffn }] }),
    mockIommu({ enforcesCoherency: true }),
  ]
  const host = new MemoryAccount("host")
  let devices = 0
  const bind = (random: Random): BoundDevice => {
    const id = ++devices
    if (random.below(3) === 0) return iommufd.bindNoIommuDevice(iommuDevice({ id, account: host }))
    const ops = random.one(mocks)
    const device = mockDevice({ id, pasid: random.below(2) === 0, account: host })
    ops.probeDevice(device)
    return iommufd.bindDevice({ ops, device })
  }
  return {
    iommufd,
    userVa: machine.userVa,
    types: TYPES,
    right: RIGHT,
    bind,
    raise: ({ device, ops }, request) =>
      void mocks.find(mock => mock === ops)?.raisePageRequests(device, [request]),
    event: { type: VEVENTQ_TYPE_SELFTEST, data: Uint8Array.of(1) },
    data: random => (random.below(3) === 0 ? random.bytes(32) : new Uint8Array(32).fill(random.below(5))),
    leftOver: () => [machine.counts(), process.account.usagePages, host.usagePages],
  }
}

const NOTHING = { kernelBytes: 0, pinnedPages: 0, lockedPages: 0, userLockedPages: 0 }

describe("byte fuzz", () => {
  it(`survives ${CALLS} ioctls with nothing but errnos`, () => {
    const answers = new Map<string, number>()
    const succeeded = new Map<string, number>()
    // Nobody looks at the stacks of a million errors.
    Error.stackTraceLimit = 0
    for (let round = 0; round < CALLS / CALLS_A_ROUND; round++) {
      const target = mockTarget()
      const fuzz = new IoctlFuzz(new Random(round), target)
      for (let call = 0; call < CALLS_A_ROUND; call++) {
        fuzz.ioctl()
        if (call % 4 === 0) fuzz.disturb()
        if (call % CALLS_A_BATCH === 0) {
          expect(wrongUsers(fuzz.iommufd, fuzz.openFiles), `round ${round}`).toEqual([])
        }
      }
      add(answers, fuzz.answers)
      add(succeeded, fuzz.succeeded)
      fuzz.finish()
      expect(target.leftOver(), `round ${round}`).toEqual([
        { pins: 0, processes: [{ name: "process 1", ...NOTHING }] },
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
