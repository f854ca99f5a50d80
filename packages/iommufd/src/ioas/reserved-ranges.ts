/** IOVAs that no area may use, by owner: reserved regions of devices, and what lies outside a domain's aperture. */
import { type MemoryAccount, U64_MAX } from "@iommu/core"
import type { Interval } from "./interval-tree.ts"

interface Reservation extends Interval {
  readonly owner: object
}

/** Bytes of Linux's `struct iopt_reserved`, an interval node with an owner, rounded to its slab. */
const OBJECT_BYTES = 64

export class ReservedRanges {
  readonly #account: MemoryAccount
  #reservations: readonly Reservation[] = []
  /** Sorted and joined; there are few, and they change seldom. */
  #merged: readonly Interval[] = []

  constructor(account: MemoryAccount) {
    this.#account = account
  }

  /** @throws ENOMEM */
  add(owner: object, start: bigint, last: bigint): void {
    this.#account.chargeBytes(OBJECT_BYTES)
    this.#set([...this.#reservations, { owner, start, last }])
  }

  /** Takes away all of an owner. */
  remove(owner: object): void {
    const kept = this.#reservations.filter(reservation => reservation.owner !== owner)
    this.#account.unchargeBytes((this.#reservations.length - kept.length) * OBJECT_BYTES)
    this.#set(kept)
  }

  clear(): void {
    this.#account.unchargeBytes(this.#reservations.length * OBJECT_BYTES)
    this.#set([])
  }

  overlaps(start: bigint, last: bigint): boolean {
    return this.#merged.some(range => range.start <= last && range.last >= start)
  }

  /** What is not reserved of `[start, last]`, ascending. */
  holes(start: bigint = 0n, last: bigint = U64_MAX): Interval[] {
    const holes: Interval[] = []
    let at = start
    for (const range of this.#merged) {
      if (range.last < at) continue
      if (range.start > last) break
      if (range.start > at) holes.push({ start: at, last: range.start - 1n })
      at = range.last + 1n
    }
    if (at <= last) holes.push({ start: at, last })
    return holes
  }

  #set(reservations: readonly Reservation[]): void {
    this.#reservations = reservations
    const sorted = [...reservations].sort((a, b) => (a.start < b.start ? -1 : a.start > b.start ? 1 : 0))
    const merged: { start: bigint; last: bigint }[] = []
    for (const { start, last } of sorted) {
      const previous = merged.at(-1)
      if (previous === undefined || start > previous.last + 1n) merged.push({ start, last })
      else if (last > previous.last) previous.last = last
    }
    this.#merged = merged
  }
}
