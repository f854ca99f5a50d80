/** Flattened device trees, read and written. Devicetree Specification v0.4, chapter 5. */

export interface TreeNode {
  readonly name: string
  readonly properties: Map<string, Uint8Array>
  readonly children: TreeNode[]
}

const MAGIC = 0xd00d_feed
const VERSION = 17
const COMPATIBLE_VERSION = 16
const HEADER_BYTES = 40
const BEGIN_NODE = 1
const END_NODE = 2
const PROP = 3
const NOP = 4
const END = 9

/** @throws Error when the blob is none */
export function parseDeviceTree(blob: Uint8Array): TreeNode {
  const view = new DataView(blob.buffer, blob.byteOffset, blob.length)
  if (blob.length < HEADER_BYTES || view.getUint32(0) !== MAGIC) throw new Error("not a device tree blob")
  const strings = view.getUint32(12)
  const open: TreeNode[] = []
  let at = view.getUint32(8)
  const text = (from: number): string => {
    const end = blob.indexOf(0, from)
    return new TextDecoder().decode(blob.subarray(from, end))
  }
  for (;;) {
    const token = view.getUint32(at)
    at += 4
    if (token === BEGIN_NODE) {
      const name = text(at)
      at = aligned(at + name.length + 1)
      const node: TreeNode = { name, properties: new Map(), children: [] }
      open.at(-1)?.children.push(node)
      open.push(node)
    } else if (token === PROP) {
      const length = view.getUint32(at)
      const name = text(strings + view.getUint32(at + 4))
      open.at(-1)?.properties.set(name, blob.slice(at + 8, at + 8 + length))
      at = aligned(at + 8 + length)
    } else if (token === END_NODE) {
      const node = open.pop()
      if (open.length === 0 && node !== undefined) return node
    } else if (token !== NOP) {
      throw new Error(`token ${token} in a device tree`)
    }
  }
}

export function encodeDeviceTree(root: TreeNode): Uint8Array {
  const strings = new StringTable()
  const words: number[] = []
  writeNode(root, words, strings)
  words.push(...cells(END))
  const reservations = 16
  const structure = HEADER_BYTES + reservations
  const stringsAt = structure + words.length
  const total = stringsAt + strings.bytes.length
  const header = [
    MAGIC,
    total,
    structure,
    stringsAt,
    HEADER_BYTES,
    VERSION,
    COMPATIBLE_VERSION,
    0,
    strings.bytes.length,
    words.length,
  ]
  return Uint8Array.from([
    ...header.flatMap(value => [...cells(value)]),
    ...new Array(reservations).fill(0),
    ...words,
    ...strings.bytes,
  ])
}

class StringTable {
  readonly bytes: number[] = []
  readonly #offsets = new Map<string, number>()

  offsetOf(name: string): number {
    const known = this.#offsets.get(name)
    if (known !== undefined) return known
    const offset = this.bytes.length
    this.#offsets.set(name, offset)
    this.bytes.push(...string(name))
    return offset
  }
}

function writeNode(node: TreeNode, into: number[], strings: StringTable): void {
  into.push(...cells(BEGIN_NODE), ...padded(string(node.name)))
  for (const [name, value] of node.properties) {
    into.push(...cells(PROP, value.length, strings.offsetOf(name)), ...padded(value))
  }
  for (const child of node.children) writeNode(child, into, strings)
  into.push(...cells(END_NODE))
}

/** 32-bit big-endian cells, as most properties are made of. */
export function cells(...values: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(values.length * 4)
  const view = new DataView(bytes.buffer)
  values.forEach((value, n) => {
    view.setUint32(n * 4, value)
  })
  return bytes
}

/** A string property. */
export function string(value: string): Uint8Array {
  return new TextEncoder().encode(`${value}\0`)
}

/** The node at a path of names; a name without its unit address finds the first node of that name. */
export function findNode(root: TreeNode, ...path: readonly string[]): TreeNode {
  let node = root
  for (const name of path) {
    const child = node.children.find(one => one.name === name || one.name.startsWith(`${name}@`))
    if (child === undefined) throw new Error(`the device tree has no ${path.join("/")}`)
    node = child
  }
  return node
}

function padded(bytes: Uint8Array): number[] {
  return [...bytes, ...new Array(aligned(bytes.length) - bytes.length).fill(0)]
}

function aligned(offset: number): number {
  return (offset + 3) & ~3
}
