/** What the reference is made of: each vendor's rooms of `spec/`, as its package's door shows them. */
import * as amd from "../../../packages/amd/src/index.ts"
import * as smmuv3 from "../../../packages/smmuv3/src/index.ts"
import * as vtd from "../../../packages/vtd/src/index.ts"

/** A module of `spec/` as an object: layouts, masks, tables of numbers. */
export type Room = Readonly<Record<string, unknown>>

export interface Book {
  /** File name without its ending, also of the page that links to the reference. */
  readonly name: string
  readonly title: string
  readonly rooms: readonly (readonly [heading: string, room: Room])[]
}

interface Door {
  readonly registers: Room
  readonly deviceTable: Room
  readonly pasidTable: Room
  readonly pageTables: Room
  readonly commands: Room
  readonly events: Room
}

function book(name: string, title: string, door: Door): Book {
  return {
    name,
    title,
    rooms: [
      ["Registers", door.registers],
      ["Device structures", door.deviceTable],
      ["PASID structures", door.pasidTable],
      ["Page table entries", door.pageTables],
      ["Commands", door.commands],
      ["Faults and events", door.events],
    ],
  }
}

export const BOOKS: readonly Book[] = [
  book("vtd", "VT-d", vtd),
  book("smmuv3", "SMMUv3", smmuv3),
  book("amd", "AMD-Vi", amd),
]
