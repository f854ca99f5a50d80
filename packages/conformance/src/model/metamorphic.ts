/**
 * Relations between runs that hold whatever the tables are: two stages are the second after the first, an identity
 * stage drops out, a split page changes nothing but sizes, flags only grow.
 */
import { ACCESS_READ, ACCESS_WRITE, type IommuModel, lo32, NO_PASID } from "@iommu/core"
import { assertEqual, assertTrue } from "../assert.ts"
import { Random } from "../random.ts"
import type { TestRunner } from "../target.ts"
import type { NestedFormat } from "./nested-format.ts"
import {
  identityStage1World,
  identityStage2World,
  inStage2,
  LEAF_INDEX,
  largeLeafWorld,
  layoutOf,
  type NestedWorld,
  randomWorld,
  wordAt,
} from "./nested-world.ts"
import { ask, nextRequest, PLAIN_ACCESSES, READ_WRITE, type Request } from "./requests.ts"
import { cachesDoNotShow } from "./transparency.ts"

export interface MetamorphicOptions {
  readonly seed: number
  /** Transactions for the composition of stages; the other relations get fewer. */
  readonly cases: number
}

const CASES_A_WORLD = 64
/** Defines the relations for one vendor in the given runner. Failures name the seed of their world. */
export function defineMetamorphic(
  { describe, it }: TestRunner,
  format: NestedFormat,
  options: MetamorphicOptions,
): void {
  const fifth = options.cases / 5
  describe(`${format.name}: relations between stages`, () => {
    it(`${options.cases} transactions: two stages are the second after the first`, () => {
      const seen = { allowed: 0, byFirst: 0, bySecond: 0 }
      eachWorld(options.cases, options.seed, random => composes(format, random, seen))
      for (const [what, count] of Object.entries(seen)) {
        assertTrue(count > options.cases / 50, `too few ${what}: ${JSON.stringify(seen)}`)
      }
    })
    it(`${fifth} transactions: an identity second stage drops out`, () => {
      eachWorld(fifth, options.seed + 1, random => secondDropsOut(format, random))
    })
    it(`${fifth} transactions: an identity first stage drops out`, () => {
      eachWorld(fifth, options.seed + 2, random => firstDropsOut(format, random))
    })
    it(`${fifth / 2} transactions: caches change nothing while tables stay`, () => {
      eachWorld(fifth / 2, options.seed + 4, random => cachesDoNotShow(format, random))
    })
    it(`${fifth} transactions: splitting a large page changes nothing but sizes`, () => {
      let splits = 0
      eachWorld(fifth, options.seed + 3, random => {
        splits += splitsChangeSizesAlone(format, random)
      })
      assertTrue(splits > fifth / CASES_A_WORLD / 2, `too few splits: ${splits}`)
    })
  })
}

function eachWorld(cases: number, seed: number, run: (random: Random) => void): void {
  for (let world = 0; world * CASES_A_WORLD < cases; world++) {
    const worldSeed = Math.imul(seed + world, 0x9e37_79b1)
    try {
      run(new Random(worldSeed))
    } catch (error) {
      throw new Error(`world with seed ${worldSeed}: ${error instanceof Error ? error.message : error}`, {
        cause: error,
      })
    }
  }
}

interface Seen {
  allowed: number
  byFirst: number
  bySecond: number
}

function composes(format: NestedFormat, random: Random, seen: Seen): void {
  const world = randomWorld(format, random)
  const before = world.memory.words.slice()
  const asked: Request = { hi: 0, lo: 0, access: 0 }
  for (let n = 0; n < CASES_A_WORLD; n++) {
    nextRequest(random, format, asked)
    const blamed = throughBoth(format, world, asked)
    const status = ask(world.nested, format, asked)
    if (status !== 0) {
      assertTrue(blamed !== null, `case ${n}: allowed by single stages, refused: ${faultOf(world.nested)}`)
      assertEqual(world.nested.result.fault?.stage, blamed, `case ${n}: stage of ${faultOf(world.nested)}`)
      // How far a refused transaction got with its flags is the hardware's choice.
      world.shadow.words.set(world.memory.words)
      if (blamed === 2) seen.bySecond++
      else seen.byFirst++
    } else {
      assertEqual(blamed, null, `case ${n}: allowed, stage that refuses`)
      assertSameAnswer(world, `case ${n}`)
      seen.allowed++
    }
  }
  assertSameWords(world, "flags after all cases")
  assertMonotone(format, world, before)
}

/**
 * First stage, then the second for each table that the first read, for each entry that it updated, and for where it
 * led. @returns the stage that refuses, null when none does
 */
function throughBoth(format: NestedFormat, world: NestedWorld, asked: Request): 0 | 1 | 2 | null {
  const { first, second } = world
  if (format.readsGuestConfig && !canFetch(format, world, world.guestConfig)) return 2
  const fetches: number[] = []
  first.trace = step => {
    if (step.stage === 1) fetches.push(lo32(step.table) + step.index * 8)
  }
  const status = ask(first, format, asked)
  first.trace = null
  for (const fetch of fetches) if (!canFetch(format, world, fetch)) return 2
  // Some hardware sets flags on its way, so even of a walk that ends in a fault.
  for (const fetch of fetches) {
    const at = wordAt(world.guestView, fetch)
    const updated = world.guestView.words[at] !== world.memory.words[at]
    if (updated && !passesSecond(format, world, fetch, ACCESS_WRITE)) return 2
  }
  if (status !== 0) return first.result.fault?.stage ?? null
  const { paHi, paLo } = first.result
  return second.translate(format.device, NO_PASID, paHi, paLo, asked.access) === 0 ? null : 2
}

function canFetch(format: NestedFormat, world: NestedWorld, address: number): boolean {
  if (!passesSecond(format, world, address, ACCESS_READ)) return false
  const needed = format.fetchNeeds(world.variant)
  return (world.second.result.allowed & needed) === needed
}

function passesSecond(
  format: NestedFormat,
  { second }: NestedWorld,
  address: number,
  access: number,
): boolean {
  return second.translate(format.device, NO_PASID, 0, address, access) === 0
}

function assertSameAnswer({ nested, first, second }: NestedWorld, what: string): void {
  const { result } = nested
  assertEqual(result.paHi, second.result.paHi, `${what}: bits 63:32 of the address`)
  assertEqual(result.paLo, second.result.paLo, `${what}: bits 31:0 of the address`)
  assertEqual(result.ipaHi, first.result.paHi, `${what}: bits 63:32 of the intermediate address`)
  assertEqual(result.ipaLo, first.result.paLo, `${what}: bits 31:0 of the intermediate address`)
  assertEqual(result.stage1SizeLg2, first.result.stage1SizeLg2, `${what}: size of the first stage`)
  assertEqual(result.stage2SizeLg2, second.result.stage2SizeLg2, `${what}: size of the second stage`)
  const smaller = Math.min(first.result.sizeLg2, second.result.sizeLg2)
  assertEqual(result.sizeLg2, smaller, `${what}: size`)
  const allowed = first.result.allowed & second.result.allowed & READ_WRITE
  assertEqual(result.allowed & READ_WRITE, allowed, `${what}: allowed`)
}

function assertSameWords({ memory, shadow }: NestedWorld, what: string): void {
  for (let word = 0; word < memory.words.length; word++) {
    if (memory.words[word] !== shadow.words[word]) assertEqual(memory.words[word], shadow.words[word], what)
  }
}

function assertMonotone(format: NestedFormat, { memory }: NestedWorld, before: Uint32Array): void {
  for (let word = 0; word < before.length; word++) {
    const old = before[word] as number
    const now = memory.words[word] as number
    if (old === now) continue
    const isLow = (word & 1) === 0
    const { sets, clears } = inStage2(format, memory, word) ? format.stage2Updates : format.stage1Updates
    const gained = now & ~old
    const lost = old & ~now
    assertTrue(
      isLow && (gained & ~sets) === 0 && (lost & ~clears) === 0,
      `word ${word}: ${old} became ${now}`,
    )
  }
}

function secondDropsOut(format: NestedFormat, random: Random): void {
  const world = identityStage2World(format, random)
  const asked: Request = { hi: 0, lo: 0, access: 0 }
  for (let n = 0; n < CASES_A_WORLD; n++) {
    nextRequest(random, format, asked)
    sameStatus(format, world, world.first, asked, `case ${n}`)
    const { result } = world.nested
    if (result.fault !== null) world.shadow.words.set(world.memory.words)
    else assertEqual(result.stage1SizeLg2, world.first.result.stage1SizeLg2, `case ${n}: size`)
  }
}

function firstDropsOut(format: NestedFormat, random: Random): void {
  const world = identityStage1World(format, random)
  const { large, regions } = layoutOf(format)
  const asked: Request = { hi: 0, lo: 0, access: 0 }
  for (let n = 0; n < CASES_A_WORLD; n++) {
    asked.lo = random.below(random.flip() ? (regions + 1) * large : 0x8000_0000)
    asked.access = random.pick(PLAIN_ACCESSES)
    sameStatus(format, world, world.second, asked, `case ${n}`)
    const { result } = world.nested
    if (result.fault !== null) world.shadow.words.set(world.memory.words)
    else assertEqual(result.stage2SizeLg2, world.second.result.stage2SizeLg2, `case ${n}: size`)
  }
}

/** The nested model and one of the single ones give the same answer, or refuse for the same stage. */
function sameStatus(
  format: NestedFormat,
  { nested }: NestedWorld,
  single: IommuModel,
  asked: Request,
  what: string,
): void {
  const expected = ask(single, format, asked) === 0
  const allowed = ask(nested, format, asked) === 0
  assertEqual(allowed, expected, `${what}: allowed (${faultOf(nested)}, alone ${faultOf(single)})`)
  if (!allowed) {
    assertEqual(
      nested.result.fault?.stage,
      single.result.fault?.stage,
      `${what}: stage of ${faultOf(nested)}`,
    )
    return
  }
  assertEqual(nested.result.paHi, single.result.paHi, `${what}: bits 63:32 of the address`)
  assertEqual(nested.result.paLo, single.result.paLo, `${what}: bits 31:0 of the address`)
  assertEqual(nested.result.allowed & READ_WRITE, single.result.allowed & READ_WRITE, `${what}: allowed`)
}

/** @returns how many large pages were split */
function splitsChangeSizesAlone(format: NestedFormat, random: Random): number {
  const seed = random.below(0x1_0000_0000)
  const whole = largeLeafWorld(format, new Random(seed))
  const split = largeLeafWorld(format, new Random(seed))
  const isFirst = random.flip()
  const { large } = layoutOf(format)
  const splits = isFirst ? splitStage1(format, split) : splitStage2(format, split)
  const asked: Request = { hi: 0, lo: 0, access: 0 }
  for (let n = 0; n < CASES_A_WORLD; n++) {
    nextRequest(random, format, asked)
    if (random.flip()) {
      asked.hi = 0
      asked.lo = LEAF_INDEX * large + random.below(large)
    }
    sameButSizes(format, whole.nested, split.nested, asked, `case ${n}`)
  }
  return splits
}

function sameButSizes(
  format: NestedFormat,
  whole: IommuModel,
  split: IommuModel,
  asked: Request,
  what: string,
): void {
  const expected = ask(whole, format, asked) === 0
  const allowed = ask(split, format, asked) === 0
  assertEqual(allowed, expected, `${what}: allowed (${faultOf(split)}, whole ${faultOf(whole)})`)
  if (!allowed) {
    assertEqual(faultOf(split), faultOf(whole), `${what}: fault`)
    return
  }
  assertEqual(split.result.paHi, whole.result.paHi, `${what}: bits 63:32 of the address`)
  assertEqual(split.result.paLo, whole.result.paLo, `${what}: bits 31:0 of the address`)
  assertEqual(split.result.allowed, whole.result.allowed, `${what}: allowed`)
  assertTrue(split.result.sizeLg2 <= whole.result.sizeLg2, `${what}: no page grew`)
}

function splitStage1(format: NestedFormat, split: NestedWorld): number {
  const { guestView, spareGuestPages, stage1LeafTable } = split
  const [spare] = spareGuestPages as [number]
  const word = wordAt(guestView, stage1LeafTable + LEAF_INDEX * 8)
  splitLeaf(format, split, word, wordAt(guestView, spare), format.stage1Small)
  const [lo, hi] = format.stage1Table
  split.memory.words[word] = spare | lo
  split.memory.words[word + 1] = hi
  return 1
}

/** @returns how many leaves were split */
function splitStage2(format: NestedFormat, split: NestedWorld): number {
  const { memory, spareStage2Page } = split
  const [entry] = split.largeStage2Entries
  if (entry === undefined) return 0
  const word = wordAt(memory, entry)
  splitLeaf(format, split, word, wordAt(memory, spareStage2Page), format.stage2Small)
  const [lo, hi] = format.stage2Table(1)
  memory.words[word] = spareStage2Page | lo
  memory.words[word + 1] = hi
  return 1
}

/** Fills a table with what a large leaf says. */
function splitLeaf(
  format: NestedFormat,
  { memory }: NestedWorld,
  leaf: number,
  table: number,
  small: (largeLo: number) => number,
): void {
  const lo = small(memory.words[leaf] as number)
  const hi = memory.words[leaf + 1] as number
  const { entries, page } = layoutOf(format)
  for (let index = 0; index < entries; index++) {
    memory.words[table + 2 * index] = lo | (index * page)
    memory.words[table + 2 * index + 1] = hi
  }
}

function faultOf({ result }: IommuModel): string {
  return result.fault === null ? "no fault" : `${result.fault.reason} of stage ${result.fault.stage}`
}
