/**
 * Tables and descriptors that the caching contracts of both modes are made of, typed as words. Intel VT-d 5.10
 * (D51397-018) §6.5.2 (descriptors), §9.8 (second-stage entries).
 */
import type { Step } from "@iommu/conformance"

export const QUEUE = 0x5000n
/** Root of a tree of second-stage tables. */
export const SECOND = 0x1_0000n

export const IQT = 0x88
export const IQA = 0x90
export const QIE = 0x400_0000

/** §9.8: R, W. */
export const SS = 3n

const level3 = (tree: bigint): bigint => tree + 0x1000n
export const level2 = (tree: bigint): bigint => tree + 0x2000n
export const level1 = (tree: bigint): bigint => tree + 0x3000n
export const otherLevel1 = (tree: bigint): bigint => tree + 0x4000n

/**
 * Tables of levels 4 to 1 and a second table of level 1. Pages 0x1000, 0x2000 and 0x5000 at `pages` + their address; the
 * other table of level 1 has 0x2000 elsewhere.
 */
export function tree(at: bigint, flags: bigint, pages: bigint): Step[] {
  return [
    ["store", at, level3(at) | flags],
    ["store", level3(at), level2(at) | flags],
    ["store", level2(at), level1(at) | flags],
    ["store", level1(at) + 0x08n, (pages + 0x1000n) | flags],
    ["store", level1(at) + 0x10n, (pages + 0x2000n) | flags],
    ["store", level1(at) + 0x28n, (pages + 0x5000n) | flags],
    ["store", otherLevel1(at) + 0x10n, (pages + 0x9000n) | flags],
  ]
}

export const wordsAt = (address: bigint, words: readonly bigint[]): [bigint, bigint][] =>
  words.map((word, i) => [address + BigInt(i) * 8n, word])

export const stores = (words: readonly (readonly [bigint, bigint])[]): Step[] =>
  words.map(([address, value]) => ["store", address, value] as const)

/** Granularities of the context-cache: 1 global, 2 domain, 3 device. §6.5.2.1. */
export const contextCache = (granularity: bigint, domain: bigint, source: bigint, mask: bigint): bigint[] => [
  1n | (granularity << 4n) | (domain << 16n) | (source << 32n) | (mask << 48n),
]

/** Of the IOTLB: 1 global, 2 domain, 3 page. §6.5.2.3. */
export const iotlb = (granularity: bigint, domain: bigint, address = 0n, mask = 0n, hint = 0n): bigint[] => [
  2n | (granularity << 4n) | (domain << 16n),
  address | mask | (hint << 6n),
]
