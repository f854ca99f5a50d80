/** What a program, its devices and its memory do to address spaces, as plain data: a failing list of them shrinks. */
import fc from "fast-check"

/** IOVAs, user addresses and lengths are multiples of half a page. */
export const UNIT = 2048

const ioas = fc.nat(1)
const unit = fc.nat(40)
const length = fc.oneof(
  { weight: 1, arbitrary: fc.constant(0) },
  { weight: 12, arbitrary: fc.integer({ min: 1, max: 14 }) },
)
/** Most areas are whole pages, so that more steps succeed. */
const evenUnit = fc.oneof(
  { weight: 4, arbitrary: fc.nat(20).map(n => 2 * n) },
  { weight: 1, arbitrary: unit },
)
const evenLength = fc.oneof(
  { weight: 4, arbitrary: fc.integer({ min: 1, max: 6 }).map(n => 2 * n) },
  { weight: 1, arbitrary: length },
)
const place = fc.option(evenUnit, { freq: 2 })
/** What a range is about: any IOVAs, part of an area that is there, or all of one. */
const aim = fc.constantFrom("anywhere" as const, "inside" as const, "inside" as const, "whole" as const)
const area = fc.nat(3)
/** Calls of map after which a domain has no memory left: mostly it has. */
const budget = fc.oneof({ weight: 6, arbitrary: fc.constant(1000) }, { weight: 1, arbitrary: fc.nat(6) })
const access = fc.constantFrom("rw" as const, "rw" as const, "r" as const, "w" as const)
const use = fc.constantFrom("read" as const, "write" as const)

const kinds = {
  map: { ioas, at: evenUnit, length: evenLength, iova: place, access },
  mapFile: { ioas, file: fc.nat(2), at: evenUnit, length: evenLength, iova: place, access },
  copy: { ioas, source: ioas, aim, area, at: evenUnit, length: evenLength, iova: place, access },
  unmap: { ioas, aim, area, at: evenUnit, length: fc.oneof(evenLength, fc.integer({ min: 10, max: 60 })) },
  unmapAll: { ioas },
  addDomain: { ioas, kind: fc.nat(3), budget },
  starve: { ioas, index: fc.nat(2), budget },
  removeDomain: { ioas, index: fc.nat(2) },
  reserve: { ioas, owner: fc.nat(1), at: unit, length: fc.integer({ min: 1, max: 4 }) },
  unreserve: { ioas, owner: fc.nat(1) },
  allow: { ioas, ranges: fc.array(fc.record({ at: unit, length: fc.nat(16) }), { maxLength: 2 }) },
  hugePages: { ioas, uses: fc.boolean() },
  addAccess: { ioas },
  removeAccess: { ioas },
  pin: { ioas, aim, area, at: evenUnit, length: evenLength, use },
  queue: { ioas, aim, area, at: evenUnit, length: evenLength },
  release: { index: fc.nat(3) },
  cut: { ioas, aim, area, at: unit, length },
  remap: {
    page: fc.nat(23),
    to: fc.constantFrom("missing" as const, "read-only" as const, "read-write" as const),
    frame: fc.nat(63),
  },
  revoke: {},
}

/** How often each is drawn. */
const WEIGHTS: Record<keyof typeof kinds, number> = {
  map: 16,
  mapFile: 4,
  copy: 7,
  unmap: 4,
  unmapAll: 1,
  addDomain: 5,
  starve: 1,
  removeDomain: 2,
  reserve: 2,
  unreserve: 1,
  allow: 1,
  hugePages: 1,
  addAccess: 1,
  removeAccess: 1,
  pin: 4,
  queue: 2,
  release: 2,
  cut: 2,
  remap: 3,
  revoke: 1,
}

type Values<R> = { [K in keyof R]: R[K] extends fc.Arbitrary<infer V> ? V : never }
export type Step = {
  [K in keyof typeof kinds]: { readonly step: K } & Readonly<Values<(typeof kinds)[K]>>
}[keyof typeof kinds]

function arbitraryOf(name: keyof typeof kinds): fc.Arbitrary<Step> {
  return fc.record({ step: fc.constant(name), ...kinds[name] }) as unknown as fc.Arbitrary<Step>
}

const names = Object.keys(kinds) as (keyof typeof kinds)[]

/** One play: the limit of locked pages, and what happens. */
export const play: fc.Arbitrary<{ readonly limit: number; readonly steps: readonly Step[] }> = fc.record({
  limit: fc.constantFrom(1000, 1000, 5, 12),
  steps: fc.array(fc.oneof(...names.map(name => ({ weight: WEIGHTS[name], arbitrary: arbitraryOf(name) }))), {
    maxLength: 30,
    size: "max",
  }),
})

type AimedStep = Extract<Step, { readonly aim: unknown }>

/** The step with its range moved to where areas are. */
export function aimed(
  step: Step,
  areasOf: (step: AimedStep) => readonly { readonly start: number; readonly last: number }[],
): Step {
  if (!("aim" in step) || step.aim === "anywhere") return step
  const areas = areasOf(step)
  const area = areas[step.area % areas.length]
  if (area === undefined) return step
  const start = area.start / UNIT
  const units = (area.last + 1) / UNIT - start
  if (step.aim === "whole") return { ...step, at: start, length: units }
  return { ...step, at: start + (step.at % units) }
}
