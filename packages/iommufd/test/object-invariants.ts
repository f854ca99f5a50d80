/** What must hold of an iommufd at any time, derived anew from what objects say of each other. */
import type { Iommufd } from "@iommu/iommufd"

interface Entry {
  readonly id: number
  readonly kind: string
  readonly users: number
  readonly state: Readonly<Record<string, unknown>>
}

/**
 * @param openFiles ids of queues whose file is open, once per open file
 * @param mappings ids of objects with live mappings, once per mapping
 * @returns what is wrong, in sentences
 */
export function wrongUsers(
  iommufd: Iommufd,
  openFiles: readonly number[],
  mappings: readonly number[] = [],
): string[] {
  const objects = iommufd.state().objects as readonly Entry[]
  const users = new Map<number, number>(objects.map(({ id }) => [id, 0]))
  const wrong: string[] = []
  const use = (id: unknown): void => {
    if (id === null || id === undefined) return
    const count = users.get(id as number)
    if (count === undefined) wrong.push(`object ${String(id)} is used, but does not exist`)
    else users.set(id as number, count + 1)
  }
  for (const { kind, state, id } of objects) {
    if (kind === "device" || kind === "access") use(id)
    if (kind === "hwpt-paging" || kind === "access") use(state["ioas"])
    if (kind === "hwpt-nested" || kind === "viommu") use(state["parent"])
    if (kind === "hwpt-paging" || kind === "hwpt-nested") use(state["fault"])
    if (kind === "vdevice" || kind === "veventq" || kind === "hw-queue") use(state["viommu"])
    if (kind === "hw-queue") use(state["previous"])
    if (kind === "device") for (const { hwpt } of state["attached"] as { hwpt: number }[]) use(hwpt)
  }
  for (const id of [...openFiles, ...mappings]) use(id)
  for (const { id, kind, users: counted } of objects) {
    if (counted !== users.get(id))
      wrong.push(`${kind} ${id} counts ${counted} users and has ${users.get(id)}`)
  }
  return wrong
}
