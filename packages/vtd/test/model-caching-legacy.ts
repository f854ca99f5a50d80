/**
 * What a remapping unit in legacy mode and caching mode may cache and what drops it, by queue and by register. Intel
 * VT-d 5.10 (D51397-018) §6.1, §6.2, §6.5.1 and §6.5.2, typed as words.
 *
 * Devices of bus 0: 00.0 in domain 5, 01.0 in domain 6, 02.0 without an entry, 03.0 with a reserved bit. Bus 1 has no
 * root entry.
 */
import {
  type CachedEntry,
  type CachingContract,
  cachedEntry,
  type InvalidationCase,
  type ModelMachine,
  type Step,
} from "@iommu/conformance"
import {
  contextCache,
  IQA,
  IQT,
  iotlb,
  level1,
  level2,
  otherLevel1,
  QIE,
  QUEUE,
  SECOND,
  SS,
  stores,
  tree,
  wordsAt,
} from "./caching-tables.ts"
import { CONTEXT, GCMD, ROOT, RTADDR, SRTP, TE } from "./unit.ts"

const OTHER_CONTEXT = 0x3000n
const SECOND_OTHER = 0x1_6000n

const CCMD = 0x28
/** ECAP.IRO of the model's default, times 16; IOTLB follows IVA. */
const IVA = 0xf0
const IOTLB_REG = 0xf8

/** §9.3: P, SSPTPTR; AW 2, domain-id. */
const contextEntry = (root: bigint, domain: bigint): readonly [bigint, bigint] => [
  root | 1n,
  2n | (domain << 8n),
]
const at = (device: number): bigint => CONTEXT + BigInt(device) * 16n

/** Without a queue: registers invalidate. */
const start: readonly Step[] = [
  ["store", ROOT, CONTEXT | 1n],
  ...stores(wordsAt(at(0), contextEntry(SECOND, 5n))),
  ...stores(wordsAt(at(8), contextEntry(SECOND_OTHER, 6n))),
  ...stores(wordsAt(at(24), [SECOND | 1n | (1n << 4n), 2n | (5n << 8n)])),
  ...stores(wordsAt(OTHER_CONTEXT, contextEntry(SECOND, 9n))),
  ...tree(SECOND, SS, 0x100_0000n),
  ...tree(SECOND_OTHER, SS, 0x200_0000n),
  ["write64", RTADDR, ROOT],
  ["write32", GCMD, SRTP],
  ["write32", GCMD, TE],
]

const page = (iova: bigint, device = 0) => ({ device, iova })

const entries: Readonly<Record<string, CachedEntry>> = {
  context: cachedEntry("context-cache: 00:00.0, domain 5", "§6.2.2", {
    request: page(0x1000n),
    change: wordsAt(at(0), contextEntry(SECOND_OTHER, 9n)),
    before: 0x100_1000n,
    after: 0x200_1000n,
  }),
  "context, another domain": cachedEntry("context-cache: 00:01.0, domain 6", "§6.2.2", {
    request: page(0x1000n, 8),
    change: wordsAt(at(8), contextEntry(SECOND, 9n)),
    before: 0x200_1000n,
    after: 0x100_1000n,
  }),
  "context, not present": cachedEntry("context-cache: 00:02.0, not present, domain-id 0", "§6.1", {
    request: page(0x1000n, 16),
    change: wordsAt(at(16), contextEntry(SECOND, 9n)),
    before: null,
    after: 0x100_1000n,
  }),
  "context, wrong": cachedEntry("context-cache: 00:03.0, with a reserved bit, domain-id 0", "§6.1", {
    request: page(0x1000n, 24),
    change: wordsAt(at(24), contextEntry(SECOND, 9n)),
    before: null,
    after: 0x100_1000n,
  }),
  "root, not present": cachedEntry("context-cache: 01:00.0, no root entry, domain-id 0", "§6.1", {
    request: page(0x1000n, 0x100),
    change: [[ROOT + 16n, OTHER_CONTEXT | 1n]],
    before: null,
    after: 0x100_1000n,
  }),
  second: cachedEntry("IOTLB: domain 5, page 0x1000", "§6.2.4", {
    request: page(0x1000n),
    change: [[level1(SECOND) + 0x08n, 0x70_0000n | SS]],
    before: 0x100_1000n,
    after: 0x70_0000n,
  }),
  "second, another domain": cachedEntry("IOTLB: domain 6, page 0x1000", "§6.2.4", {
    request: page(0x1000n, 8),
    change: [[level1(SECOND_OTHER) + 0x08n, 0x70_0000n | SS]],
    before: 0x200_1000n,
    after: 0x70_0000n,
  }),
  "second, not present": cachedEntry("IOTLB: domain 5, page 0x3000, not present", "§6.1", {
    request: page(0x3000n),
    change: [[level1(SECOND) + 0x18n, 0x70_0000n | SS]],
    before: null,
    after: 0x70_0000n,
  }),
  "second, table": cachedEntry("paging-structure cache: domain 5, table of the first 2 MiB", "§6.2.5", {
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
const iotlbRegister =
  (granularity: bigint, domain = 0n, address = 0n) =>
  ({ model: { mmio } }: ModelMachine): void => {
    mmio.write64(IVA, address)
    mmio.write64(IOTLB_REG, (1n << 63n) | (granularity << 60n) | (domain << 32n))
  }
/** Turns the queue on, with descriptors of 128 bits, and hands it one. */
const queued =
  (words: readonly bigint[]) =>
  ({ memory, model: { mmio } }: ModelMachine): void => {
    for (const [address, word] of wordsAt(QUEUE, words)) memory.write64(address, word)
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
const context = (...about: Parameters<typeof contextCache>): InvalidationCase["issue"] =>
  queued(contextCache(...about))
const translations = (granularity: bigint, domain = 0n, address = 0n): InvalidationCase["issue"] =>
  queued(iotlb(granularity, domain, address))

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
    ...bothWays("IOTLB, global", TRANSLATIONS, iotlbRegister(1n), translations(1n)),
    ...bothWays("IOTLB, domain 5", DOMAIN_5, iotlbRegister(2n, 5n), translations(2n, 5n)),
    ...bothWays("IOTLB, domain 6", ["second, another domain"], iotlbRegister(2n, 6n), translations(2n, 6n)),
    ...bothWays("IOTLB, domain 0", [], iotlbRegister(2n), translations(2n)),
    ...bothWays(
      "IOTLB, page 0x1000 of domain 5",
      ["second", "second, table"],
      iotlbRegister(3n, 5n, 0x1000n),
      translations(3n, 5n, 0x1000n),
    ),
    ...bothWays(
      "IOTLB, page 0x3000 of domain 5, IH",
      ["second, not present"],
      iotlbRegister(3n, 5n, 0x3000n | IH),
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
            for (const [address, word] of wordsAt(at(16), contextEntry(SECOND, 9n)))
              memory.write64(address, word)
          },
        },
        { what: "the context-cache's invalidation", kind: "invalidate", run: ccmd(3n, 0n, 16n) },
      ],
    },
  ],
}
