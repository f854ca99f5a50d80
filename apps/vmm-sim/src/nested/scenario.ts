import { type CachePolicy, type Fault, IOMMU_READ, IOMMU_WRITE } from "@iommu/core"
import type { Endpoint, TracedWalk } from "./endpoint.ts"
import { HUGE_PAGE, hostAddressOf, LARGE_PAGES } from "./guest-ram.ts"
import { type Face, type NestedMachine, nestedMachine } from "./machine.ts"
import type { NestedVendor } from "./vendor.ts"

/** A buffer of the guest: where its devices see it, and where it lies in the guest's memory. */
interface Buffer {
  readonly iova: bigint
  readonly gpa: bigint
  readonly size: bigint
}

/** Buffers that lie in all three kinds of guest RAM, and get stage-1 leaves of 4 KiB, 2 MiB and 1 GiB. */
const BUFFERS: readonly Buffer[] = [
  { iova: 0x1000_0000n, gpa: 0x4_0000n, size: 0x1_0000n },
  { iova: 0x2000_0000n, gpa: LARGE_PAGES.gpa * 3n, size: 2n << 20n },
  { iova: 0x4000_0000n, gpa: HUGE_PAGE.gpa, size: HUGE_PAGE.size },
]
const READ_ONLY: Buffer = { iova: 0x3000_0000n, gpa: 0x8_0000n, size: 0x1000n }
/** Far from all others, so that its last-level table is its own. */
const FAR: Buffer = { iova: 0x70_0000_0000n, gpa: 0x9_0000n, size: 0x1000n }
const UNMAPPED = 0x3800_0000n
/** Crosses a page boundary at any offset that is not a page's start. */
const DMA_BYTES = 6000

/** A fault as the report shows it. */
interface FaultLine {
  readonly cause: string
  readonly reason: string
  readonly code: number
  readonly stage: number
  readonly device: string
  readonly address: string
  /** The record's words as the hardware wrote them. */
  readonly record: readonly string[]
}

export interface NestedReport {
  readonly vendor: string
  readonly formats: { readonly stage1: string; readonly stage2: string }
  /** Tables and entries read for one 4 KiB page through both stages, configuration included. */
  readonly walkLength: number
  readonly dmas: number
  readonly bytesChecked: number
  readonly faults: readonly FaultLine[]
  /** Commands of the guest that the host carried out. */
  readonly guestCommands: number
  /** System calls of the VMM. */
  readonly systemCalls: number
  /** Events of the host's hardware that the guest found in its own log. */
  readonly guestEvents: number
  readonly pagesCharged: { readonly peak: number; readonly end: number }
  /** What did not come out as it must; empty when all is well. */
  readonly problems: readonly string[]
}

/**
 * Runs the whole demonstration on one vendor's machine, twice: on hardware that caches nothing, whose walks are the
 * ones reported, and on hardware that forgets nothing until it is told to, where a missing invalidation must show.
 */
export function runNested(
  vendor: NestedVendor,
  face: Face,
  watch: ((walk: TracedWalk) => void) | null,
): NestedReport {
  const report = play(vendor, face, "none", watch)
  const hoarding = play(vendor, face, "hoard", null).problems.map(
    problem => `caches that forget nothing: ${problem}`,
  )
  return { ...report, problems: [...report.problems, ...hoarding] }
}

function play(
  vendor: NestedVendor,
  face: Face,
  caches: CachePolicy,
  watch: ((walk: TracedWalk) => void) | null,
): NestedReport {
  let walkLength = 0
  const machine = nestedMachine(vendor, {
    face,
    caches,
    watch: walk => {
      walkLength = Math.max(walkLength, walk.steps.length)
      watch?.(walk)
    },
  })
  const run = new NestedRun(machine)
  run.moveData()
  run.provokeFaults()
  run.unmapInGuest()
  const { owner } = machine
  machine.tearDown()
  run.expect(owner.usagePages === 0, `${owner.usagePages} pages are charged after teardown`)
  run.expect(machine.pagesHeld() === 0, `${machine.pagesHeld()} pages are held after teardown`)
  run.expect(machine.pagesPinned() === 0, `${machine.pagesPinned()} pages are pinned after teardown`)
  for (const endpoint of machine.endpoints) {
    const fault = endpoint.read(BUFFERS[0]?.iova ?? 0n, new Uint8Array(4))
    run.expect(fault !== null, "DMA goes through after teardown")
  }
  return {
    vendor: vendor.name,
    formats: vendor.formats,
    walkLength,
    dmas: machine.endpoints.reduce((sum, endpoint) => sum + endpoint.dmas, 0),
    bytesChecked: run.bytesChecked,
    faults: run.faults,
    guestCommands: machine.vmm.viommu.commands,
    systemCalls: machine.vmm.calls.count,
    guestEvents: machine.vmm.viommu.events,
    pagesCharged: { peak: owner.peakPages, end: owner.usagePages },
    problems: run.problems,
  }
}

class NestedRun {
  readonly faults: FaultLine[] = []
  readonly problems: string[] = []
  bytesChecked = 0
  readonly #machine: NestedMachine
  #seed = 1

  constructor(machine: NestedMachine) {
    this.#machine = machine
    const { domain } = machine.guest
    for (const { iova, gpa, size } of BUFFERS) domain.map(iova, gpa, size, IOMMU_READ | IOMMU_WRITE)
    domain.map(READ_ONLY.iova, READ_ONLY.gpa, READ_ONLY.size, IOMMU_READ)
  }

  expect(holds: boolean, problem: string): void {
    if (!holds) this.problems.push(problem)
  }

  /** Both devices write to and read from all buffers, at offsets that cross pages. */
  moveData(): void {
    for (const endpoint of this.#machine.endpoints) {
      for (const buffer of BUFFERS) {
        const offset = buffer.size / 2n - 1000n
        this.#writeAndFind(endpoint, buffer, offset)
        this.#placeAndRead(endpoint, buffer, offset + 0x2000n)
      }
      this.#placeAndRead(endpoint, { ...READ_ONLY, size: 0x1000n }, 0n, 64)
    }
  }

  /** The three ways to fail, each with the vendor's own record. */
  provokeFaults(): void {
    const [one, two] = this.#machine.endpoints as [Endpoint, Endpoint]
    this.#expectFault("page not mapped in stage 1", one, one.read(UNMAPPED, new Uint8Array(64)))
    const before = this.#machine.guestMemory.read(READ_ONLY.gpa, 64)
    this.#expectFault("write to a read-only page", two, two.write(READ_ONLY.iova, this.#pattern(64)))
    const after = this.#machine.guestMemory.read(READ_ONLY.gpa, 64)
    this.expect(sameBytes(before, after), "a refused write changed memory")
    this.#missingTable(one)
  }

  /** The guest's unmap and invalidation take effect on the hardware. */
  unmapInGuest(): void {
    const [one, two] = this.#machine.endpoints as [Endpoint, Endpoint]
    const { iova, size } = BUFFERS[0] as Buffer
    const commands = this.#machine.vmm.viommu.commands
    this.expect(
      this.#machine.guest.domain.unmap(iova, size) === size,
      "the guest unmapped less than it mapped",
    )
    this.expect(
      this.#machine.vmm.viommu.commands > commands,
      "the guest's invalidation did not reach the host",
    )
    this.#expectFault("page unmapped by the guest", two, two.read(iova, new Uint8Array(64)))
    this.#placeAndRead(one, BUFFERS[1] as Buffer, 0n)
  }

  /** A stage-1 table of the guest lies in a page that stage 2 does not map (any more). */
  #missingTable(endpoint: Endpoint): void {
    const { guest, vmm } = this.#machine
    const table = nextGuestPage(this.#machine)
    guest.domain.map(FAR.iova, FAR.gpa, FAR.size, IOMMU_READ | IOMMU_WRITE)
    this.#placeAndRead(endpoint, FAR, 0n, 512)
    vmm.takeRam(table)
    this.#expectFault("guest table missing in stage 2", endpoint, endpoint.read(FAR.iova, new Uint8Array(64)))
    vmm.giveRam(table)
    this.#placeAndRead(endpoint, FAR, 1024n, 512)
  }

  #writeAndFind(endpoint: Endpoint, buffer: Buffer, offset: bigint): void {
    const bytes = this.#pattern(DMA_BYTES)
    const what = `${endpoint.device.name} at 0x${(buffer.iova + offset).toString(16)}`
    const fault = endpoint.write(buffer.iova + offset, bytes)
    this.expect(fault === null, `${what}: write refused: ${fault?.detail}`)
    this.expect(
      sameBytes(this.#machine.guestMemory.read(buffer.gpa + offset, DMA_BYTES), bytes),
      `${what}: lost bytes`,
    )
    this.#findInHost(buffer.gpa + offset, bytes, what)
  }

  /** The bytes lie in host memory where the VMM has put this page of the guest. */
  #findInHost(gpa: bigint, bytes: Uint8Array, what: string): void {
    const hpa = hostAddressOf(gpa)
    const first = Math.min(bytes.length, 4096 - Number(gpa % 4096n))
    const found = hpa !== null && sameBytes(this.#machine.memory.read(hpa, first), bytes.subarray(0, first))
    this.expect(found, `${what}: the bytes are not in the guest's page`)
    this.bytesChecked += bytes.length
  }

  #placeAndRead(endpoint: Endpoint, buffer: Buffer, offset: bigint, length: number = DMA_BYTES): void {
    const bytes = this.#pattern(length)
    this.#machine.guestMemory.write(buffer.gpa + offset, bytes)
    const read = new Uint8Array(length)
    const what = `${endpoint.device.name} at 0x${(buffer.iova + offset).toString(16)}`
    const fault = endpoint.read(buffer.iova + offset, read)
    this.expect(fault === null, `${what}: read refused: ${fault?.detail}`)
    this.expect(sameBytes(read, bytes), `${what}: read other bytes`)
    this.bytesChecked += length
  }

  #expectFault(cause: string, endpoint: Endpoint, fault: Fault | null): void {
    if (fault === null || fault.record === null) {
      this.problems.push(`${cause}: ${fault === null ? "the access went through" : "no record was written"}`)
      return
    }
    this.expect(fault.device === endpoint.device.id, `${cause}: the record blames device ${fault.device}`)
    this.#expectEvents(cause, endpoint, fault)
    this.faults.push({
      cause,
      reason: fault.reason,
      code: fault.code,
      stage: fault.stage,
      device: endpoint.device.name,
      address: `0x${fault.address.toString(16)}`,
      record: fault.record.map(word => `0x${word.toString(16).padStart(16, "0")}`),
    })
  }

  /** What the guest's own tables refused, the guest hears of, by its own number of the device; the rest is the host's. */
  #expectEvents(cause: string, endpoint: Endpoint, fault: Fault): void {
    const { guest, hostEvents, vendor } = this.#machine
    const before = { guest: guest.events.length, host: hostEvents.length }
    this.#machine.deliverInterrupts()
    const isGuests = vendor.viommu !== null && fault.stage === 1
    const heard = guest.events.slice(before.guest).map(({ name, device }) => `${name} of ${device}`)
    const expected = isGuests ? [`${fault.reason} of ${endpoint.device.virtualId}`] : []
    this.expect(heard.join() === expected.join(), `${cause}: the guest hears of "${heard.join()}"`)
    const kept = hostEvents.slice(before.host).map(({ name, device }) => `${name} of ${device}`)
    const own = isGuests ? [] : [`${fault.reason} of ${endpoint.device.id}`]
    this.expect(kept.join() === own.join(), `${cause}: the host keeps "${kept.join()}"`)
  }

  /** Bytes that differ from one DMA to the next. */
  #pattern(length: number): Uint8Array {
    const seed = this.#seed++
    return Uint8Array.from({ length }, (_, i) => (i * 31 + seed * 101 + (i >> 8) * 7) & 0xff)
  }
}

/** The guest-physical page that the guest's allocator hands out next. */
function nextGuestPage({ guest }: NestedMachine): bigint {
  const page = guest.pages.alloc(0, guest.account)
  guest.pages.free(page, 0, guest.account)
  return BigInt(page)
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i])
}
