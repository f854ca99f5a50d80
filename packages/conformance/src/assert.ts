/** Assertions without a test runner: any runner reports a thrown error. */
import { type ErrnoCode, isIommuError } from "@iommu/core"

export function assertEqual<T>(actual: T, expected: T, what: string): void {
  if (!Object.is(actual, expected))
    throw new Error(`${what}: expected ${show(expected)}, got ${show(actual)}`)
}

export function assertTrue(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Error(what)
}

/** The call must throw an error with this errno, and with a sentence that says more than the errno's name. */
export function assertErrno(code: ErrnoCode, what: string, call: () => unknown): void {
  let result: unknown
  try {
    result = call()
  } catch (error) {
    if (!isIommuError(error))
      throw new Error(`${what}: expected ${code}, got ${String(error)}`, { cause: error })
    assertEqual(error.code, code, `${what} (${error.message})`)
    assertTrue(error.message.length > code.length + 12, `${what}: "${error.message}" names no rule`)
    return
  }
  throw new Error(`${what}: expected ${code}, but the call returned ${show(result)}`)
}

/** The call must throw an error with one of these errnos. */
export function assertAnyErrno(codes: readonly ErrnoCode[], what: string, call: () => unknown): void {
  try {
    call()
  } catch (error) {
    if (!isIommuError(error)) throw new Error(`${what}: got ${String(error)}`, { cause: error })
    assertTrue(codes.includes(error.code), `${what}: expected ${codes.join(" or ")}, got ${error.message}`)
    return
  }
  throw new Error(`${what}: expected ${codes.join(" or ")}, but the call returned`)
}

function show(value: unknown): string {
  if (typeof value === "bigint") return `0x${value.toString(16)}`
  return typeof value === "object" && value !== null ? "[object]" : String(value)
}
