/**
 * Objects of an iommufd over mock devices, in the simplest form that can be right: a list of records, and every rule
 * looked up in it anew. Written from the rules alone; nothing is shared with what is tested.
 */

export type Answer = number | "done" | string

interface Device {
  readonly index: number
  id: number
  readonly group: number
  readonly hasPasids: boolean
  readonly noDirty: boolean
}

interface Item {
  readonly id: number
  readonly kind: string
  /** Ids of objects that it needs. */
  readonly needs: readonly number[]
  readonly auto?: boolean
  readonly nestParent?: boolean
  readonly pasid?: boolean
  readonly dirty?: boolean
  /** vIOMMU of a nested page table, of a virtual device or of an event queue. */
  readonly viommu?: number
  readonly virtualId?: number
  readonly device?: number
  readonly type?: number
  hasOpenFile?: boolean
}

interface Attachment {
  readonly group: number
  /** 0 for requests without. */
  readonly pasid: number
  hwpt: number
  /** Indexes of devices. */
  readonly devices: number[]
}

class Refused extends Error {}

function refuse(code: string): never {
  throw new Refused(code)
}

const [NEST_PARENT, DIRTY, PASID] = [1, 2, 8]

export class NaiveObjects {
  /** In the order of their making. */
  items: Item[] = []
  tombstones: number[] = []
  attachments: Attachment[] = []
  readonly devices: Device[] = []

  bind(index: number, group: number, hasPasids: boolean, noDirty: boolean): void {
    this.devices[index] = {
      index,
      id: this.#add({ kind: "device", needs: [] }).id,
      group,
      hasPasids,
      noDirty,
    }
  }

  /** Runs a call, and gives its result or the errno's name. */
  answer(call: () => Answer): Answer {
    try {
      return call()
    } catch (error) {
      if (error instanceof Refused) return error.message
      throw error
    }
  }

  /** `id kind users` of each object, by id. */
  get listing(): string[] {
    const byId = [...this.items].sort((a, b) => a.id - b.id)
    return byId.map(({ id, kind }) => `${id} ${kind} ${this.#users(id)}`)
  }

  /** An id, most often of an object of one of the kinds. */
  pick(kinds: readonly string[], choice: number): number {
    const right = this.items.filter(({ kind }) => kinds.includes(kind))
    const pool = choice % 6 === 0 || right.length === 0 ? [...this.items, { id: 99 }] : right
    return pool[Math.floor(choice / 6) % pool.length]?.id ?? 0
  }

  ioasAlloc(): number {
    return this.#add({ kind: "ioas", needs: [] }).id
  }

  faultAlloc(): number {
    return this.#add({ kind: "fault", needs: [], hasOpenFile: true }).id
  }

  hwptAlloc(
    device: number,
    parentId: number,
    flags: number,
    hasData: boolean,
    faultId: number | null,
  ): number {
    const parent = this.#find(parentId) ?? refuse("EINVAL")
    const made = this.#hwpt(this.#device(device), parent, flags, hasData, faultId !== null)
    if (faultId === null) return this.#add(made).id
    if (this.#find(faultId)?.kind !== "fault") refuse("ENOENT")
    return this.#add({ ...made, needs: [...made.needs, faultId] }).id
  }

  #hwpt(device: Device, parent: Item, flags: number, hasData: boolean, hasFault: boolean): Omit<Item, "id"> {
    const has = (flag: number): boolean => (flags & flag) !== 0
    if (parent.kind === "ioas") {
      if (has(DIRTY) && device.noDirty) refuse("EOPNOTSUPP")
      if (hasFault && has(NEST_PARENT)) refuse("EOPNOTSUPP")
      const properties = { nestParent: has(NEST_PARENT), pasid: has(PASID), dirty: has(DIRTY), auto: false }
      return { kind: "hwpt-paging", needs: [parent.id], ...properties }
    }
    if (parent.kind !== "hwpt-paging" && parent.kind !== "viommu") refuse("EINVAL")
    if ((flags & ~PASID) !== 0 || !hasData) refuse("EOPNOTSUPP")
    if (parent.kind === "hwpt-paging" && (parent.auto || !parent.nestParent)) refuse("EINVAL")
    const viommu = parent.kind === "viommu" ? { viommu: parent.id } : {}
    return { kind: "hwpt-nested", needs: [parent.id], pasid: has(PASID), ...viommu }
  }

  viommuAlloc(hwptId: number): number {
    const parent = this.#find(hwptId)
    if (parent?.kind !== "hwpt-paging") refuse("ENOENT")
    if (!parent.nestParent) refuse("EINVAL")
    return this.#add({ kind: "viommu", needs: [hwptId] }).id
  }

  vdeviceAlloc(viommuId: number, device: number, virtualId: number): number {
    if (this.#find(viommuId)?.kind !== "viommu") refuse("ENOENT")
    const vdevices = this.items.filter(({ kind }) => kind === "vdevice")
    if (vdevices.some(item => item.device === device)) refuse("EEXIST")
    if (vdevices.some(item => item.viommu === viommuId && item.virtualId === virtualId)) refuse("EEXIST")
    return this.#add({ kind: "vdevice", needs: [viommuId], viommu: viommuId, device, virtualId }).id
  }

  veventqAlloc(viommuId: number, type: number): number {
    if (this.#find(viommuId)?.kind !== "viommu") refuse("ENOENT")
    const has = this.items.some(
      item => item.kind === "veventq" && item.viommu === viommuId && item.type === type,
    )
    if (has) refuse("EEXIST")
    return this.#add({ kind: "veventq", needs: [viommuId], viommu: viommuId, type, hasOpenFile: true }).id
  }

  /** @returns false when the id is none of a queue with an open file */
  closeFile(id: number): boolean {
    const item = this.#find(id)
    if (!item?.hasOpenFile) return false
    item.hasOpenFile = false
    return true
  }

  destroy(id: number): Answer {
    const item = this.#find(id) ?? refuse("ENOENT")
    if (item.kind === "device" || this.#users(id) > 0) refuse("EBUSY")
    this.#remove(id)
    return "done"
  }

  /** @param pasid 0 for requests without */
  attach(index: number, pasid: number, id: number): Answer {
    return this.#change(id, hwpt => this.#attachTo(index, pasid, hwpt))
  }

  replace(index: number, pasid: number, id: number): Answer {
    return this.#change(id, hwpt => this.#replaceBy(index, pasid, hwpt))
  }

  detach(index: number, pasid: number): Answer {
    const attachment = this.#attachment(this.#device(index).group, pasid)
    if (!attachment?.devices.includes(index)) return "done"
    attachment.devices.splice(attachment.devices.indexOf(index), 1)
    this.attachments = this.attachments.filter(({ devices }) => devices.length > 0)
    this.#dropIfUnused(attachment.hwpt)
    return "done"
  }

  /** Unbinds, and binds again. @returns the new id */
  rebind(index: number): Answer {
    const device = this.#device(index)
    if (this.attachments.some(({ devices }) => devices.includes(index))) refuse("EBUSY")
    const vdevice = this.items.find(item => item.kind === "vdevice" && item.device === index)
    if (vdevice !== undefined) {
      this.#remove(vdevice.id)
      this.tombstones.push(vdevice.id)
    }
    this.#remove(device.id)
    device.id = this.#add({ kind: "device", needs: [] }).id
    return device.id
  }

  #change(id: number, put: (hwpt: Item) => void): Answer {
    const target = this.#find(id) ?? refuse("ENOENT")
    if (target.kind === "hwpt-paging" || target.kind === "hwpt-nested") {
      put(target)
      return id
    }
    if (target.kind !== "ioas") refuse("EINVAL")
    const autos = this.items.filter(({ auto, needs }) => auto === true && needs.includes(id))
    for (const auto of autos) {
      const answer = this.answer(() => {
        put(auto)
        return auto.id
      })
      if (answer !== "EINVAL") return typeof answer === "string" ? refuse(answer) : answer
    }
    const made = this.#add({ kind: "hwpt-paging", needs: [id], auto: true })
    const answer = this.answer(() => {
      put(made)
      return made.id
    })
    if (typeof answer !== "string") return answer
    this.#remove(made.id)
    return refuse(answer)
  }

  #attachTo(index: number, pasid: number, hwpt: Item): void {
    const { group } = this.#device(index)
    const current = this.#attachment(group, pasid)
    if (current?.devices.includes(index)) refuse("EBUSY")
    if (current !== undefined && current.hwpt !== hwpt.id) refuse("EINVAL")
    if (current !== undefined) {
      current.devices.push(index)
      return
    }
    this.#check(group, pasid, hwpt)
    this.attachments.push({ group, pasid, hwpt: hwpt.id, devices: [index] })
  }

  #replaceBy(index: number, pasid: number, hwpt: Item): void {
    const { group } = this.#device(index)
    const current = this.#attachment(group, pasid)
    if (!current?.devices.includes(index)) refuse("EINVAL")
    const old = current.hwpt
    if (old === hwpt.id) return
    this.#check(group, pasid, hwpt)
    current.hwpt = hwpt.id
    this.#dropIfUnused(old)
  }

  #check(group: number, pasid: number, hwpt: Item): void {
    if (pasid === 0) {
      const hasPasids = this.attachments.some(other => other.group === group && other.pasid !== 0)
      if (hasPasids && !hwpt.pasid) refuse("EINVAL")
    } else {
      const rid = this.#attachment(group, 0)
      if (!hwpt.pasid || (rid !== undefined && !this.#find(rid.hwpt)?.pasid)) refuse("EINVAL")
    }
    for (const device of this.devices.filter(({ group: other }) => other === group)) {
      if (pasid !== 0 && !device.hasPasids) continue
      if (hwpt.dirty && device.noDirty) refuse("EINVAL")
      const isKnown = this.items.some(
        item => item.kind === "vdevice" && item.device === device.index && item.viommu === hwpt.viommu,
      )
      if (hwpt.viommu !== undefined && !isKnown) refuse("ENOENT")
    }
  }

  #attachment(group: number, pasid: number): Attachment | undefined {
    return this.attachments.find(other => other.group === group && other.pasid === pasid)
  }

  #dropIfUnused(id: number): void {
    if (this.#find(id)?.auto === true && this.#users(id) === 0) this.#remove(id)
  }

  #device(index: number): Device {
    return this.devices[index] as Device
  }

  #find(id: number): Item | undefined {
    return this.items.find(item => item.id === id)
  }

  #remove(id: number): void {
    this.items = this.items.filter(item => item.id !== id)
  }

  /** Under the lowest id that is free. */
  #add(made: Omit<Item, "id">): Item {
    let id = 1
    while (this.#find(id) !== undefined || this.tombstones.includes(id)) id++
    const item = { id, ...made }
    this.items.push(item)
    return item
  }

  #users(id: number): number {
    const item = this.#find(id)
    const needing = this.items.reduce((sum, { needs }) => sum + needs.filter(need => need === id).length, 0)
    const attached = this.attachments.reduce(
      (sum, { hwpt, devices }) => sum + (hwpt === id ? devices.length : 0),
      0,
    )
    return needing + attached + (item?.hasOpenFile ? 1 : 0) + (item?.kind === "device" ? 1 : 0)
  }
}
