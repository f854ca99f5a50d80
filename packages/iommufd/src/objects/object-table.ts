/**
 * Ids of an iommufd and the objects behind them.
 *
 * An id is reserved first and published when the object is whole, so that nobody ever finds half an object. The id of
 * a virtual device whose device went away becomes a tombstone: it names nothing, and nothing else gets it.
 */
import { IommuError, type MemoryAccount } from "@iommu/core"
import { IdAllocator } from "./id-allocator.ts"
import type { AnyObject, Identity, KernelObject, ObjectKind, ObjectKinds } from "./object.ts"

const LAST_ID = 0x7fff_ffff
/** Kernel memory of an object: Linux's structs come from its slabs of up to 512 bytes. */
const OBJECT_BYTES = 512

/** An object that has an id, but cannot be found by it yet. */
export interface Draft<T> {
  readonly object: T
  /** Makes it known. */
  publish(): T
  /** Takes it back as if it had never been made. */
  abort(): void
}

export class ObjectTable {
  readonly #ids = new IdAllocator(LAST_ID)
  readonly #objects = new Map<number, AnyObject>()
  readonly #reserved = new Set<number>()
  readonly #tombstones = new Set<number>()

  /** True when no id is in use, tombstones included. */
  get isEmpty(): boolean {
    return this.#objects.size + this.#reserved.size + this.#tombstones.size === 0
  }

  /** Published objects, by id. */
  get objects(): readonly AnyObject[] {
    return [...this.#objects.values()].sort((a, b) => a.id - b.id)
  }

  get tombstones(): readonly number[] {
    return [...this.#tombstones].sort((a, b) => a - b)
  }

  /**
   * Makes an object under a reserved id.
   * @param build may throw; id and charge are given back then
   * @throws ENOMEM, ENOSPC
   */
  draft<T extends AnyObject>(account: MemoryAccount, build: (identity: Identity) => T): Draft<T> {
    account.chargeBytes(OBJECT_BYTES)
    let id = 0
    try {
      id = this.#ids.take()
      this.#reserved.add(id)
      const object = build({ id, account })
      return { object, publish: () => this.#publish(object), abort: () => this.#abort(object) }
    } catch (error) {
      if (this.#reserved.delete(id)) this.#ids.give(id)
      account.unchargeBytes(OBJECT_BYTES)
      throw error
    }
  }

  /** @throws ENOENT when the id names nothing */
  find(id: number): AnyObject {
    const object = this.#objects.get(id)
    if (object === undefined) throw new IommuError("ENOENT", `no object has id ${id}`)
    return object
  }

  /** @throws ENOENT when the id names nothing, or another kind of object */
  get<Kind extends ObjectKind>(id: number, kind: Kind): ObjectKinds[Kind] {
    const object = this.find(id)
    if (!isKind(object, kind)) {
      throw new IommuError("ENOENT", `object ${id} is of kind ${object.kind}, not ${kind}`)
    }
    return object
  }

  /** What IOMMU_DESTROY does. @throws ENOENT; EBUSY while something needs the object */
  destroyById(id: number): void {
    const object = this.find(id)
    if (object.kind === "device" || object.kind === "access") {
      throw new IommuError("EBUSY", `object ${id} belongs to the kernel driver that made it`)
    }
    if (object.users > 0) throw new IommuError("EBUSY", `object ${id} (${object.kind}) is in use`)
    this.destroy(object)
  }

  /** Destroys an object without users. */
  destroy(object: AnyObject): void {
    this.#objects.delete(object.id)
    release(object)
    this.#ids.give(object.id)
  }

  /** Destroys an object, and never gives its id to another. */
  bury(object: AnyObject): void {
    this.#objects.delete(object.id)
    release(object)
    this.#tombstones.add(object.id)
  }

  /** Destroys everything, objects that nothing needs first. */
  destroyAll(): void {
    while (this.#objects.size > 0) {
      const leaves = [...this.#objects.values()].filter(object => object.users === 0)
      if (leaves.length === 0) throw new Error("bug: objects of an iommufd need each other in a circle")
      for (const leaf of leaves) this.destroy(leaf)
    }
    for (const id of this.#tombstones) this.#ids.give(id)
    this.#tombstones.clear()
  }

  #publish<T extends AnyObject>(object: T): T {
    this.#reserved.delete(object.id)
    this.#objects.set(object.id, object)
    return object
  }

  #abort(object: AnyObject): void {
    this.#reserved.delete(object.id)
    release(object)
    this.#ids.give(object.id)
  }
}

function isKind<Kind extends ObjectKind>(object: AnyObject, kind: Kind): object is ObjectKinds[Kind] {
  return object.kind === kind
}

function release(object: KernelObject): void {
  object.destroy()
  object.account.unchargeBytes(OBJECT_BYTES)
}
