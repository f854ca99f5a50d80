/** A machine for tests: memory whose pins can be counted, and processes with limits of their own. */
import { createMemory, MemoryAccount, type PhysicalMemory } from "@iommu/core"
import { MachineMemory, UserMemory } from "../memory/user-memory.ts"
import { Process, type ProcessOptions, type User } from "../process/process.ts"

export interface TestMachineOptions {
  /** Bytes of memory, whole pages; 16 MiB when left out. */
  readonly ramBytes?: bigint
}

/** All counts that mapping memory moves, and that must come back when it is unmapped. */
export interface PinCounts {
  /** Pins of all pages together. */
  readonly pins: number
  readonly processes: readonly {
    readonly name: string
    /** Bytes of kernel memory charged. */
    readonly kernelBytes: number
    readonly pinnedPages: number
    readonly lockedPages: number
    /** Locked pages of the process's user. */
    readonly userLockedPages: number
  }[]
}

export interface TestMachine {
  readonly physical: PhysicalMemory
  readonly memory: MachineMemory
  /** Where the machine's memory begins. */
  readonly ramBase: bigint
  /** Where {@link process} shows all of it to a process, in one piece. */
  readonly userVa: bigint
  /** A process of a user of its own, unless told otherwise. */
  process(options?: Partial<ProcessOptions>): Process
  counts(): PinCounts
}

const RAM_BASE = 0x1_0000_0000n
const USER_VA = 0x7f00_0000_0000n

export function testMachine({ ramBytes = 0x100_0000n }: TestMachineOptions = {}): TestMachine {
  const physical = createMemory([{ base: RAM_BASE, size: ramBytes }])
  const memory = new MachineMemory(physical)
  const processes: Process[] = []
  return {
    physical,
    memory,
    ramBase: RAM_BASE,
    userVa: USER_VA,
    process: options => {
      const process = newProcess(memory, ramBytes, `process ${processes.length + 1}`, options)
      processes.push(process)
      return process
    },
    counts: () => ({
      pins: memory.pins.total,
      processes: processes.map(({ name, account, pinnedPages, lockedPages, user }) => ({
        name,
        kernelBytes: account.objectBytes,
        pinnedPages,
        lockedPages,
        userLockedPages: user.lockedPages,
      })),
    }),
  }
}

function newProcess(
  machine: MachineMemory,
  ramBytes: bigint,
  name: string,
  options: Partial<ProcessOptions> = {},
): Process {
  const memory = new UserMemory(machine)
  memory.map(USER_VA, RAM_BASE, ramBytes)
  const user: User = { name: `user of ${name}`, lockedPages: 0 }
  return new Process({ name, user, account: new MemoryAccount(name), memory, ...options })
}
