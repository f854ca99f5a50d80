/** Failing the nth allocation, whichever it is: Linux's `fail-nth`. */
import { IommuError, MemoryAccount } from "@iommu/core"

/** A point at which allocations can be told to fail. */
export class FaultInjector {
  #countdown = 0

  /** Lets the nth allocation from now on fail, once. */
  arm(nth: number): void {
    this.#countdown = nth
  }

  /** @returns true when the failure that was armed has not happened */
  disarm(): boolean {
    const wasPending = this.#countdown > 0
    this.#countdown = 0
    return wasPending
  }

  /** An allocation. @throws ENOMEM when it is the one that fails */
  point(what: string): void {
    if (this.#countdown === 0) return
    this.#countdown--
    if (this.#countdown === 0) throw new IommuError("ENOMEM", `${what} was told to fail`)
  }
}

/** An account whose charges can be told to fail. Everything that allocates charges an account first. */
export class FailingAccount extends MemoryAccount {
  readonly #injector: FaultInjector

  constructor(name: string, injector: FaultInjector, limitPages: number = Number.POSITIVE_INFINITY) {
    super(name, limitPages)
    this.#injector = injector
  }

  override charge(pages: number): void {
    this.#injector.point(`a charge of ${pages} pages`)
    super.charge(pages)
  }

  override chargeBytes(bytes: number): void {
    if (bytes > 0) this.#injector.point(`a charge of ${bytes} bytes`)
    super.chargeBytes(bytes)
  }
}

/** One run of {@link failEach}. */
export interface FailedRun<State> {
  /** Which allocation failed. */
  readonly nth: number
  readonly error: IommuError
  readonly before: State
  readonly after: State
}

/**
 * Runs an operation again and again, each time with the next allocation failing, until none is left that could.
 * @param operation succeeds when nothing fails
 * @param observe all that a failed operation must leave alone
 * @returns what was seen of each failure
 */
export function failEach<State>(
  injector: FaultInjector,
  operation: () => void,
  observe: () => State,
): FailedRun<State>[] {
  const runs: FailedRun<State>[] = []
  for (let nth = 1; ; nth++) {
    const before = observe()
    injector.arm(nth)
    try {
      operation()
      if (injector.disarm()) return runs
      throw new Error(`bug: allocation ${nth} failed, and the operation did not notice`)
    } catch (error) {
      injector.disarm()
      if (!(error instanceof IommuError)) throw error
      runs.push({ nth, error, before, after: observe() })
    }
  }
}
