/** Software of the kernel that uses an address space instead of a device: Linux's `struct iommufd_access`. */
import { IommuError, PAGE_SIZE } from "@iommu/core"
import type { IoasAccess, IovaPin } from "../ioas/access.ts"
import type { Ioas } from "../ioas/ioas.ts"
import type { IoasObject } from "./ioas-object.ts"
import type { IommufdContext } from "./iommufd-context.ts"
import { type Identity, KernelObject, type ObjectState } from "./object.ts"

export interface AccessUser {
  /** Whether it pins pages, or only copies bytes. */
  readonly uses: "pins" | "copies"
  /** Must release all pins that touch the range. */
  onUnmap?(iova: bigint, length: bigint): void
}

export class AccessObject extends KernelObject implements IoasAccess {
  readonly kind = "access"
  readonly alignment: bigint
  readonly #context: IommufdContext
  readonly #user: AccessUser
  #ioas: IoasObject | null = null

  constructor(identity: Identity, context: IommufdContext, user: AccessUser) {
    super(identity)
    this.#context = context
    this.#user = user
    this.alignment = user.uses === "pins" ? BigInt(PAGE_SIZE) : 1n
    context.hold()
    // Only its owner lets it go.
    this.users = 1
  }

  onUnmap(iova: bigint, length: bigint): void {
    this.#user.onUnmap?.(iova, length)
  }

  /** @throws ENOENT; EINVAL when it is attached already; EADDRINUSE when areas do not keep its alignment */
  attach(ioasId: number): void {
    if (this.#ioas !== null)
      throw new IommuError("EINVAL", "the access is attached already; replace it instead")
    this.#change(this.#context.objects.get(ioasId, "ioas"))
  }

  /** @throws ENOENT for an id, or when it is not attached */
  replace(ioasId: number): void {
    if (this.#ioas === null) throw new IommuError("ENOENT", "the access is not attached")
    this.#change(this.#context.objects.get(ioasId, "ioas"))
  }

  /** Its user must let go of all pins. */
  detach(): void {
    this.#change(null)
  }

  /** @throws ENOENT when it is detached, and for holes; EINVAL, EOVERFLOW, EPERM, EFAULT, ENOMEM */
  pin(iova: bigint, length: bigint, use: "read" | "write"): IovaPin {
    return this.#attached().pin(iova, length, use)
  }

  read(iova: bigint, length: number): Uint8Array {
    return this.#attached().read(iova, length)
  }

  write(iova: bigint, bytes: Uint8Array): void {
    this.#attached().write(iova, bytes)
  }

  /** The owner's end of it. */
  close(): void {
    this.#change(null)
    this.users = 0
    this.#context.objects.destroy(this)
    this.#context.drop()
  }

  destroy(): void {
    this.#change(null)
  }

  state(): ObjectState {
    return { ioas: this.#ioas?.id ?? null, uses: this.#user.uses }
  }

  #attached(): Ioas {
    if (this.#ioas === null) throw new IommuError("ENOENT", "the access is not attached")
    return this.#ioas.ioas
  }

  #change(ioas: IoasObject | null): void {
    const old = this.#ioas
    if (old === ioas) return
    ioas?.ioas.addAccess(this)
    if (ioas !== null) ioas.users++
    this.#ioas = ioas
    if (old === null) return
    this.onUnmap(0n, (1n << 64n) - 1n)
    old.ioas.removeAccess(this)
    old.users--
  }
}
