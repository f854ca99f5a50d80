/**
 * The translation of one address, written a second time from DDI 0487 §D8 and IHI 0070 §3.4, §7.3.22: bit slices
 * in bigint, one step after the other, without a thought for speed. It shares nothing with the model.
 */
import type { PhysicalMemory } from "@iommu/core"

export interface Tree {
  readonly stage: 1 | 2
  readonly granuleLg2: number
  readonly inputBits: number
  readonly startLevel: number
  /** DS: 52-bit descriptors with the 4 KiB and 16 KiB granules. */
  readonly ds: boolean
  readonly oasBits: number
  readonly outputBits: number
  readonly root: bigint
  readonly bigEndian: boolean
  readonly accessFaultsOff: boolean
  readonly updateAccess: boolean
  readonly updateDirty: boolean
  /** HADx. */
  readonly noHierarchy: boolean
  readonly wxn: boolean
  readonly pan: boolean
  readonly xnx: boolean
}

export interface Access {
  readonly read: boolean
  readonly write: boolean
  readonly execute: boolean
  readonly privileged: boolean
}

export type Reached =
  | { readonly ok: true; readonly pa: bigint; readonly sizeLg2: number; readonly allowed: Access }
  | {
      readonly ok: false
      readonly event: string
      readonly stage: 1 | 2
      readonly cls: string
      readonly ipa: bigint
    }

/** Where the descriptor of a stage 1 table is: through stage 2, or where it says. */
export type Locate = (address: bigint) => bigint | Extract<Reached, { ok: false }>

const slice = (value: bigint, msb: number, lsb: number): bigint =>
  (value >> BigInt(lsb)) & ((1n << BigInt(msb - lsb + 1)) - 1n)
const bit = (value: bigint, n: number): boolean => slice(value, n, n) === 1n

export function reach(
  memory: PhysicalMemory,
  tree: Tree,
  address: bigint,
  access: Access,
  locate?: Locate,
): Reached {
  const no = (event: string, cls = "IN"): Reached => ({
    ok: false,
    event,
    stage: tree.stage,
    cls,
    ipa: address,
  })
  if (tree.stage === 2 ? address >> BigInt(tree.inputBits) !== 0n : !extended(address, tree.inputBits)) {
    return no("F_TRANSLATION")
  }
  const stride = tree.granuleLg2 - 3
  let table = tree.root
  const passed: bigint[] = []
  for (let level = tree.startLevel; ; level++) {
    const lsb = tree.granuleLg2 + (3 - level) * stride
    const msb = level === tree.startLevel ? tree.inputBits - 1 : lsb + stride - 1
    const at = table + 8n * slice(address, msb, lsb)
    const located = locate ? locate(at) : at
    if (typeof located !== "bigint") return located
    if (!memory.contains(located, 8)) return no("F_WALK_EABT", tree.stage === 1 ? "TT" : "IN")
    const entry = swapped(memory.read64(located), tree.bigEndian)
    const kind = kindOf(tree, entry, level)
    if (kind === "invalid") return no("F_TRANSLATION")
    const output = outputOf(tree, entry, kind === "table" ? tree.granuleLg2 : lsb)
    // The check is on all the bits a descriptor has, also those below a block's size: they are no address bits.
    if (output >> BigInt(tree.outputBits) !== 0n) return no("F_ADDR_SIZE")
    if (kind === "table") {
      passed.push(entry)
      table = output
      continue
    }
    if (!bit(entry, 10) && !tree.accessFaultsOff && !tree.updateAccess) return no("F_ACCESS")
    const allowed = tree.stage === 1 ? allowed1(tree, entry, passed, access) : allowed2(tree, entry, access)
    const refused =
      (access.read && !access.execute && !allowed.read) ||
      (access.write && !allowed.write) ||
      (access.execute && !allowed.execute)
    if (refused) return no("F_PERMISSION")
    return { ok: true, pa: output | slice(address, lsb - 1, 0), sizeLg2: lsb, allowed }
  }
}

/** Lower range alone: all bits above it are zero. */
function extended(address: bigint, inputBits: number): boolean {
  return address >> BigInt(inputBits) === 0n
}

function swapped(value: bigint, swap: boolean): bigint {
  if (!swap) return value
  let out = 0n
  for (let byte = 0; byte < 8; byte++) out = (out << 8n) | slice(value, byte * 8 + 7, byte * 8)
  return out
}

function kindOf(tree: Tree, entry: bigint, level: number): "invalid" | "table" | "leaf" {
  const type = slice(entry, 1, 0)
  if (type === 0n || type === 2n) return "invalid"
  if (level === 3) return type === 3n ? "leaf" : "invalid"
  if (type === 3n) return "table"
  const first =
    { 12: tree.ds ? 0 : 1, 14: tree.ds ? 1 : 2, 16: tree.oasBits === 52 ? 1 : 2 }[tree.granuleLg2] ?? 3
  return level >= first ? "leaf" : "invalid"
}

function outputOf(tree: Tree, entry: bigint, lsb: number): bigint {
  if (tree.granuleLg2 === 16 && tree.oasBits === 52) {
    return (slice(entry, 15, 12) << 48n) | (slice(entry, 47, lsb) << BigInt(lsb))
  }
  if (tree.ds && tree.granuleLg2 !== 16)
    return (slice(entry, 9, 8) << 50n) | (slice(entry, 49, lsb) << BigInt(lsb))
  return slice(entry, 47, lsb) << BigInt(lsb)
}

/** DDI 0487 §D8.4: AP[2:1] in bits 7:6, APTable in 62:61, PXNTable 59, XNTable 60; PXN 53, UXN 54. */
function allowed1(tree: Tree, entry: bigint, passed: readonly bigint[], access: Access): Access {
  const limits = tree.noHierarchy ? [] : passed
  const clean = tree.updateAccess && tree.updateDirty && bit(entry, 51)
  const readOnly = (bit(entry, 7) && !clean) || limits.some(table => bit(table, 62))
  const user = bit(entry, 6) && !limits.some(table => bit(table, 61))
  const userWrites = user && !readOnly
  const uxn = bit(entry, 54) || limits.some(table => bit(table, 60))
  const pxn = bit(entry, 53) || limits.some(table => bit(table, 59))
  if (!access.privileged) {
    const execute = !uxn && !(tree.wxn && userWrites)
    return { read: user, write: userWrites, execute, privileged: false }
  }
  const data = !(tree.pan && user)
  const execute = !pxn && !userWrites && !(tree.wxn && !readOnly)
  return { read: data, write: data && !readOnly, execute, privileged: true }
}

/** S2AP in bits 7:6, XN in 54:53. */
function allowed2(tree: Tree, entry: bigint, access: Access): Access {
  const clean = tree.updateAccess && tree.updateDirty && bit(entry, 51)
  const xn = slice(entry, 54, 53)
  const execute = tree.xnx ? xn === 0n || xn === (access.privileged ? 3n : 1n) : !bit(entry, 54)
  return { read: bit(entry, 6), write: bit(entry, 7) || clean, execute, privileged: access.privileged }
}
