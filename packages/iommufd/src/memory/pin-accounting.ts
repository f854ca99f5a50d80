/** Who is charged for pinned pages, and up to which limit: RLIMIT_MEMLOCK. */
import { IommuError } from "@iommu/core"
import type { Process } from "../process/process.ts"

/**
 * - `none`: nobody, for processes with CAP_IPC_LOCK
 * - `user`: all processes of a user share a count
 * - `mm`: each process has its own, as VFIO counts
 */
export type PinMode = "none" | "user" | "mm"

/** How an iommufd counts: option RLIMIT_MODE, or "mm" for one that is opened as a VFIO container. */
export interface PinPolicy {
  mode: "user" | "mm"
}

/** Pages that one process answers for. They can move to another: IOAS_CHANGE_PROCESS. */
export class PinCharge {
  readonly mode: PinMode
  #process: Process
  #pages = 0

  constructor(process: Process, policy: PinPolicy) {
    this.mode = process.capable("CAP_IPC_LOCK") ? "none" : policy.mode
    this.#process = process
  }

  get process(): Process {
    return this.#process
  }

  get pages(): number {
    return this.#pages
  }

  /** @throws ENOMEM beyond RLIMIT_MEMLOCK; nothing is charged then */
  add(pages: number): void {
    charge(this.#process, this.mode, pages)
    this.#pages += pages
  }

  remove(pages: number): void {
    uncharge(this.#process, this.mode, pages)
    this.#pages -= pages
  }

  /** @throws ENOMEM; nothing is changed then */
  moveTo(process: Process): void {
    charge(process, this.mode, this.#pages)
    uncharge(this.#process, this.mode, this.#pages)
    this.#process = process
  }
}

function charge(process: Process, mode: PinMode, pages: number): void {
  const locked = mode === "none" ? null : mode === "user" ? process.user : process
  if (locked !== null) {
    if (locked.lockedPages + pages > process.memlockPages) {
      throw new IommuError(
        "ENOMEM",
        `${pages} more locked pages exceed RLIMIT_MEMLOCK of ${process.name}: ${process.memlockPages} pages, ` +
          `${locked.lockedPages} of them in use`,
      )
    }
    locked.lockedPages += pages
  }
  process.pinnedPages += pages
}

function uncharge(process: Process, mode: PinMode, pages: number): void {
  if (mode === "user") process.user.lockedPages -= pages
  if (mode === "mm") process.lockedPages -= pages
  process.pinnedPages -= pages
}
