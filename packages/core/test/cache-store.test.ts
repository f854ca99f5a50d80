import { type CachePolicy, CacheStore, cachePolicies } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"

const store = (policy: CachePolicy): CacheStore => new CacheStore({ policy, sets: 4, ways: 2, dataWords: 2 })
const key = fc.tuple(fc.integer({ min: -2, max: 2 }), fc.nat(3), fc.nat(3), fc.nat(2))

describe("cache store", () => {
  it("hoards what a Map keeps, and drops what a predicate names", () => {
    const steps = fc.array(fc.oneof(key, fc.nat(3)), { maxLength: 200 })
    fc.assert(
      fc.property(steps, play => {
        const cache = store("hoard")
        const model = new Map<string, number>()
        play.forEach((step, n) => {
          if (typeof step === "number") {
            cache.dropWhere((_k0, k1) => k1 === step)
            for (const name of model.keys()) if (name.split(",")[1] === String(step)) model.delete(name)
            return
          }
          put(cache, step, n)
          model.set(step.join(), n)
        })
        expect(cache.size).toBe(model.size)
        for (const [name, value] of model) {
          const [k0, k1, k2, k3] = name.split(",").map(Number) as [number, number, number, number]
          expect(cache.words[cache.find(k0, k1, k2, k3)]).toBe(value)
        }
      }),
      { seed: 5 },
    )
  })

  it("hoards keys that collide on purpose, in memory that grows with their number", () => {
    const cache = new CacheStore({ policy: "hoard", sets: 64, ways: 4, dataWords: 1 })
    // k0 goes into the hash as it is: multiples of 2^27 agree in all bits that choose a set.
    const keys = Array.from(
      { length: 2000 },
      (_, n) => [(n % 32) << 27, 0, 0, 0x5b3c_8000 * (n >> 5)] as const,
    )
    keys.forEach((key, n) => {
      put(cache, [key[0], key[1], key[2], key[3] | 0], n)
    })
    const distinct = new Set(keys.map(([k0, , , k3]) => `${k0 | 0},${k3 | 0}`)).size
    expect(cache.size).toBe(distinct)
    for (const [k0, k1, k2, k3] of keys) expect(cache.find(k0, k1, k2, k3 | 0)).toBeGreaterThanOrEqual(0)
    expect(cache.words.length).toBeLessThan(distinct * 6 * 64)
  })

  it("holds no more than sets times ways under exact, and always the newest", () => {
    const cache = store("exact")
    for (let page = 0; page < 1000; page++) {
      put(cache, [1, page, 0, 0], page)
      expect(cache.words[cache.find(1, page, 0, 0)]).toBe(page)
      expect(cache.size).toBeLessThanOrEqual(8)
    }
  })

  it("keeps nothing under none", () => {
    const cache = store("none")
    put(cache, [0, 0, 0, 0], 7)
    expect(cache.find(0, 0, 0, 0)).toBe(-1)
    expect(cache.size).toBe(0)
    cache.dropWhere(() => true)
    cache.clear()
  })

  it("drops the record of one key and no other", () => {
    const cache = store("hoard")
    for (let page = 0; page < 20; page++) put(cache, [page, 0, 0, 0], page)
    cache.drop(7, 0, 0, 0)
    cache.drop(99, 0, 0, 0)
    expect(cache.size).toBe(19)
    for (let page = 0; page < 20; page++) expect(cache.find(page, 0, 0, 0) < 0).toBe(page === 7)
  })

  it("forgets everything when cleared", () => {
    const cache = store("hoard")
    for (let page = 0; page < 100; page++) cache.insert(page, 0, 0, 0)
    expect(cache.size).toBe(100)
    cache.clear()
    expect(cache.size).toBe(0)
    for (let page = 0; page < 100; page++) expect(cache.find(page, 0, 0, 0)).toBe(-1)
  })

  it("refuses shapes that are none", () => {
    expect(() => new CacheStore({ policy: "exact", sets: 3, ways: 2, dataWords: 1 })).toThrow(/bug/)
    expect(() => new CacheStore({ policy: "exact", sets: 4, ways: 0, dataWords: 1 })).toThrow(/bug/)
  })
})

describe("cache policies", () => {
  const policies = ["exact", "hoard", "none"] as const

  it("are one for all, exact where nothing is said", () => {
    for (const one of policies) {
      const all = { structures: one, walks: one, translations: one, stage2Pages: one }
      expect(cachePolicies(one)).toEqual(all)
    }
    expect(cachePolicies()).toEqual(cachePolicies("exact"))
  })

  it("are those of translations for walks, where they are left out", () => {
    for (const translations of policies) {
      const { walks, stage2Pages } = cachePolicies({ structures: "exact", translations })
      expect([walks, stage2Pages]).toEqual([translations, translations])
    }
  })

  it("keep of stage 2 pages the more that either kind keeps", () => {
    const more = (walks: CachePolicy, translations: CachePolicy): CachePolicy =>
      cachePolicies({ structures: "none", walks, translations }).stage2Pages
    for (const other of policies) {
      expect([more("hoard", other), more(other, "hoard")]).toEqual(["hoard", "hoard"])
      expect([more("none", other), more(other, "none")]).toEqual([other, other])
    }
    expect(more("exact", "exact")).toBe("exact")
  })
})

function put(cache: CacheStore, [k0, k1, k2, k3]: [number, number, number, number], value: number): void {
  const at = cache.insert(k0, k1, k2, k3)
  cache.words[at] = value
}
