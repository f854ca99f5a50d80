/** A small seeded generator (xorshift32), so that a failure comes back with its seed and nothing is depended on. */
export class Random {
  #state: number

  constructor(seed: number) {
    this.#state = seed | 1
  }

  /** A whole number from 0 to `below - 1`. */
  below(below: number): number {
    let x = this.#state
    x ^= x << 13
    x ^= x >>> 17
    x ^= x << 5
    this.#state = x
    return (x >>> 0) % below
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)] as T
  }

  flip(): boolean {
    return this.below(2) === 1
  }
}
