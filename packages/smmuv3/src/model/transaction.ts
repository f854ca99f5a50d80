/**
 * A transaction on its way: what the device asked, the shape of the tables that it walks, where it was when it
 * faulted; and those that are held. Arm IHI 0070 G.b §3.4, §3.12, §7.3; Arm DDI 0487 §D8.2, with what IHI 0070 §5.2
 * and §5.4 add.
 */
import {
  ACCESS_EXEC,
  ACCESS_PRIV,
  ACCESS_READ,
  ACCESS_WRITE,
  NO_PASID,
  type PhysicalMemory,
} from "@iommu/core"
import * as pte from "../spec/page-tables.ts"
import { ADDRESS_48, ADDRESS_LPA, ADDRESS_LPA2, LAST_LEVEL } from "../spec/page-tables.ts"

// V8 loads a binding of another module from memory at each use, one of its own not.
const PRIV = ACCESS_PRIV
const EXEC = ACCESS_EXEC
const WRITE = ACCESS_WRITE
const READ = ACCESS_READ
const DATA_ACCESS = ACCESS_READ | ACCESS_WRITE
const AP1 = pte.S1_AP1
const AP2 = pte.S1_AP2
const XN_TABLE_HI = pte.XN_TABLE_HI
const PXN_TABLE_HI = pte.PXN_TABLE_HI
const NO_WRITE_HI = pte.AP_TABLE_NO_WRITE_HI
const NO_UNPRIV_HI = pte.AP_TABLE_NO_UNPRIV_HI
const UXN_HI = pte.S1_UXN_HI
const PXN_HI = pte.S1_PXN_HI
const S2_AP_SHIFT = pte.S2_AP_SHIFT
const XN_HI = pte.S2_XN_HI
const XN1_HI = pte.S2_XN1_HI
const XN0_HI = pte.S2_XN0_HI
const DBM_HI = pte.DBM_HI
const ADDR_HI = pte.ADDR_HI

/** The transaction under way. One per model, reused. */
export class Transaction {
  device = 0
  pasid: number = NO_PASID
  hi = 0
  lo = 0
  access = 0
  /** As the device says; then as STE.PRIVCFG and INSTCFG have it. */
  privileged = false
  instruction = false

  begin(device: number, pasid: number, hi: number, lo: number, access: number): void {
    this.device = device >>> 0
    this.pasid = pasid
    this.hi = hi | 0
    this.lo = lo | 0
    this.access = access
    this.override(access)
  }

  /** What the access asks of a leaf. Instruction fetches need execution alone, DDI 0487 §D8.4. */
  get need(): number {
    return this.instruction ? EXEC : this.access & DATA_ACCESS
  }

  /** @param access as the STE wants the transaction to count */
  override(access: number): void {
    this.privileged = (access & PRIV) !== 0
    // Writes are data whatever the device says, §13.1.2.
    this.instruction = (access & (EXEC | WRITE)) === EXEC
  }
}

/** What an STE or CD says of one tree of VMSAv8-64 tables. */
export interface TreeShape {
  readonly granuleLg2: number
  /** Bits of an input address. */
  readonly inputBits: number
  /** Level of the root: -1 to 3. */
  readonly startLevel: number
  readonly outputBits: number
  readonly oasBits: number
  readonly ds: boolean
  readonly bigEndian: boolean
  readonly rootHi: number
  readonly rootLo: number
  /** Shareability that leaves have no room for where DS is 1. */
  readonly sharing: number
  /** Bits 63:32 of table descriptors that limit what lies below: none in stage 2, and with HAD. */
  readonly limitMask: number
  /** TBI and E0PD. */
  readonly topByteIgnored: boolean
  readonly unprivilegedOff: boolean
  /** Leaves with DBM are writable. */
  readonly updatesDirty: boolean
}

/** One instance per table base register, refilled when the structure that describes it changes. */
export class Geometry {
  enabled = false
  inputBits = 48
  outputBits = 48
  startLevel = 0
  /** Index bits per level. */
  stride = 9
  indexMask = 511
  /** Position and mask of the root's index; the mask covers concatenated stage 2 roots. */
  rootShift = 39
  rootMask = 511
  rootHi = 0
  rootLo = 0
  addressForm: number = ADDRESS_48
  /** Mask of bits 31:0 that an address has in a table descriptor. */
  addressMaskLo = -4096
  /** The lowest level whose descriptors may be blocks. */
  firstBlockLevel = 1
  bigEndian = false
  /** Shareability of all leaves, -1 where each has its own. */
  sharing = -1
  limitMask = 0
  topByteIgnored = false
  unprivilegedOff = false
  /** 4 KiB granule, 48-bit addresses, little-endian, root at level 0 or 1: the shape that walks unroll. */
  quick = false
  /** Bits 63:32 of tables and of leaves that such walks leave to the complete ones. */
  oddTableHi = 0
  oddLeafHi = 0
  /** Bit that makes a leaf writable and clean, where hardware updates the dirty state. */
  dirtyHi = 0
  /** Word index of a quick root of one page at a physical address, else -1; in volatile memory, too. */
  rootAt = -1

  fill(shape: TreeShape, memory: PhysicalMemory): void {
    const { granuleLg2, inputBits, startLevel, ds } = shape
    this.enabled = true
    this.inputBits = inputBits
    this.outputBits = shape.outputBits
    this.startLevel = startLevel
    this.stride = granuleLg2 - 3
    this.indexMask = (1 << this.stride) - 1
    this.rootShift = granuleLg2 + (3 - startLevel) * this.stride
    this.rootMask = (1 << (inputBits - this.rootShift)) - 1
    // A root is aligned to its size, and to 64 bytes where 52-bit outputs are possible.
    const rootLg2 = Math.max(inputBits - this.rootShift + 3, shape.outputBits === 52 ? 6 : 4)
    this.rootHi = shape.rootHi | 0
    this.rootLo = (shape.rootLo & -(1 << rootLg2)) | 0
    const lpa = granuleLg2 === 16 && shape.oasBits >= 52
    this.addressForm = lpa ? ADDRESS_LPA : ds ? ADDRESS_LPA2 : ADDRESS_48
    this.addressMaskLo = -(1 << granuleLg2)
    this.firstBlockLevel = firstBlockLevel(granuleLg2, ds, lpa)
    this.bigEndian = shape.bigEndian
    this.sharing = ds ? shape.sharing : -1
    this.limitMask = shape.limitMask
    this.topByteIgnored = shape.topByteIgnored
    this.unprivilegedOff = shape.unprivilegedOff
    const plain = granuleLg2 === 12 && !ds && !shape.bigEndian && !shape.unprivilegedOff
    this.quick = plain && inputBits >= 32 && (startLevel === 0 || startLevel === 1)
    const beyond = ADDR_HI & -(1 << (shape.outputBits - 32))
    this.oddTableHi = beyond | shape.limitMask
    this.oddLeafHi = beyond
    this.dirtyHi = shape.updatesDirty ? DBM_HI : 0
    const keepsRoot = this.quick && this.rootMask <= this.indexMask && !memory.isVolatile
    this.rootAt = keepsRoot ? memory.find(this.rootHi, this.rootLo) : -1
  }

  /** Bits 63:32 of an address without its top byte, where that is ignored. §3.4.1. */
  withoutTopByte(vaHi: number): number {
    return this.topByteIgnored ? (vaHi << 8) >> 8 : vaHi
  }

  /** log2 of the bytes that a table of a level covers. */
  coveredLg2(level: number): number {
    return this.stride + 3 + (LAST_LEVEL + 1 - level) * this.stride
  }
}

/** Bit 55 of an address picks the range, as bit 23 of its high half. */
export const UPPER_RANGE: number = 1 << 23

/** Both ranges of a CD, decoded. */
export class Stage1Config {
  /** TTB0 and TTB1. */
  readonly lower: Geometry = new Geometry()
  readonly upper: Geometry = new Geometry()
  /** CD fields as they are in effect. */
  accessFaultsOff = false
  updateAccess = false
  updateDirty = false
  writeExecuteNever = false
  privilegedAccessNever = false
  panCoversExecute = false
  /** EL2 without E2H has one privilege level and one range. */
  singlePrivilege = false
  /** {@link stage1Rights} of leaves without limits from above, by {@link rightsIndex}. */
  rights: Uint8Array = NO_RIGHTS

  /** E0PD of either range. */
  get asksPrivilege(): boolean {
    return this.lower.unprivilegedOff || this.upper.unprivilegedOff
  }

  /** Of the range that an address belongs to. */
  withoutTopByte(vaHi: number): number {
    return ((vaHi & UPPER_RANGE) !== 0 ? this.upper : this.lower).withoutTopByte(vaHi)
  }

  /** After any other field changed. */
  tabulate(): void {
    const privileges = (this.privilegedAccessNever ? 2 : 0) | (this.panCoversExecute ? 4 : 0)
    const kind = privileges | (this.writeExecuteNever ? 1 : 0) | (this.singlePrivilege ? 8 : 0)
    this.rights = STAGE1_RIGHTS[kind] ??= Uint8Array.from(NO_RIGHTS, (_none, n) =>
      stage1Rights(this, indexedHi(n), indexedLo(n), 0, indexedPrivilege(n)),
    )
  }
}

/** Stage 2 of an STE, decoded. */
export class Stage2Config {
  readonly geometry: Geometry = new Geometry()
  vmid = 0
  /** STE.S2AFFD, S2HA, S2HD and S2PTW as they are in effect. */
  accessFaultsOff = false
  updateAccess = false
  updateDirty = false
  protectTables = false
  forceWriteBack = false
  /** IDR3.XNX: bits 54:53 tell privileged from unprivileged execution. */
  xnx = false
  /** {@link stage2Rights} of leaves without DBM, by {@link rightsIndex}. */
  rights: Uint8Array = NO_RIGHTS

  /** After any other field changed. */
  tabulate(): void {
    this.rights = STAGE2_RIGHTS[this.xnx ? 1 : 0] ??= Uint8Array.from(NO_RIGHTS, (_none, n) =>
      stage2Rights(this, indexedHi(n), indexedLo(n), indexedPrivilege(n)),
    )
  }
}

/** Rights of leaves of both stages hang on bits 7:6 and 54:53, and on who asks: privileged accesses in the upper half. */
const NO_RIGHTS = new Uint8Array(32)
const indexedLo = (index: number): number => (index & 3) << 6
const indexedHi = (index: number): number => (index & 0xc) << 19
const indexedPrivilege = (index: number): boolean => index >= 16
/** By what else they hang on, tabulated once: the usual ones before the first transaction. */
const STAGE1_RIGHTS: Uint8Array[] = []
const STAGE2_RIGHTS: Uint8Array[] = []
new Stage1Config().tabulate()

/** What an access asks of a leaf. Instruction fetches need execution alone, and writes are data: DDI 0487 §D8.4, §13.1.2. */
export function needOf(access: number): number {
  return (access & (EXEC | WRITE)) === EXEC ? EXEC : access & DATA_ACCESS
}

/** @param access with ACCESS_PRIV for a privileged one */
export function rightsIndex(high: number, low: number, access: number): number {
  return ((low >>> 6) & 3) | ((high >>> 19) & 0xc) | ((access & PRIV) << 1)
}

/** @param limits what tables above the leaf limit, as bits 63:59 of their descriptors */
export function stage1Rights(
  config: Stage1Config,
  high: number,
  low: number,
  limits: number,
  privileged: boolean,
): number {
  const writable = (low & AP2) === 0 && (limits & NO_WRITE_HI) === 0
  const userExecutes = ((high & UXN_HI) | (limits & XN_TABLE_HI)) === 0
  if (config.singlePrivilege) {
    const executes = userExecutes && !(config.writeExecuteNever && writable)
    return READ | (writable ? WRITE : 0) | (executes ? EXEC : 0)
  }
  const user = (low & AP1) !== 0 && (limits & NO_UNPRIV_HI) === 0
  const userWrites = user && writable
  if (!privileged) {
    const executes = userExecutes && !(config.writeExecuteNever && userWrites)
    return (user ? READ : 0) | (userWrites ? WRITE : 0) | (executes ? EXEC : 0)
  }
  // What user code may write, privileged code must not execute: DDI 0487 §D8.4.
  const executes =
    ((high & PXN_HI) | (limits & PXN_TABLE_HI)) === 0 &&
    !userWrites &&
    !(config.writeExecuteNever && writable)
  const hidden = config.privilegedAccessNever && (user || (config.panCoversExecute && userExecutes))
  const data = hidden ? 0 : READ | (writable ? WRITE : 0)
  return data | (executes ? EXEC : 0)
}

export function stage2Rights(config: Stage2Config, high: number, low: number, privileged: boolean): number {
  let allowed = (low >>> S2_AP_SHIFT) & DATA_ACCESS
  if (config.updateDirty && (high & DBM_HI) !== 0) allowed |= WRITE
  return executable(config, high, privileged) ? allowed | EXEC : allowed
}

/** XN[1:0]: 0 all, 1 unprivileged alone, 2 nobody, 3 privileged alone; without XNX bit 54 alone. §D8.4. */
function executable(config: Stage2Config, high: number, privileged: boolean): boolean {
  if ((high & XN_HI) === 0) return true
  if (!config.xnx) return (high & XN1_HI) === 0
  if ((high & XN0_HI) === 0) return false
  return ((high & XN1_HI) !== 0) === privileged
}

/** 512 GiB, 64 GiB and 4 TiB blocks exist only with 52-bit addresses, DDI 0487 §D8.2. */
function firstBlockLevel(granuleLg2: number, ds: boolean, lpa: boolean): number {
  if (granuleLg2 === 12) return ds ? 0 : 1
  if (granuleLg2 === 14) return ds ? 1 : 2
  return lpa ? 1 : 2
}

/** What is to happen to a held transaction at the next opportunity. */
export const WAIT = 0
export const RETRY = 1
export const ABORT_IT = 2
export const COMPLETE_IT = 3

/** A transaction that waits in the SMMU. */
export interface HeldTransaction {
  readonly held: number
  readonly device: number
  readonly pasid: number
  readonly hi: number
  readonly lo: number
  readonly access: number
  /** null while there was no room for its record: it is tried again when the Event queue can be written. §7.2.1. */
  stag: number | null
  next: typeof WAIT | typeof RETRY | typeof ABORT_IT | typeof COMPLETE_IT
}

/** Transactions that wait for CMD_RESUME or CMD_STALL_TERM, or for room in the Event queue. §3.12.2. */
export class HeldTransactions {
  /** IDR5.STALL_MAX. */
  limit = 0
  readonly #all = new Map<number, HeldTransaction>()
  #last = 0

  get all(): readonly HeldTransaction[] {
    return [...this.#all.values()]
  }

  get count(): number {
    return this.#all.size
  }

  /** @returns null when as many as the SMMU can hold are held already */
  take(t: Transaction): HeldTransaction | null {
    if (this.#all.size >= this.limit) return null
    const { device, pasid, hi, lo, access } = t
    const slot: HeldTransaction = {
      held: ++this.#last,
      device,
      pasid,
      hi,
      lo,
      access,
      stag: null,
      next: WAIT,
    }
    this.#all.set(slot.held, slot)
    return slot
  }

  /** The lowest tag that no held transaction has; a tag returns when its transaction is resumed. */
  freeTag(): number {
    const used = new Set(this.all.map(t => t.stag))
    let stag = 0
    while (used.has(stag)) stag++
    return stag
  }

  /** CMD_RESUME; no effect when StreamID and STAG do not match, §4.7.1. */
  resume(device: number, stag: number, next: HeldTransaction["next"]): void {
    for (const t of this.#all.values()) if (t.stag === stag && t.device === device) mark(t, next)
  }

  /** CMD_STALL_TERM, those included that have no record yet. §4.7.2. */
  abortStream(device: number): void {
    for (const t of this.#all.values()) if (t.device === device) mark(t, ABORT_IT)
  }

  /** CR0.SMMUEN goes to 0, §6.3.9.6. */
  abortAll(): void {
    for (const t of this.#all.values()) mark(t, ABORT_IT)
  }

  release(t: HeldTransaction): void {
    this.#all.delete(t.held)
  }

  /** Without a word to the devices. */
  clear(): void {
    this.#all.clear()
  }
}

/** The tag returns with the command, whenever the rest happens. */
function mark(t: HeldTransaction, next: HeldTransaction["next"]): void {
  t.next = next
  t.stag = null
}
