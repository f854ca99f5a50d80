/** Cases for tests of the ledger: a world, memory, accesses, and what the two sides made of one of them. */
import { ACCESS_READ, ACCESS_WRITE, type Fault } from "@iommu/core"
import { PLACES } from "../../src/diff/places.ts"
import type { Access, Script } from "../../src/diff/script.ts"
import type { World } from "../../src/diff/vendor-diff.ts"
import type { QemuTarget } from "../../src/index.ts"
import type { Dispute, Setting } from "../../src/ledger/entry.ts"

export function worldOf(target: QemuTarget, release: string, more: Partial<World> = {}): World {
  return {
    release,
    variant: "",
    profile: "",
    places: PLACES[target],
    deviceIds: [0x20, 0x28],
    identity: {},
    ...more,
  }
}

export function settingOf(
  world: World,
  memory: ReadonlyMap<number, bigint> = new Map(),
  accesses: readonly Access[] = [],
): Setting {
  const script: Script = {
    memory,
    zeroed: [],
    bypass: [],
    rounds: [{ stores: new Map(), writes: [], accesses, reads: [], areas: [], acknowledge: [] }],
  }
  return { world, script }
}

export function faultOf(reason: string, more: Partial<Fault> = {}): Fault {
  return {
    reason,
    code: 0,
    device: 0x20,
    pasid: null,
    address: 0x1000n,
    access: ACCESS_READ,
    stage: 0,
    record: null,
    detail: "",
    ...more,
  }
}

/** What became of an access of device 20h; by default both refuse, the model with a record and QEMU without. */
export function disputeOf(fault: Fault | null, more: Partial<Dispute> = {}): Dispute {
  const theirRecord = more.theirRecord ?? null
  return {
    write: fault?.access === ACCESS_WRITE,
    fault,
    ourRecord: fault === null ? null : [1n, 2n, 3n, 4n],
    theirRecord,
    theirRecords: theirRecord === null ? [] : [theirRecord],
    theirCode: null,
    theyRefused: true,
    ...more,
  }
}

export function wordsAt(address: number, words: readonly bigint[]): [number, bigint][] {
  return words.map((word, index) => [address + index * 8, word])
}
