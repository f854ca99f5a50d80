/** A machine with two users' processes, whose counts the tests look at. */
import { createMemory, MemoryAccount } from "@iommu/core"
import {
  Ioas,
  MachineMemory,
  type PinPolicy,
  Process,
  type ProcessOptions,
  type User,
  UserMemory,
} from "@iommu/iommufd"
import { expect } from "vitest"

export const PAGE = 4096n
/** Physical memory of the machine: 16 MiB. */
export const RAM = { base: 0x1_0000_0000n, size: 0x100_0000n }
/** Where {@link Workbench.process} shows it, in one piece. */
export const USER_VA = 0x7f00_0000_0000n

export interface Workbench {
  readonly machine: MachineMemory
  readonly account: MemoryAccount
  readonly user: User
  readonly process: Process
  readonly policy: PinPolicy
  ioas(): Ioas
  /** Another process of the same machine. */
  another(options?: Partial<ProcessOptions>): Process
  /** All that a failed or undone call must leave alone. */
  counts(): Record<string, number>
}

export function workbench(
  options: Partial<ProcessOptions> = {},
  account: MemoryAccount = new MemoryAccount("owner"),
): Workbench {
  const machine = new MachineMemory(createMemory([RAM]))
  const user: User = { name: "user", lockedPages: 0 }
  const policy: PinPolicy = { mode: "user" }
  const another = (more: Partial<ProcessOptions> = {}): Process => {
    const memory = new UserMemory(machine)
    memory.map(USER_VA, RAM.base, RAM.size)
    return new Process({ name: "process", user, account, memory, ...more })
  }
  const process = another(options)
  return {
    machine,
    account,
    user,
    process,
    policy,
    another,
    ioas: () => new Ioas({ account, pinPolicy: policy }),
    counts: () => ({
      pins: machine.pins.total,
      bytes: account.objectBytes,
      pinned: process.pinnedPages,
      locked: process.lockedPages,
      userLocked: user.lockedPages,
    }),
  }
}

/** A read-write mapping request for memory in the middle of {@link RAM}. */
export function request(
  iova: bigint | null,
  length: bigint,
  userVa: bigint = USER_VA,
): {
  readonly userVa: bigint
  readonly length: bigint
  readonly iova: bigint | null
  readonly readable: boolean
  readonly writeable: boolean
} {
  return { userVa, length, iova, readable: true, writeable: true }
}

/** The call throws this errno, with a sentence, and leaves all counts as they were. */
export function expectRefused(bench: Workbench, code: string, call: () => unknown): void {
  const before = bench.counts()
  expect(call).toThrow(new RegExp(`^${code}: .{8}`))
  expect(bench.counts()).toEqual(before)
}
