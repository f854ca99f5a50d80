/**
 * Command queues, by what software does: entries written to memory, a doorbell, a status that the hardware writes.
 * The entry is what the driver itself writes for one unmapped page; the caches hold other pages.
 */
import { MemoryAccount, type PhysicalMemory } from "@iommu/core"
import type { Work } from "./bench-case.ts"
import { BENCH_VENDORS, type BenchVendor, MAPPED_PAGES, type OpenMachine, singleStage } from "./machines.ts"
import { sample } from "./measure.ts"
import type { QuantityCase } from "./quantity.ts"
import { type CommandQueue, QUEUES } from "./queue-formats.ts"
import { checkAllowed } from "./transactions.ts"

const CACHED_PAGES = 256
/** Entries of one measured run. */
const ENTRIES = 1024
const SAMPLES = 9
const SAMPLE_MS = 8
const DONE = 1n

export function queueQuantities(): QuantityCase[] {
  return BENCH_VENDORS.flatMap(vendor =>
    [1, 63].map(commands => ({
      what: `queue, ${commands === 1 ? "a wait after each command" : `a wait after ${commands} commands`}`,
      subject: vendor.nested.name,
      unit: "million entries a second",
      limit: null,
      measure: () => millionsPerSecond(queueWork(vendor, commands)),
    })),
  )
}

function millionsPerSecond(work: Work): number {
  sample(work, SAMPLE_MS)
  return 1000 / Math.min(...Array.from({ length: SAMPLES }, () => sample(work, SAMPLE_MS)))
}

/** Batches of page invalidations, each ended by a wait and a doorbell. */
export function queueWork(vendor: BenchVendor, commands: number): Work {
  const machine = singleStage(vendor, "exact")
  const { model, memory, pages } = machine
  const command = recordInvalidation(machine)
  checkAllowed(machine, CACHED_PAGES)
  const open = QUEUES[vendor.key]
  if (open === undefined) throw new Error(`no queue to measure for ${vendor.nested.name}`)
  const queue = open(model.mmio)
  const status = BigInt(pages.alloc(0, new MemoryAccount("bench")))
  const writeCommand = entryWriter(memory, queue, command)
  const writeWait = entryWriter(memory, queue, queue.wait(status, DONE))
  let { position } = queue
  const run = (): number => {
    for (let n = 0; n < ENTRIES; n += commands + 1) {
      for (let at = 0; at < commands; at++) writeCommand(position++)
      writeWait(position++)
      queue.ring(position)
    }
    return position
  }
  const prepare = (): void => {
    memory.write64(status, 0n)
    run()
    if (memory.read64(status) !== DONE) throw new Error(`${vendor.nested.name} did not finish its queue`)
  }
  prepare()
  return { operations: ENTRIES, run }
}

/** What the driver asks of the hardware when one page is unmapped, as the model hears it. */
function recordInvalidation({ model, domain }: OpenMachine): readonly bigint[] {
  let heard: readonly bigint[] = []
  model.onInvalidate = ({ words }) => {
    if (heard.length === 0) heard = words
  }
  domain.unmap(0x1000_0000n + BigInt(MAPPED_PAGES - 1) * 4096n, 4096n)
  model.onInvalidate = null
  if (heard.length === 0) throw new Error(`${model.vendor} heard of no invalidation`)
  return heard
}

/** Writes always the same entry, at a position in the queue. */
function entryWriter(
  memory: PhysicalMemory,
  queue: CommandQueue,
  entry: readonly bigint[],
): (at: number) => void {
  const halves = new Uint32Array(queue.words * 2)
  new BigUint64Array(halves.buffer).set(entry.slice(0, queue.words))
  const { words } = memory
  const first = memory.find(Number(queue.base >> 32n), Number(queue.base & 0xffff_ffffn))
  const { entries } = queue
  return position => {
    words.set(halves, first + (position & (entries - 1)) * halves.length)
  }
}
