/** What an iommufd holds, as JSON, and what its devices' drivers take: for a VMM's debugging, and for planning ahead. */
import { type IommuOps, userDataLayout } from "@iommu/core"
import type { IommufdContext } from "./iommufd-context.ts"
import type { ObjectKind, ObjectState } from "./object.ts"

export interface ObjectEntry {
  readonly id: number
  readonly kind: ObjectKind
  /** What keeps it from being destroyed. */
  readonly users: number
  readonly state: ObjectState
}

export interface ContextState {
  readonly process: string
  readonly pinMode: "user" | "mm"
  readonly vfioIoas: number | null
  /** By id. */
  readonly objects: readonly ObjectEntry[]
  /** Ids that are never used again. */
  readonly tombstones: readonly number[]
}

export function contextState({ objects, process, pinPolicy, vfioIoas }: IommufdContext): ContextState {
  return {
    process: process.name,
    pinMode: pinPolicy.mode,
    vfioIoas: vfioIoas?.id ?? null,
    objects: objects.objects.map(object => ({
      id: object.id,
      kind: object.kind,
      users: object.users,
      state: object.state(),
    })),
    tombstones: objects.tombstones,
  }
}

/** One type of user data that HWPT_ALLOC takes for a device. */
export interface ServedUserData {
  readonly type: number
  readonly describes: "paging" | "nested" | "either"
  readonly bytes: number
  /** Fewest bytes that may be passed. */
  readonly minBytes: number
}

/** The seed's length op as a query: nothing has to be allocated to learn what is served. */
export function servedUserData(ops: IommuOps): ServedUserData[] {
  if (ops.domainAllocUser === undefined) return []
  return ops.capabilities.userDataTypes.map(type => {
    const { describes, size, minSize } = userDataLayout(ops, type)
    return { type, describes, bytes: size, minBytes: minSize }
  })
}
