/**
 * Neither caches nor a listener to walks show while software changes nothing: answers, faults and flags are those of a
 * model without. A listener wants every step, which a model may take otherwise when nobody looks.
 */
import type { CachePolicies, CachePolicy, IommuModel, PhysicalMemory } from "@iommu/core"
import { assertEqual } from "../assert.ts"
import type { Random } from "../random.ts"
import type { Configuration, NestedFormat } from "./nested-format.ts"
import {
  copyOf,
  identityStage2World,
  inStage2,
  layoutOf,
  type NestedWorld,
  randomWorld,
} from "./nested-world.ts"
import { ask, nextRequest, type Request } from "./requests.ts"

const ALL_ALIKE: readonly CachePolicy[] = ["hoard", "exact"]
/** What shortens walks without answers to whole requests, and these without it. */
const APART: readonly CachePolicies[] = [
  { structures: "exact", walks: "exact", translations: "none" },
  { structures: "none", walks: "none", translations: "hoard" },
  { structures: "exact", walks: "none", translations: "none" },
]
const REQUESTS = 48
/** Few enough for hits, of all kinds of accesses. */
const PLACES = 6

const UNHEARD = (): void => {}

export function cachesDoNotShow(format: NestedFormat, random: Random): void {
  // A first stage alone reads its tables where the guest has them, which is where the host has them here.
  const first = identityStage2World(format, random)
  compare(format, first, "first", random)
  const world = randomWorld(format, random)
  compare(format, world, random.flip() ? "second" : "nested", random)
}

function compare(
  format: NestedFormat,
  world: NestedWorld,
  stages: Configuration["stages"],
  random: Random,
): void {
  const how = world.configurations[stages]
  const plain = side(format, world, how, "none")
  const policies = [...ALL_ALIKE, random.pick(APART)]
  const others = policies.map(policy => side(format, world, how, policy))
  const cached = [...others, traced(format, world, how)]
  const asked: Request = { hi: 0, lo: 0, access: 0 }
  const { large, page } = layoutOf(format)
  const places = Array.from({ length: PLACES }, () => {
    nextRequest(random, format, asked)
    return stages === "second" ? { hi: 0, lo: random.below(4 * large) } : { hi: asked.hi, lo: asked.lo }
  })
  for (let n = 0; n < REQUESTS; n++) {
    nextRequest(random, format, asked)
    const place = random.pick(places)
    asked.hi = place.hi
    asked.lo = (place.lo ^ random.below(4 * page)) >>> 0
    const status = ask(plain.model, format, asked)
    for (const { caches, model } of cached) {
      const what = `${stages}, ${caches}, case ${n}`
      assertEqual(ask(model, format, asked) === 0, status === 0, `${what}: allowed`)
      if (status === 0) assertSame(model, plain.model, what)
      else assertSameFault(model, plain.model, what)
    }
    if (status !== 0) mergeFlags(format, [plain, ...cached])
  }
  for (const { caches, memory } of cached) {
    const { words } = plain.memory
    for (let word = 0; word < words.length; word++) {
      if (words[word] !== memory.words[word]) {
        assertEqual(memory.words[word], words[word], `${stages}, ${caches}: flags in word ${word}`)
      }
    }
  }
}

/** A model and memory of its own. */
function side(
  format: NestedFormat,
  world: NestedWorld,
  how: Configuration,
  policy: CachePolicy | CachePolicies,
) {
  const memory = copyOf(world.memory)
  const caches = typeof policy === "string" ? policy : `${policy.walks} and ${policy.translations}`
  return { memory, caches, model: format.start(memory, how, policy) }
}

/** As a model without caches, which shows what it does. */
function traced(format: NestedFormat, world: NestedWorld, how: Configuration) {
  const watched = { ...side(format, world, how, "none"), caches: "traced" }
  watched.model.trace = UNHEARD
  return watched
}

/** How far a refused transaction got with its flags is the hardware's choice: from here on all got equally far. */
function mergeFlags(format: NestedFormat, sides: readonly { readonly memory: PhysicalMemory }[]): void {
  const [plain, ...others] = sides.map(({ memory }) => memory) as [PhysicalMemory, ...PhysicalMemory[]]
  for (const other of others) {
    for (let word = 0; word < plain.words.length; word += 2) {
      const [a, b] = [plain.words[word] as number, other.words[word] as number]
      if (a === b) continue
      const { clears } = inStage2(format, plain, word) ? format.stage2Updates : format.stage1Updates
      const merged = ((a | b) & ~clears) | (a & b & clears)
      for (const { words } of [plain, ...others]) words[word] = merged
    }
  }
}

function assertSame({ result }: IommuModel, { result: expected }: IommuModel, what: string): void {
  assertEqual(result.paHi, expected.paHi, `${what}: bits 63:32 of the address`)
  assertEqual(result.paLo, expected.paLo, `${what}: bits 31:0 of the address`)
  assertEqual(result.ipaHi, expected.ipaHi, `${what}: bits 63:32 of the intermediate address`)
  assertEqual(result.ipaLo, expected.ipaLo, `${what}: bits 31:0 of the intermediate address`)
  assertEqual(result.allowed, expected.allowed, `${what}: allowed accesses`)
  assertEqual(result.sizeLg2, expected.sizeLg2, `${what}: size`)
  assertEqual(result.stage1SizeLg2, expected.stage1SizeLg2, `${what}: size of stage 1`)
  assertEqual(result.stage2SizeLg2, expected.stage2SizeLg2, `${what}: size of stage 2`)
  assertEqual(result.attributes, expected.attributes, `${what}: attributes`)
}

function assertSameFault({ result }: IommuModel, { result: expected }: IommuModel, what: string): void {
  assertEqual(result.fault?.reason, expected.fault?.reason, `${what}: reason`)
  assertEqual(result.fault?.stage, expected.fault?.stage, `${what}: stage`)
  assertEqual(result.fault?.record?.join(), expected.fault?.record?.join(), `${what}: record`)
}
