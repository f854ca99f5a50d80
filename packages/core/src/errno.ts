/**
 * Linux errno names and numbers (asm-generic/errno-base.h and errno.h), the vocabulary in which every
 * wrong call of this project is answered.
 */
export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  EIO: 5,
  ENXIO: 6,
  E2BIG: 7,
  EBADF: 9,
  ENOMEM: 12,
  EFAULT: 14,
  EBUSY: 16,
  EEXIST: 17,
  ENODEV: 19,
  EINVAL: 22,
  EMFILE: 24,
  ENOTTY: 25,
  ENOSPC: 28,
  ESPIPE: 29,
  ERANGE: 34,
  EDEADLOCK: 35,
  EOVERFLOW: 75,
  EBADFD: 77,
  EMSGSIZE: 90,
  EOPNOTSUPP: 95,
  EADDRINUSE: 98,
  ETIMEDOUT: 110,
} as const

export type ErrnoCode = keyof typeof ERRNO

/**
 * A call that software should not have made. State is as it was before the call.
 *
 * The class carries no identity that a second copy of this package would break: test `code`, not `instanceof`.
 */
export class IommuError extends Error {
  /** Linux's name for it, `"EOPNOTSUPP"`. */
  readonly code: ErrnoCode
  /** Linux's number for it, positive: 95. */
  readonly errno: number

  /** @param rule one sentence that names the rule which the call broke */
  constructor(code: ErrnoCode, rule: string) {
    super(`${code}: ${rule}`)
    this.name = "IommuError"
    this.code = code
    this.errno = ERRNO[code]
  }
}

const CODES: ReadonlyMap<number, ErrnoCode> = new Map(
  (Object.keys(ERRNO) as ErrnoCode[]).map(code => [ERRNO[code], code]),
)

/** The error of a call that answered with a number: {@link DomainDataPath.mapPages}. @param errno one of {@link ERRNO} */
export function errnoError(errno: number, rule: string): IommuError {
  const code = CODES.get(errno)
  if (code === undefined) throw new Error(`bug: ${errno} is no errno`)
  return new IommuError(code, rule)
}

/** True for an {@link IommuError} of any copy of this package. */
export function isIommuError(value: unknown): value is IommuError {
  return value instanceof Error && value.name === "IommuError" && "code" in value && "errno" in value
}
