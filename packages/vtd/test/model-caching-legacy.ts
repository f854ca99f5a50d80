/**
 * What a remapping unit in legacy mode and caching mode may cache and what drops it, by queue and by register. Intel
 * VT-d 5.10 (D51397-018) §6.1, §6.2, §6.5.1 and §6.5.2, typed as words.
 *
 * Devices of bus 0: 00.0 in domain 5, 01.0 in domain 6, 02.0 without an entry, 03.0 with a reserved bit. Bus 1 has no
 * root entry.
 */
import type { CachedEntry, CachingContract, InvalidationCase, ModelMachine, Step } from "@iommu/conformance"

const ROOT = 0x1000n
const CONTEXT = 0x2000n
const OTHER_CONTEXT = 0x3000n
const QUEUE = 0x5000n
/** Trees of five tables: levels 4 to 1, and a second table of level 1. */
const SECOND = 0x1_0000n
const SECOND_OTHER = 0x1_6000n

const GCMD = 0x18
const RTADDR = 0x20
const CCMD = 0x28
const IQT = 0x88
const IQA = 0x90
/** ECAP.IRO of the model's default, times 16; IOTLB follows IVA. */
const IVA = 0xf0
const IOTLB_REG = 0xf8
const TE = 0x8000_0000
const SRTP = 0x4000_0000
const QIE = 0x400_0000

/** §9.8: R, W. */
const SS = 3n

const level3 = (tree: bigint): bigint => tree + 0x1000n
const level2 = (tree: bigint): bigint => tree + 0x2000n
const level1 = (tree: bigint): bigint => tree + 0x3000n
const otherLevel1 = (tree: bigint): bigint => tree + 0x4000n

function tree(at: bigint, pages: bigint): Step[] {
  return [
    ["store", at, level3(at) | SS],
    ["store", level3(at), level2(at) | SS],
    ["store", level2(at), level1(at) | SS],
    ["store", level1(at) + 0x08n, (pages + 0x1000n) | SS],
    ["store", level1(at) + 0x10n, (pages + 0x2000n) | SS],
    ["store", otherLevel1(at) + 0x10n, (pages + 0x9000n) | SS],
  ]
}

/** §9.3: P, SSPTPTR; AW 2, domain-id. */
const contextEntry = (root: bigint, domain: bigint): readonly [bigint, bigint] => [
  root | 1n,
  2n | (domain << 8n),
]
const at = (device: number): bigint => CONTEXT + BigInt(device) * 16n
const write = (address: bigint, words: readonly bigint[]): [bigint, bigint][] =>
  words.map((word, i) => [address + BigInt(i) * 8n, word])

const stores = (words: readonly (readonly [bigint, bigint])[]): Step[] =>
  words.map(([address, value]) => ["store", address, value] as const)

/** Without a queue: registers invalidate. */
const start: readonly Step[] = [
  ["store", ROOT, CONTEXT | 1n],
  ...stores(write(at(0), contextEntry(SECOND, 5n))),
  ...stores(write(at(8), contextEntry(SECOND_OTHER, 6n))),
  ...stores(write(at(24), [SECOND | 1n | (1n << 4n), 2n | (5n << 8n)])),
  ...stores(write(OTHER_CONTEXT, contextEntry(SECOND, 9n))),
  ...tree(SECOND, 0x100_0000n),
  ...tree(SECOND_OTHER, 0x200_0000n),
  ["write64", RTADDR, ROOT],
  ["write32", GCMD, SRTP],
  ["write32", GCMD, TE],
]

const entry = (
  what: string,
  source: string,
  asked: Pick<CachedEntry, "request" | "change" | "before" | "after"> & Partial<CachedEntry>,
): CachedEntry => ({ what, source, cacheable: true, ...asked })

const page = (iova: bigint, device = 0) => ({ device, iova })

const entries: Readonly<Record<string, CachedEntry>> = {
  context: entry("context-cache: 00:00.0, domain 5", "§6.2.2", {
    request: page(0x1000n),
    change: write(at(0), contextEntry(SECOND_OTHER, 9n)),
    before: 0x100_1000n,
    after: 0x200_1000n,
  }),
  "context, another domain": entry("context-cache: 00:01.0, domain 6", "§6.2.2", {
    request: page(0x1000n, 8),
    change: write(at(8), contextEntry(SECOND, 9n)),
    before: 0x200_1000n,
    after: 0x100_1000n,
  }),
  "context, not present": entry("context-cache: 00:02.0, not present, domain-id 0", "§6.1", {
    request: page(0x1000n, 16),
    change: write(at(16), contextEntry(SECOND, 9n)),
    before: null,
    after: 0x100_1000n,
  }),
  "context, wrong": entry("context-cache: 00:03.0, with a reserved bit, domain-id 0", "§6.1", {
    request: page(0x1000n, 24),
    change: write(at(24), contextEntry(SECOND, 9n)),
    before: null,
    after: 0x100_1000n,
  }),
  "root, not present": entry("context-cache: 01:00.0, no root entry, domain-id 0", "§6.1", {
    request: page(0x1000n, 0x100),
    change: [[ROOT + 16n, OTHER_CONTEXT | 1n]],
    before: null,
    after: 0x100_1000n,
  }),
  second: entry("IOTLB: domain 5, page 0x1000", "§6.2.4", {
    request: page(0x1000n),
    change: [[level1(SECOND) + 0x08n, 0x70_0000n | SS]],
    before: 0x100_1000n,
    after: 0x70_0000n,
  }),
  "second, another domain": entry("IOTLB: domain 6, page 0x1000", "§6.2.4", {
    request: page(0x1000n, 8),
    change: [[level1(SECOND_OTHER) + 0x08n, 0x70_0000n | SS]],
    before: 0x200_1000n,
    after: 0x70_0000n,
  }),
  "second, not present": entry("IOTLB: domain 5, page 0x3000, not present", "§6.1", {
    request: page(0x3000n),
    change: [[level1(SECOND) + 0x18n, 0x70_0000n | SS]],
    before: null,
    after: 0x70_0000n,
  }),
  "second, table": entry("paging-structure cache: domain 5, table of the first 2 MiB", "§6.2.5", {
    primedBy: [page(0x1000n)],
    request: page(0x2000n),
    change: [[level2(SECOND), otherLevel1(SECOND) | SS]],
    before: 0x100_2000n,
    after: 0x100_9000n,
  }),
}

/** §11.4.6.1: ICC, CIRG, FM, SID, DID; 1 global, 2 domain, 3 device. */
const ccmd =
  (granularity: bigint, domain = 0n, source = 0n, mask = 0n) =>
  ({ model: { mmio } }: ModelMachine): void =>
    mmio.write64(CCMD, (1n << 63n) | (granularity << 61n) | (mask << 32n) | (source << 16n) | domain)
/** §11.4.6.2, §11.4.6.3: address, IH and AM; then IVT, IIRG and DID; 1 global, 2 domain, 3 page. */
const iotlb =
  (granularity: bigint, domain = 0n, address = 0n) =>
  ({ model: { mmio } }: ModelMachine): void => {
    mmio.write64(IVA, address)
    mmio.write64(IOTLB_REG, (1n << 63n) | (granularity << 60n) | (domain << 32n))
  }
/** Turns the queue on, with descriptors of 128 bits, and hands it one. */
const queued =
  (low: bigint, high = 0n) =>
  ({ memory, model: { mmio } }: ModelMachine): void => {
    memory.write64(QUEUE, low)
    memory.write64(QUEUE + 8n, high)
    mmio.write64(IQA, QUEUE)
    mmio.write32(GCMD, QIE + TE)
    mmio.write64(IQT, 0x10n)
  }
const IH = 1n << 6n

const FAULTS = ["context, not present", "context, wrong", "root, not present"]
const CONTEXTS = ["context", "context, another domain", ...FAULTS]
const DOMAIN_5 = ["second", "second, not present", "second, table"]
const TRANSLATIONS = [...DOMAIN_5, "second, another domain"]

/** By register and by queue: the same granularities. */
function bothWays(
  name: string,
  drops: readonly string[],
  register: InvalidationCase["issue"],
  queue: InvalidationCase["issue"],
): InvalidationCase[] {
  return [
    { name: `${name}, by register`, source: "§6.5.1", issue: register, drops },
    { name: `${name}, by queue`, source: "§6.5.2", issue: queue, drops },
  ]
}
const context = (
  granularity: bigint,
  domain: bigint,
  source: bigint,
  mask: bigint,
): InvalidationCase["issue"] =>
  queued(1n | (granularity << 4n) | (domain << 16n) | (source << 32n) | (mask << 48n))
const translations = (granularity: bigint, domain = 0n, address = 0n): InvalidationCase["issue"] =>
  queued(2n | (granularity << 4n) | (domain << 16n), address)

export const cachingModeLegacy: CachingContract = {
  start,
  entries,
  commands: [
    ...bothWays("contexts, global", CONTEXTS, ccmd(1n), context(1n, 0n, 0n, 0n)),
    ...bothWays("contexts of domain 5", ["context"], ccmd(2n, 5n), context(2n, 5n, 0n, 0n)),
    ...bothWays("contexts of domain 6", ["context, another domain"], ccmd(2n, 6n), context(2n, 6n, 0n, 0n)),
    ...bothWays("contexts of domain 0", FAULTS, ccmd(2n), context(2n, 0n, 0n, 0n)),
    ...bothWays("context of 00:00.0, domain 5", ["context"], ccmd(3n, 5n, 0n), context(3n, 5n, 0n, 0n)),
    ...bothWays("context of 00:00.0, domain 6", [], ccmd(3n, 6n, 0n), context(3n, 6n, 0n, 0n)),
    ...bothWays(
      "context of 00:02.0, domain 0",
      ["context, not present"],
      ccmd(3n, 0n, 16n),
      context(3n, 0n, 16n, 0n),
    ),
    ...bothWays(
      "context of 00:03.7, mask 3",
      ["context, wrong"],
      ccmd(3n, 0n, 31n, 3n),
      context(3n, 0n, 31n, 3n),
    ),
    ...bothWays(
      "context of 01:00.0",
      ["root, not present"],
      ccmd(3n, 0n, 0x100n),
      context(3n, 0n, 0x100n, 0n),
    ),
    ...bothWays("IOTLB, global", TRANSLATIONS, iotlb(1n), translations(1n)),
    ...bothWays("IOTLB, domain 5", DOMAIN_5, iotlb(2n, 5n), translations(2n, 5n)),
    ...bothWays("IOTLB, domain 6", ["second, another domain"], iotlb(2n, 6n), translations(2n, 6n)),
    ...bothWays("IOTLB, domain 0", [], iotlb(2n), translations(2n)),
    ...bothWays(
      "IOTLB, page 0x1000 of domain 5",
      ["second", "second, table"],
      iotlb(3n, 5n, 0x1000n),
      translations(3n, 5n, 0x1000n),
    ),
    ...bothWays(
      "IOTLB, page 0x3000 of domain 5, IH",
      ["second, not present"],
      iotlb(3n, 5n, 0x3000n | IH),
      translations(3n, 5n, 0x3000n | IH),
    ),
  ],
  liveUpdates: [
    {
      name: "a device comes, in caching mode",
      source: "§6.1",
      request: page(0x1000n, 16),
      before: null,
      after: 0x100_1000n,
      sequence: [
        {
          what: "the entry",
          kind: "change",
          run: ({ memory }) => {
            for (const [address, word] of write(at(16), contextEntry(SECOND, 9n)))
              memory.write64(address, word)
          },
        },
        { what: "the context-cache's invalidation", kind: "invalidate", run: ccmd(3n, 0n, 16n) },
      ],
    },
  ],
}
