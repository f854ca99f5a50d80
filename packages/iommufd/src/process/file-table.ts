/** The file descriptors of a process: Linux's `struct files_struct`. */
import { IommuError } from "@iommu/core"

/** What a descriptor stands for: memfd, dma-buf, iommufd, fault queue, event queue. */
export interface UserFile {
  /** For people and for error texts. */
  readonly kind: string
  /** Called when the last descriptor of it is closed. */
  close?(): void
}

/** Linux's default RLIMIT_NOFILE. */
const DEFAULT_LIMIT = 1024

/** Descriptors of each open file, in all processes together. */
const references = new WeakMap<UserFile, number>()

export class FileTable {
  readonly limit: number
  readonly #files: (UserFile | undefined)[] = []

  /** @param limit RLIMIT_NOFILE: descriptors are smaller than this */
  constructor(limit: number = DEFAULT_LIMIT) {
    this.limit = limit
  }

  /** Descriptors in use, ascending. */
  get descriptors(): number[] {
    return [...this.#files.keys()].filter(fd => this.#files[fd] !== undefined)
  }

  /**
   * Gives a file the lowest free descriptor.
   * @throws EMFILE when all are in use
   */
  install(file: UserFile): number {
    const free = this.#files.indexOf(undefined)
    const fd = free < 0 ? this.#files.length : free
    if (fd >= this.limit) throw new IommuError("EMFILE", `all ${this.limit} file descriptors are in use`)
    this.#files[fd] = file
    references.set(file, (references.get(file) ?? 0) + 1)
    return fd
  }

  /** @throws EBADF */
  get(fd: number): UserFile {
    const file = this.#files[fd]
    if (file === undefined) throw new IommuError("EBADF", `no file is open at descriptor ${fd}`)
    return file
  }

  /** @throws EBADF */
  close(fd: number): void {
    const file = this.get(fd)
    this.#files[fd] = undefined
    const left = (references.get(file) as number) - 1
    references.set(file, left)
    if (left === 0) file.close?.()
  }
}
