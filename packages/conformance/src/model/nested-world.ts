/**
 * Random tables of two stages in a small memory, with 4 KiB pages and 512 entries a table in both stages, which all
 * vendors have. Stage 2 is built from the root down. Stage 1 is pages full of entries that lead to such pages again,
 * so that a walk gets somewhere with any address.
 */
import { createMemory, type IommuModel, type MemoryWindow, type PhysicalMemory } from "@iommu/core"
import type { Random } from "../random.ts"
import { CONFIG_PAGES, type Configuration, type Flags, type NestedFormat } from "./nested-format.ts"

const PAGE = 0x1000
const LARGE = 0x20_0000
const HUGE = 0x4000_0000
/** Configuration of the nested model and of the two single-stage ones. */
const CONFIG = 0x1000_0000
const STAGE2 = 0x1010_0000
const STAGE2_PAGES = 16
/** Guest memory; aligned, so that large leaves of stage 2 lead there. */
const RAM = 0x1020_0000
const RAM_PAGES = 48
/** Guest-physical 2 MiB regions, and pages of each that stage 1 knows. */
const REGIONS = 4
const PAGES_A_REGION = 20

export interface NestedWorld {
  readonly memory: PhysicalMemory
  /** The same bytes, for the single-stage models. */
  readonly shadow: PhysicalMemory
  /** What the guest sees of the shadow. */
  readonly guestView: PhysicalMemory
  readonly nested: IommuModel
  readonly first: IommuModel
  readonly second: IommuModel
  readonly guestConfig: number
  readonly variant: number
  readonly configurations: Readonly<Record<Configuration["stages"], Configuration>>
  /** Pages of guest memory, by guest-physical address, that nothing leads to: for tables made by a test. */
  readonly spareGuestPages: readonly number[]
  readonly spareStage2Page: number
  /** Guest-physical address of the table that {@link LEAF_INDEX} is in; 0 but in a {@link largeLeafWorld}. */
  readonly stage1LeafTable: number
  /** Addresses of the entries of 2 MiB leaves of stage 2. */
  readonly largeStage2Entries: readonly number[]
}

/** Index of the word at an address below 2^31. */
export function wordAt(memory: PhysicalMemory, address: number): number {
  const at = memory.find(0, address)
  if (at < 0) throw new Error(`bug: no memory at 0x${address.toString(16)}`)
  return at
}

export function store(memory: PhysicalMemory, address: number, lo: number, hi: number): void {
  const at = wordAt(memory, address)
  memory.words[at] = lo
  memory.words[at + 1] = hi
}

/** True for words in tables of stage 2. */
export function inStage2(memory: PhysicalMemory, word: number): boolean {
  const first = wordAt(memory, STAGE2)
  return word >= first && word < first + (STAGE2_PAGES * PAGE) / 4
}

export function randomWorld(format: NestedFormat, random: Random): NestedWorld {
  const memory = newMemory()
  const host = new Map<number, number>()
  const { guestPages, largeEntries } = stage2Regions(format, memory, random, host)
  const [guestConfig] = keptPages(format, memory, host) as [number]
  fillStage1(format, memory, random, guestPages)
  return finish(format, memory, {
    host,
    guestConfig,
    largeStage2Entries: largeEntries,
    stage1Root: random.pick(guestPages),
    variant: random.below(0x1_0000),
  })
}

/** Where a {@link largeLeafWorld} has a leaf of 2 MiB. */
export const LEAF_INDEX = 5
export const LEAF_IOVA: number = LEAF_INDEX * LARGE

/** Random tables with a leaf of 2 MiB in the first stage, on a way of its own. */
export function largeLeafWorld(format: NestedFormat, random: Random): NestedWorld {
  const memory = newMemory()
  const host = new Map<number, number>()
  const { guestPages, largeEntries } = stage2Regions(format, memory, random, host)
  // Pages that nothing else leads to, with all rights.
  const kept = keptPages(format, memory, host) as [number, number, number, number, number]
  const [guestConfig, root, level3, level2, spare] = kept
  const at = (page: number): number => host.get(page) as number
  fillStage1(format, memory, random, guestPages)
  storeEntry(memory, at(root), level3, format.stage1Table)
  storeEntry(memory, at(level3), level2, format.stage1Table)
  const leaf = random.pick(LARGE_TARGETS)
  storeEntry(memory, at(level2) + LEAF_INDEX * 8, leaf, random.pick(format.stage1Large))
  for (let index = 1; index < 512; index++) {
    storeEntry(memory, at(root) + index * 8, random.pick(guestPages), random.pick(format.stage1Plain))
  }
  return finish(format, memory, {
    host,
    guestConfig,
    spareGuestPages: [spare],
    largeStage2Entries: largeEntries,
    stage1Root: root,
    stage1LeafTable: level2,
    variant: random.below(0x1_0000),
  })
}

/** Stage 2 maps everything to itself, in the largest leaves. */
export function identityStage2World(format: NestedFormat, random: Random): NestedWorld {
  const memory = newMemory()
  storeEntry(memory, STAGE2, STAGE2 + PAGE, format.stage2Table(3))
  const [flags] = format.stage2Large as [Flags]
  for (let index = 0; index < 2; index++) {
    storeEntry(memory, STAGE2 + PAGE + index * 8, index * HUGE, flags)
  }
  const pages = Array.from({ length: RAM_PAGES }, (_, page) => RAM + page * PAGE)
  const [guestConfig, ...others] = pages as [number, ...number[]]
  fillStage1(format, memory, random, others)
  return finish(format, memory, {
    host: new Map(pages.map(page => [page, page])),
    guestConfig,
    stage1Root: random.pick(others),
    variant: random.below(0x1_0000),
  })
}

/** Stage 1 maps the first 2 GiB to themselves, in the largest leaves. */
export function identityStage1World(format: NestedFormat, random: Random): NestedWorld {
  const memory = newMemory()
  const host = new Map<number, number>()
  stage2Regions(format, memory, random, host)
  const [guestConfig, root, table] = keptPages(format, memory, host) as [number, number, number]
  const at = (page: number): number => host.get(page) as number
  storeEntry(memory, at(root), table, format.stage1Table)
  const [flags] = format.stage1Large as [Flags]
  for (let index = 0; index < 2; index++) storeEntry(memory, at(table) + index * 8, index * HUGE, flags)
  return finish(format, memory, {
    host,
    guestConfig,
    stage1Root: root,
    variant: random.below(0x1_0000),
  })
}

function newMemory(): PhysicalMemory {
  return createMemory([
    { base: CONFIG, size: 3 * CONFIG_PAGES * PAGE },
    { base: STAGE2, size: STAGE2_PAGES * PAGE },
    { base: RAM, size: RAM_PAGES * PAGE },
  ])
}

/** Another memory of a world with the same words. */
export function copyOf({ words }: PhysicalMemory): PhysicalMemory {
  const copy = newMemory()
  copy.words.set(words)
  return copy
}

function storeEntry(memory: PhysicalMemory, at: number, address: number, [lo, hi]: Flags): void {
  store(memory, at, (address | lo) >>> 0, hi)
}

/** Pages of {@link RAM} that {@link keptPages} gives away, from the end. */
const KEPT = 5

interface Regions {
  /** Guest pages that stage 1 may lead to, whatever the rights. */
  readonly guestPages: readonly number[]
  readonly largeEntries: readonly number[]
}

/** Fills stage 2; `host` gets where it leads. */
function stage2Regions(
  format: NestedFormat,
  memory: PhysicalMemory,
  random: Random,
  host: Map<number, number>,
): Regions {
  const root = STAGE2
  const level3 = STAGE2 + PAGE
  const level2 = STAGE2 + 2 * PAGE
  storeEntry(memory, root, level3, format.stage2Table(3))
  storeEntry(memory, level3, level2, format.stage2Table(2))
  storeEntry(memory, level3 + 8, HUGE, random.pick(format.stage2Large))
  const guestPages: number[] = []
  const largeEntries: number[] = []
  for (let region = 0; region < REGIONS; region++) {
    const isLarge = random.below(3) === 0
    const level1 = STAGE2 + (3 + region) * PAGE
    if (isLarge) largeEntries.push(level2 + region * 8)
    if (isLarge) storeEntry(memory, level2 + region * 8, RAM, random.pick(format.stage2Large))
    else storeEntry(memory, level2 + region * 8, level1, format.stage2Table(1))
    for (let n = 0; n < PAGES_A_REGION; n++) {
      const index = random.below(isLarge ? RAM_PAGES - KEPT : 512)
      const page = region * LARGE + index * PAGE
      if (host.has(page)) continue
      const target = isLarge ? RAM + index * PAGE : RAM + random.below(RAM_PAGES - KEPT) * PAGE
      if (!isLarge) storeEntry(memory, level1 + index * 8, target, random.pick(format.stage2Page))
      host.set(page, target)
      guestPages.push(page)
    }
  }
  return { guestPages, largeEntries }
}

/** Maps the last pages of {@link RAM}, with all rights, at guest addresses of their own. */
function keptPages(format: NestedFormat, memory: PhysicalMemory, host: Map<number, number>): number[] {
  const level1 = STAGE2 + (3 + REGIONS) * PAGE
  storeEntry(memory, STAGE2 + 2 * PAGE + REGIONS * 8, level1, format.stage2Table(1))
  const [flags] = format.stage2Page as [Flags]
  return Array.from({ length: KEPT }, (_, n) => {
    const page = REGIONS * LARGE + n * PAGE
    const target = RAM + (RAM_PAGES - KEPT + n) * PAGE
    storeEntry(memory, level1 + n * 8, target, flags)
    host.set(page, target)
    return page
  })
}

const LARGE_TARGETS = [0, LARGE, 2 * LARGE, 3 * LARGE, HUGE]

function fillStage1(
  format: NestedFormat,
  memory: PhysicalMemory,
  random: Random,
  guestPages: readonly number[],
): void {
  const first = wordAt(memory, RAM)
  const last = first + ((RAM_PAGES - KEPT) * PAGE) / 4
  for (let word = first; word < last; word += 2) {
    const isLarge = random.below(8) === 0
    const [lo, hi] = random.pick(isLarge ? format.stage1Large : format.stage1Plain)
    memory.words[word] = lo | random.pick(isLarge ? LARGE_TARGETS : guestPages)
    memory.words[word + 1] = hi
  }
}

interface Finish {
  readonly host: ReadonlyMap<number, number>
  readonly guestConfig: number
  readonly spareGuestPages?: readonly number[]
  readonly largeStage2Entries?: readonly number[]
  readonly stage1LeafTable?: number
  readonly stage1Root: number
  readonly variant: number
}

function finish(format: NestedFormat, memory: PhysicalMemory, made: Finish): NestedWorld {
  const { host, guestConfig, stage1Root, variant } = made
  const guestConfigAt = host.get(guestConfig) as number
  const common = { guestConfig, guestConfigAt, stage1Root, stage2Root: STAGE2, variant }
  const configBytes = CONFIG_PAGES * PAGE
  const forNested: Configuration = { ...common, stages: "nested", config: CONFIG }
  const forFirst: Configuration = { ...common, stages: "first", config: CONFIG + configBytes }
  const forSecond: Configuration = { ...common, stages: "second", config: CONFIG + 2 * configBytes }
  for (const how of [forNested, forFirst, forSecond]) format.configure(memory, how)
  const shadow = copyOf(memory)
  const guestView = shadow.view([
    { base: CONFIG, size: 3 * configBytes, at: CONFIG },
    ...Array.from(host, ([base, at]): MemoryWindow => ({ base, size: PAGE, at })),
  ])
  return {
    memory,
    shadow,
    guestView,
    nested: format.start(memory, forNested, "none"),
    first: format.start(guestView, forFirst, "none"),
    second: format.start(shadow, forSecond, "none"),
    guestConfig,
    variant,
    configurations: { nested: forNested, first: forFirst, second: forSecond },
    spareGuestPages: made.spareGuestPages ?? [],
    largeStage2Entries: made.largeStage2Entries ?? [],
    stage1LeafTable: made.stage1LeafTable ?? 0,
    spareStage2Page: STAGE2 + (STAGE2_PAGES - 1) * PAGE,
  }
}
