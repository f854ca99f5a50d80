/** A program that opens iommufd, as far as the kernel looks at it: `struct task_struct` with its mm and user. */
import { type MemoryAccount, PAGE_SIZE } from "@iommu/core"
import type { UserMemory } from "../memory/user-memory.ts"
import { FileTable } from "./file-table.ts"

/** Capabilities that iommufd asks for. */
export type Capability = "CAP_IPC_LOCK" | "CAP_SYS_RESOURCE" | "CAP_SYS_RAWIO"

/** Linux's `struct user_struct`: pages that all processes of a user keep locked together. */
export interface User {
  readonly name: string
  /** Pages counted by RLIMIT mode "user". */
  lockedPages: number
}

export interface ProcessOptions {
  readonly name: string
  readonly user: User
  /** Pays for kernel memory made on the process's behalf: its memory cgroup. */
  readonly account: MemoryAccount
  readonly memory: UserMemory
  /** RLIMIT_MEMLOCK in bytes; no limit when left out. */
  readonly memlockBytes?: number
  /** RLIMIT_NOFILE; 1024 when left out. */
  readonly fileLimit?: number
  readonly capabilities?: readonly Capability[]
}

export class Process {
  readonly name: string
  readonly user: User
  readonly account: MemoryAccount
  readonly memory: UserMemory
  readonly files: FileTable
  /** RLIMIT_MEMLOCK in pages. */
  readonly memlockPages: number
  /** Pages counted by RLIMIT mode "mm": `mm->locked_vm`. */
  lockedPages = 0
  /** Pages pinned, whatever the mode: `mm->pinned_vm`. */
  pinnedPages = 0
  readonly #capabilities: ReadonlySet<Capability>

  constructor(options: ProcessOptions) {
    this.name = options.name
    this.user = options.user
    this.account = options.account
    this.memory = options.memory
    this.files = new FileTable(options.fileLimit)
    this.memlockPages = Math.floor((options.memlockBytes ?? Number.POSITIVE_INFINITY) / Number(PAGE_SIZE))
    this.#capabilities = new Set(options.capabilities)
  }

  /** Linux's `capable`. */
  capable(capability: Capability): boolean {
    return this.#capabilities.has(capability)
  }
}
