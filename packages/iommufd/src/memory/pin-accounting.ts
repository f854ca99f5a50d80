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
    checkLimit(this.#process, this.mode, pages)
    count(this.#process, this.mode, pages)
    this.#pages += pages
  }

  remove(pages: number): void {
    uncount(this.#process, this.mode, pages)
    this.#pages -= pages
  }

  /** Only {@link moveCharges} calls it, after it checked the limit. */
  moveTo(process: Process): void {
    uncount(this.#process, this.mode, this.#pages)
    count(process, this.mode, this.#pages)
    this.#process = process
  }
}

/** Makes a process answer for all of them. @throws ENOMEM beyond its RLIMIT_MEMLOCK; nothing is changed then */
export function moveCharges(charges: Iterable<PinCharge>, process: Process): void {
  const moving = { none: 0, user: 0, mm: 0 }
  for (const charge of charges) {
    const stays = charge.mode === "user" ? charge.process.user === process.user : charge.process === process
    if (!stays) moving[charge.mode] += charge.pages
  }
  checkLimit(process, "user", moving.user)
  checkLimit(process, "mm", moving.mm)
  for (const charge of charges) charge.moveTo(process)
}

/** @throws ENOMEM */
function checkLimit(process: Process, mode: PinMode, pages: number): void {
  if (mode === "none") return
  const { lockedPages } = mode === "user" ? process.user : process
  if (pages > 0 && lockedPages + pages > process.memlockPages) {
    throw new IommuError(
      "ENOMEM",
      `${pages} more locked pages exceed RLIMIT_MEMLOCK of ${process.name}: ${process.memlockPages} pages, ` +
        `${lockedPages} of them in use`,
    )
  }
}

function count(process: Process, mode: PinMode, pages: number): void {
  if (mode === "user") process.user.lockedPages += pages
  if (mode === "mm") process.lockedPages += pages
  process.pinnedPages += pages
}

function uncount(process: Process, mode: PinMode, pages: number): void {
  count(process, mode, -pages)
}
