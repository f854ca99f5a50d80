/**
 * Random tables of two stages in a small memory, with one size of pages and tables in both stages. Stage 2 is built from the root down. Stage 1 is pages full of entries that lead to such pages again,
 * so that a walk gets somewhere with any address.
 */
import { createMemory, type IommuModel, type MemoryWindow, type PhysicalMemory } from "@iommu/core"
import type { Random } from "../random.ts"
import { CONFIG_PAGES, type Configuration, type Flags, type NestedFormat } from "./nested-format.ts"

const KIB_4 = 0x1000
const HUGE_4K = 0x4000_0000
/** Four tables on the way to the last level of five, five of the last level, and a spare page. */
const STAGE2_PAGES = 10
/** Pages of guest memory that {@link keptPages} gives away, from the end. */
const KEPT = 6
const PAGES_A_REGION = 20
const IDENTITY_BYTES = 2 ** 31

/** Where things are and how large, by granule. */
export interface Layout {
  readonly page: number
  readonly entries: number
  /** A leaf one level above the last. */
  readonly large: number
  /** The largest leaf, and the tables on the way to it. */
  readonly largest: number
  readonly largestTables: number
  /** Configuration of the nested model and of the two single-stage ones: at no address that stage 1 leads to. */
  readonly config: number
  readonly stage2: number
  /** Guest memory; aligned, so that large leaves of stage 2 lead there. */
  readonly ram: number
  readonly ramPages: number
  /** Guest-physical regions of a large leaf each, and behind them one of {@link keptPages}. */
  readonly regions: number
}

const PLACES = {
  12: { config: 0x1000_0000, stage2: 0x1010_0000, ram: 0x1020_0000, ramPages: 48, regions: 4 },
  14: { config: 0x1000_0000, stage2: 0x1010_0000, ram: 0x1200_0000, ramPages: 24, regions: 4 },
  16: { config: 0x7000_0000, stage2: 0x7100_0000, ram: 0x2000_0000, ramPages: 16, regions: 3 },
}

export function layoutOf({ granuleLg2, hasHugeLeaves }: NestedFormat): Layout {
  const page = 2 ** granuleLg2
  const entries = page / 8
  const large = page * entries
  return {
    ...PLACES[granuleLg2],
    page,
    entries,
    large,
    largest: hasHugeLeaves ? HUGE_4K : large,
    largestTables: hasHugeLeaves ? 2 : 1,
  }
}

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
  /** Addresses of the entries of large leaves of stage 2. */
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
export function inStage2(format: NestedFormat, memory: PhysicalMemory, word: number): boolean {
  const { page, stage2 } = layoutOf(format)
  const first = wordAt(memory, stage2)
  return word >= first && word < first + (STAGE2_PAGES * page) / 4
}

export function randomWorld(format: NestedFormat, random: Random): NestedWorld {
  const memory = newMemory(format)
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

/** Index of the entry that a {@link largeLeafWorld} has a large leaf in. */
export const LEAF_INDEX = 5

/** Random tables with a large leaf in the first stage, on a way of its own. */
export function largeLeafWorld(format: NestedFormat, random: Random): NestedWorld {
  const memory = newMemory(format)
  const host = new Map<number, number>()
  const { guestPages, largeEntries } = stage2Regions(format, memory, random, host)
  // Pages that nothing else leads to, with all rights.
  const [guestConfig, spare, ...kept] = keptPages(format, memory, host) as [number, number, ...number[]]
  const at = (page: number): number => host.get(page) as number
  fillStage1(format, memory, random, guestPages)
  const way = kept.slice(0, format.stage1Levels - 1)
  const [root] = way as [number]
  const leafTable = stage1Way(format, memory, way, at)
  const leaf = random.pick(largeTargets(format))
  storeEntry(memory, at(leafTable) + LEAF_INDEX * 8, leaf, random.pick(format.stage1Large))
  for (let index = 1; index < layoutOf(format).entries; index++) {
    storeEntry(memory, at(root) + index * 8, random.pick(guestPages), random.pick(format.stage1Plain))
  }
  return finish(format, memory, {
    host,
    guestConfig,
    spareGuestPages: [spare],
    largeStage2Entries: largeEntries,
    stage1Root: root,
    stage1LeafTable: leafTable,
    variant: random.below(0x1_0000),
  })
}

/** Stage 2 maps everything to itself, in the largest leaves. */
export function identityStage2World(format: NestedFormat, random: Random): NestedWorld {
  const memory = newMemory(format)
  const { largest, largestTables, page, ram, ramPages } = layoutOf(format)
  const table = stage2Way(format, memory, format.stage2Levels - largestTables)
  const [flags] = format.stage2Large as [Flags]
  for (let index = 0; index < IDENTITY_BYTES / largest; index++) {
    storeEntry(memory, table + index * 8, index * largest, flags)
  }
  const pages = Array.from({ length: ramPages }, (_, n) => ram + n * page)
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
  const memory = newMemory(format)
  const { largest, largestTables } = layoutOf(format)
  const host = new Map<number, number>()
  stage2Regions(format, memory, random, host)
  const [guestConfig, ...kept] = keptPages(format, memory, host) as [number, ...number[]]
  const at = (page: number): number => host.get(page) as number
  const way = kept.slice(0, format.stage1Levels - largestTables)
  const [root] = way as [number]
  const table = at(stage1Way(format, memory, way, at))
  const [flags] = format.stage1Large as [Flags]
  for (let index = 0; index < IDENTITY_BYTES / largest; index++) {
    storeEntry(memory, table + index * 8, index * largest, flags)
  }
  return finish(format, memory, {
    host,
    guestConfig,
    stage1Root: root,
    variant: random.below(0x1_0000),
  })
}

function newMemory(format: NestedFormat): PhysicalMemory {
  const { config, page, ram, ramPages, stage2 } = layoutOf(format)
  // In address order, as copies have it.
  const { ranges } = createMemory([
    { base: config, size: 3 * CONFIG_PAGES * KIB_4 },
    { base: stage2, size: STAGE2_PAGES * page },
    { base: ram, size: ramPages * page },
  ])
  return createMemory(ranges)
}

/** Another memory with the same words. */
export function copyOf({ ranges, words }: PhysicalMemory): PhysicalMemory {
  const copy = createMemory(ranges)
  copy.words.set(words)
  return copy
}

function storeEntry(memory: PhysicalMemory, at: number, address: number, [lo, hi]: Flags): void {
  store(memory, at, (address | lo) >>> 0, hi)
}

/** Each guest page leads to the next, in its first entry. @returns the last */
function stage1Way(
  format: NestedFormat,
  memory: PhysicalMemory,
  pages: readonly number[],
  at: (page: number) => number,
): number {
  for (const [n, next] of pages.slice(1).entries()) {
    storeEntry(memory, at(pages[n] as number), next, format.stage1Table)
  }
  return pages[pages.length - 1] as number
}

/** Tables of stage 2 from the root down, each in the page behind the one that leads to it. @returns the last */
function stage2Way(format: NestedFormat, memory: PhysicalMemory, tables: number): number {
  const { page, stage2 } = layoutOf(format)
  for (let n = 0; n + 1 < tables; n++) {
    const level = format.stage2Levels - 1 - n
    storeEntry(memory, stage2 + n * page, stage2 + (n + 1) * page, format.stage2Table(level))
  }
  return stage2 + (tables - 1) * page
}

interface Regions {
  /** Guest pages that stage 1 may lead to, whatever the rights. */
  readonly guestPages: readonly number[]
  readonly largeEntries: readonly number[]
}

/** Page of stage 2 that holds the last level of a region. */
function lastLevel({ page, stage2 }: Layout, region: number): number {
  return stage2 + (4 + region) * page
}

/** Fills stage 2; `host` gets where it leads. */
function stage2Regions(
  format: NestedFormat,
  memory: PhysicalMemory,
  random: Random,
  host: Map<number, number>,
): Regions {
  const layout = layoutOf(format)
  const { entries, large, page, ram, ramPages } = layout
  const level2 = stage2Way(format, memory, format.stage2Levels - 1)
  if (format.hasHugeLeaves) {
    storeEntry(memory, level2 - page + 8, HUGE_4K, random.pick(format.stage2Large))
  }
  const guestPages: number[] = []
  const largeEntries: number[] = []
  for (let region = 0; region < layout.regions; region++) {
    const isLarge = random.below(3) === 0
    const level1 = lastLevel(layout, region)
    if (isLarge) largeEntries.push(level2 + region * 8)
    if (isLarge) storeEntry(memory, level2 + region * 8, ram, random.pick(format.stage2Large))
    else storeEntry(memory, level2 + region * 8, level1, format.stage2Table(1))
    for (let n = 0; n < PAGES_A_REGION; n++) {
      const index = random.below(isLarge ? ramPages - KEPT : entries)
      const guest = region * large + index * page
      if (host.has(guest)) continue
      const target = isLarge ? ram + index * page : ram + random.below(ramPages - KEPT) * page
      if (!isLarge) storeEntry(memory, level1 + index * 8, target, random.pick(format.stage2Page))
      host.set(guest, target)
      guestPages.push(guest)
    }
  }
  return { guestPages, largeEntries }
}

/** Maps the last pages of guest memory, with all rights, at guest addresses of their own. */
function keptPages(format: NestedFormat, memory: PhysicalMemory, host: Map<number, number>): number[] {
  const layout = layoutOf(format)
  const { large, page, ram, ramPages, regions, stage2 } = layout
  const level1 = lastLevel(layout, regions)
  const level2 = stage2 + (format.stage2Levels - 2) * page
  storeEntry(memory, level2 + regions * 8, level1, format.stage2Table(1))
  const [flags] = format.stage2Page as [Flags]
  return Array.from({ length: KEPT }, (_, n) => {
    const guest = regions * large + n * page
    const target = ram + (ramPages - KEPT + n) * page
    storeEntry(memory, level1 + n * 8, target, flags)
    host.set(guest, target)
    return guest
  })
}

/** Addresses of large leaves of stage 1. */
function largeTargets(format: NestedFormat): readonly number[] {
  const { large } = layoutOf(format)
  return [0, large, 2 * large, 3 * large, ...(format.hasHugeLeaves ? [HUGE_4K] : [])]
}

function fillStage1(
  format: NestedFormat,
  memory: PhysicalMemory,
  random: Random,
  guestPages: readonly number[],
): void {
  const { page, ram, ramPages } = layoutOf(format)
  const targets = largeTargets(format)
  const first = wordAt(memory, ram)
  const last = first + ((ramPages - KEPT) * page) / 4
  for (let word = first; word < last; word += 2) {
    const isLarge = random.below(8) === 0
    const [lo, hi] = random.pick(isLarge ? format.stage1Large : format.stage1Plain)
    memory.words[word] = lo | random.pick(isLarge ? targets : guestPages)
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
  const { config, page, stage2 } = layoutOf(format)
  const guestConfigAt = host.get(guestConfig) as number
  const common = { guestConfig, guestConfigAt, stage1Root, stage2Root: stage2, variant }
  const configBytes = CONFIG_PAGES * KIB_4
  const forNested: Configuration = { ...common, stages: "nested", config }
  const forFirst: Configuration = { ...common, stages: "first", config: config + configBytes }
  const forSecond: Configuration = { ...common, stages: "second", config: config + 2 * configBytes }
  for (const how of [forNested, forFirst, forSecond]) format.configure(memory, how)
  const shadow = copyOf(memory)
  const guestView = shadow.view([
    { base: config, size: 3 * configBytes, at: config },
    ...Array.from(host, ([base, at]): MemoryWindow => ({ base, size: page, at })),
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
    spareStage2Page: stage2 + (STAGE2_PAGES - 1) * page,
  }
}
