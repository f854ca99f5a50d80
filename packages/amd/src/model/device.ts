/**
 * The AMD-Vi hardware model as a machine sees it: registers to software, translation to devices. AMD I/O
 * Virtualization Technology (IOMMU) Specification 48882, rev 3.10. What is modelled stands in docs/amd.md.
 */
import {
  type AtsCompletion,
  type AtsDevice,
  type AtsModel,
  cachePolicies,
  type Fault,
  hi32,
  type Invalidation,
  type IommuModel,
  lo32,
  type Mmio,
  NO_PASID,
  type PageRequest,
} from "@iommu/core"
import { PREFETCH_IOMMU_PAGES } from "../spec/commands.ts"
import { DEVTAB_SEGMENTS, REGISTERS, type RegisterName } from "../spec/registers.ts"
import { Ats } from "./ats.ts"
import { type AmdAttributes, type AmdTranslationResult, TableProbe } from "./attributes.ts"
import { Caches } from "./caches.ts"
import { CommandBuffer, type CommandTarget } from "./commands.ts"
import { DeviceEntries } from "./device-entry.ts"
import { EventLog } from "./events.ts"
import { type InterruptHook, InterruptSource } from "./interrupts.ts"
import { type AmdModelOptions, EVERYTHING, EVERYTHING_2 } from "./options.ts"
import { PageRequests } from "./page-requests.ts"
import { PasidEntries } from "./pasid-entry.ts"
import { PlainWalk } from "./plain-walk.ts"
import { type RegisterEffects, Registers } from "./registers.ts"
import type { AddressRange } from "./tlb.ts"
import { Trace, type TraceHook } from "./trace.ts"
import { OK, Transaction } from "./transaction.ts"
import { Translator } from "./translate.ts"
import { GuestWalk } from "./walk-stage1.ts"
import { HostWalk } from "./walk-stage2.ts"

const TABLE_BASES: readonly RegisterName[] = DEVTAB_SEGMENTS

export class AmdModel implements IommuModel, AtsModel, RegisterEffects, CommandTarget {
  readonly vendor = "amd"
  readonly mmio: Mmio
  readonly result: AmdTranslationResult = {
    paHi: 0,
    paLo: 0,
    sizeLg2: 0,
    allowed: 0,
    ipaHi: 0,
    ipaLo: 0,
    stage1SizeLg2: 0,
    stage2SizeLg2: 0,
    attributes: 0,
    fault: null,
  }
  private readonly registers: Registers
  private readonly caches: Caches
  private readonly host: HostWalk
  private readonly guest: GuestWalk
  private readonly pasids: PasidEntries
  private readonly entries: DeviceEntries
  private readonly events: EventLog
  private readonly commands: CommandBuffer
  private readonly interrupts: InterruptSource
  private readonly translator: Translator
  private readonly transaction: Transaction = new Transaction()
  private readonly probe: TableProbe
  private readonly ats: Ats
  private readonly pageRequests: PageRequests
  private traceHook: TraceHook | null = null

  constructor(options: AmdModelOptions) {
    const { memory, extFeatures = EVERYTHING, extFeatures2 = EVERYTHING_2 } = options
    const registers = new Registers(extFeatures, extFeatures2)
    const { transaction } = this
    this.registers = registers
    const caches = new Caches(cachePolicies(options.caches))
    this.caches = caches
    registers.effects = this
    this.mmio = registers
    this.host = new HostWalk(memory, caches)
    this.guest = new GuestWalk(memory, this.host, transaction, caches)
    this.pasids = new PasidEntries(memory, this.host, transaction, caches)
    this.entries = new DeviceEntries(
      memory,
      registers,
      transaction,
      this.pasids,
      this.guest,
      this.host,
      caches,
    )
    this.entries.configure()
    this.interrupts = new InterruptSource(registers)
    this.events = new EventLog(registers, memory, this.interrupts)
    this.commands = new CommandBuffer(registers, memory, this.events, this.interrupts, caches, this)
    this.translator = new Translator(
      registers,
      transaction,
      this.entries,
      this.pasids,
      this.guest,
      this.host,
      new PlainWalk(memory, this.host, this.guest),
      this.events,
      caches,
      this.result,
    )
    this.probe = new TableProbe(transaction, this.entries, this.pasids, this.guest, this.host)
    this.ats = new Ats(registers, transaction, this.entries, this.probe, this.translator, this.events)
    this.pageRequests = new PageRequests(
      registers,
      memory,
      transaction,
      this.entries,
      this.events,
      this.interrupts,
      this.ats,
    )
  }

  translate(device: number, pasid: number, iovaHi: number, iovaLo: number, access: number): number {
    return this.translator.translate(device, pasid, iovaHi, iovaLo, access)
  }

  get completion(): AtsCompletion {
    return this.ats.completion
  }

  get atsFault(): Fault | null {
    return this.ats.fault
  }

  connect(device: number, ats: AtsDevice): void {
    this.ats.connect(device, ats)
  }

  translationRequest(device: number, pasid: number, iovaHi: number, iovaLo: number, access: number): number {
    return this.ats.translationRequest(device, pasid, iovaHi, iovaLo, access)
  }

  translatedRequest(device: number, pasid: number, paHi: number, paLo: number, access: number): number {
    return this.ats.translatedRequest(device, pasid, paHi, paLo, access)
  }

  pageRequest(request: PageRequest): void {
    this.pageRequests.receive(request)
  }

  /**
   * What the tables say of an address beside where it lies. Marks nothing and logs nothing.
   * @param privilege ACCESS_PRIV for a supervisor request, else 0
   * @returns null where the device has no tables for the request, or an entry is wrong
   */
  attributesOf(device: number, pasid: number, iova: bigint, privilege = 0): AmdAttributes | null {
    this.transaction.begin(device, pasid, hi32(iova), lo32(iova), privilege)
    if (this.entries.load() !== OK || !this.entries.valid) return null
    return this.probe.probe(hi32(iova), lo32(iova), privilege) === OK ? this.probe.attributes() : null
  }

  get trace(): TraceHook | null {
    return this.traceHook
  }

  set trace(hook: TraceHook | null) {
    this.traceHook = hook
    const trace = hook === null ? null : new Trace(hook)
    this.entries.tracer = trace
    this.pasids.tracer = trace
    this.guest.tracer = trace
    this.host.tracer = trace
    this.entries.forget()
    this.caches.recent.clear()
  }

  get onInvalidate(): ((invalidation: Invalidation) => void) | null {
    return this.commands.hook
  }

  set onInvalidate(hook: ((invalidation: Invalidation) => void) | null) {
    this.commands.hook = hook
  }

  get onInterrupt(): InterruptHook | null {
    return this.interrupts.hook
  }

  set onInterrupt(hook: InterruptHook | null) {
    this.interrupts.hook = hook
  }

  restoreRegisters(values: Readonly<Record<string, bigint>>): string[] {
    const unknown: string[] = []
    for (const [name, value] of Object.entries(values)) {
      if (isRegister(name)) this.registers.set64(name, BigInt.asUintN(64, value))
      else unknown.push(name)
    }
    this.registers.configure()
    this.entries.configure()
    this.caches.recent.clear()
    return unknown
  }

  onWrite(name: RegisterName, controlBefore: number): void {
    if (name === "CMD_TAIL") {
      this.commands.run()
      return
    }
    this.caches.recent.clear()
    this.entries.forgetRequest()
    if (name === "CONTROL") this.applyControl(controlBefore)
    else if (TABLE_BASES.includes(name)) this.entries.configure()
  }

  private applyControl(before: number): void {
    this.entries.configure()
    const { control } = this.registers
    this.events.applyControl(before, control)
    this.commands.applyControl(before, control)
    this.pageRequests.applyControl(before, control)
  }

  invalidateDevice(device: number): void {
    this.events.forgetDevice(device)
    this.caches.invalidateEntry(device)
    this.entries.forget()
  }

  invalidateAll(): void {
    this.events.forgetAllDevices()
    this.caches.invalidateAll()
    this.entries.forget()
  }

  invalidateIotlb(words: readonly bigint[]): boolean {
    return this.ats.invalidate(words)
  }

  dropForPrefetch(words: readonly bigint[], range: AddressRange): void {
    const { transaction } = this
    const fields = PREFETCH_IOMMU_PAGES.decode(words)
    transaction.begin(Number(fields.DeviceID), NO_PASID, 0, 0, 0)
    this.entries.load()
    const pasid = (fields.PASID_19_16 << 16n) | (fields.PASID_15_8 << 8n) | fields.PASID_7_0
    if (fields.GN === 1n) this.caches.invalidateGuestPages(transaction.domainId, Number(pasid), range)
    else this.caches.invalidateHostPages(transaction.domainId, range)
  }

  completePageRequest(words: readonly bigint[]): void {
    this.ats.completePageRequest(words)
  }
}

function isRegister(name: string): name is RegisterName {
  return Object.hasOwn(REGISTERS, name)
}
