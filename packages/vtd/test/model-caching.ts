/**
 * What a remapping unit in scalable mode may cache and what drops it. Intel VT-d 5.10 (D51397-018) §6.2 and §6.5.2,
 * scopes as in Tables 23 and 24, typed as words.
 *
 * Device 00:00.0 has PASIDs 0 (also without PASID; second stage, domain 5), 1 and 4 (first stage, domain 6), 2 (nested,
 * domain 7) and 3 (second stage, domain 8); 00:01.0 has the same.
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

const DIRECTORY = 0x3000n
const PASID_TABLE = 0x4000n
const OTHER_DIRECTORY = 0x7000n
const OTHER_PASID_TABLE = 0x8000n

/** Trees of six tables: levels 4 to 1, a second table of level 1, and one for the third 2 MiB. */
const SECOND_OF_NESTED = 0x1_6000n
const SECOND_OTHER = 0x1_c000n
const FIRST = 0x2_2000n
const FIRST_OF_NESTED = 0x2_8000n
const FIRST_OTHER = 0x2_e000n
const FIRST_NEW = 0x3_4000n

/** §9.7: P, R/W, U/S, A, D. */
const FS = 0x67n
const LARGE = 1n << 7n
/** §9.7: no register and no PASID entry turns global pages on, and hardware tags all pages with their PASID. */
const GLOBAL = 1n << 8n

/** §9.6: P, AW 2, PGTT, SSPTPTR; domain-id; FSPTPTR. */
function pasidEntry(table: bigint, pasid: bigint, words: readonly bigint[]): Step[] {
  return stores(wordsAt(table + pasid * 64n, words))
}
const secondStage = (root: bigint, domain: bigint): bigint[] => [root | (2n << 6n) | (2n << 2n) | 1n, domain]
const firstStage = (root: bigint, domain: bigint): bigint[] => [(1n << 6n) | (2n << 2n) | 1n, domain, root]
const nested = (first: bigint, second: bigint, domain: bigint): bigint[] => [
  second | (3n << 6n) | (2n << 2n) | 1n,
  domain,
  first,
]

const start: readonly Step[] = [
  ["store", ROOT, CONTEXT | 1n],
  // §9.4: P, PASIDE; RID_PASID 0. Entries of 32 bytes for 00:00.0 and 00:01.0.
  ["store", CONTEXT, DIRECTORY | 9n],
  ["store", CONTEXT + 0x100n, DIRECTORY | 9n],
  ["store", DIRECTORY, PASID_TABLE | 1n],
  ["store", OTHER_DIRECTORY, OTHER_PASID_TABLE | 1n],
  ...pasidEntry(PASID_TABLE, 0n, secondStage(SECOND, 5n)),
  ...pasidEntry(PASID_TABLE, 1n, firstStage(FIRST, 6n)),
  ...pasidEntry(PASID_TABLE, 2n, nested(FIRST_OF_NESTED, SECOND_OF_NESTED, 7n)),
  ...pasidEntry(PASID_TABLE, 3n, secondStage(SECOND_OTHER, 8n)),
  ...pasidEntry(PASID_TABLE, 4n, firstStage(FIRST_OTHER, 6n)),
  ...pasidEntry(OTHER_PASID_TABLE, 1n, firstStage(FIRST_NEW, 6n)),
  ...tree(SECOND, SS, 0x100_0000n),
  ["store", level2(SECOND) + 8n, 0x120_0000n | SS | LARGE],
  ...tree(SECOND_OTHER, SS, 0x200_0000n),
  ...tree(FIRST, FS, 0x300_0000n),
  ...tree(FIRST_OTHER, FS, 0x400_0000n),
  ...tree(FIRST_NEW, FS, 0x500_0000n),
  ["store", level1(FIRST) + 0x30n, 0x300_6000n | FS | GLOBAL],
  ["store", level1(FIRST_OTHER) + 0x30n, 0x400_6000n | FS | GLOBAL],
  // The guest's pages 0x1000.. are at 0x401000.. of its second stage, whose first 2 MiB stay where they are.
  ...tree(FIRST_OF_NESTED, FS, 0x40_0000n),
  ...tree(SECOND_OF_NESTED, SS, 0x600_0000n),
  ["store", level2(SECOND_OF_NESTED), SS | LARGE],
  ["store", level2(SECOND_OF_NESTED) + 0x10n, level1(SECOND_OF_NESTED) | SS],
  ["write64", RTADDR, ROOT | (1n << 10n)],
  ["write32", GCMD, SRTP],
  ["write64", IQA, QUEUE | 0x800n],
  ["write32", GCMD, QIE],
  ["write32", GCMD, QIE + TE],
]

const page = (iova: bigint, pasid?: number, device = 0) =>
  pasid === undefined ? { device, iova } : { device, iova, pasid }

/** Bits 19:0 of the third word: RID_PASID 3. */
const RID_PASID_3 = 3n

const entries: Readonly<Record<string, CachedEntry>> = {
  second: cachedEntry("IOTLB: second stage, domain 5, page 0x1000", "§6.2.4", {
    request: page(0x1000n),
    change: [[level1(SECOND) + 0x08n, 0x70_0000n | SS]],
    before: 0x100_1000n,
    after: 0x70_0000n,
  }),
  "second, another page": cachedEntry("IOTLB: second stage, domain 5, page 0x5000", "§6.2.4", {
    request: page(0x5000n),
    change: [[level1(SECOND) + 0x28n, 0x70_0000n | SS]],
    before: 0x100_5000n,
    after: 0x70_0000n,
  }),
  "second, 2 MiB": cachedEntry("IOTLB: second stage, domain 5, page of 2 MiB at 0x200000", "§6.2.4", {
    request: page(0x20_3000n),
    change: [[level2(SECOND) + 8n, 0x140_0000n | SS | LARGE]],
    before: 0x120_3000n,
    after: 0x140_3000n,
  }),
  "second, another domain": cachedEntry("IOTLB: second stage, domain 8, page 0x1000", "§6.2.4", {
    request: page(0x1000n, 3),
    change: [[level1(SECOND_OTHER) + 0x08n, 0x70_0000n | SS]],
    before: 0x200_1000n,
    after: 0x70_0000n,
  }),
  "second, table": cachedEntry(
    "paging-structure cache: second stage, domain 5, table of the first 2 MiB",
    "§6.2.5",
    {
      primedBy: [page(0x1000n)],
      request: page(0x2000n),
      change: [[level2(SECOND), otherLevel1(SECOND) | SS]],
      before: 0x100_2000n,
      after: 0x100_9000n,
    },
  ),
  first: cachedEntry("IOTLB: first stage, domain 6, PASID 1, page 0x1000", "§6.2.4", {
    request: page(0x1000n, 1),
    change: [[level1(FIRST) + 0x08n, 0x70_0000n | FS]],
    before: 0x300_1000n,
    after: 0x70_0000n,
  }),
  "first, another page": cachedEntry("IOTLB: first stage, domain 6, PASID 1, page 0x5000", "§6.2.4", {
    request: page(0x5000n, 1),
    change: [[level1(FIRST) + 0x28n, 0x70_0000n | FS]],
    before: 0x300_5000n,
    after: 0x70_0000n,
  }),
  "first, another PASID": cachedEntry("IOTLB: first stage, domain 6, PASID 4, page 0x1000", "§6.2.4", {
    request: page(0x1000n, 4),
    change: [[level1(FIRST_OTHER) + 0x08n, 0x70_0000n | FS]],
    before: 0x400_1000n,
    after: 0x70_0000n,
  }),
  "first, with G": cachedEntry("IOTLB: first stage, domain 6, PASID 1, page 0x6000 with G", "§6.2.4", {
    request: page(0x6000n, 1),
    change: [[level1(FIRST) + 0x30n, 0x70_0000n | FS | GLOBAL]],
    before: 0x300_6000n,
    after: 0x70_0000n,
  }),
  "first, with G, seen from PASID 4": cachedEntry("a page with G is not shared with PASID 4", "§6.2.4", {
    primedBy: [page(0x6000n, 1)],
    request: page(0x6000n, 4),
    change: [],
    before: 0x400_6000n,
    after: 0x400_6000n,
    cacheable: false,
  }),
  "first, table": cachedEntry("paging-structure cache: first stage, domain 6, PASID 1", "§6.2.5", {
    primedBy: [page(0x1000n, 1)],
    request: page(0x2000n, 1),
    change: [[level2(FIRST), otherLevel1(FIRST) | FS]],
    before: 0x300_2000n,
    after: 0x300_9000n,
  }),
  nested: cachedEntry("IOTLB: nested, domain 7, PASID 2, page 0x1000, first-stage leaf", "§6.2.4", {
    request: page(0x1000n, 2),
    change: [[level1(FIRST_OF_NESTED) + 0x08n, 0x40_5000n | FS]],
    before: 0x600_1000n,
    after: 0x600_5000n,
  }),
  // In two records: under the address of the request, and under the guest physical one, which nested walks use.
  "nested, second-stage page": cachedEntry(
    "IOTLB: second stage below PASID 2, domain 7, page 0x401000",
    "§6.2.4",
    {
      request: page(0x1000n, 2),
      change: [[level1(SECOND_OF_NESTED) + 0x08n, 0x70_0000n | SS]],
      before: 0x600_1000n,
      after: 0x70_0000n,
    },
  ),
  "nested, second-stage table": cachedEntry(
    "paging-structure cache: second stage, domain 7, 0x400000",
    "§6.2.5",
    {
      primedBy: [page(0x1000n, 2)],
      request: page(0x2000n, 2),
      change: [[level2(SECOND_OF_NESTED) + 0x10n, otherLevel1(SECOND_OF_NESTED) | SS]],
      before: 0x600_2000n,
      after: 0x600_9000n,
    },
  ),
  context: cachedEntry("context-cache: 00:00.0, RID_PASID", "§6.2.2", {
    request: page(0x1000n),
    change: [[CONTEXT + 8n, RID_PASID_3]],
    before: 0x100_1000n,
    after: 0x200_1000n,
  }),
  "context, another device": cachedEntry("context-cache: 00:01.0, RID_PASID", "§6.2.2", {
    request: page(0x1000n, undefined, 8),
    change: [[CONTEXT + 0x108n, RID_PASID_3]],
    before: 0x100_1000n,
    after: 0x200_1000n,
  }),
  // With a domain-id that no IOTLB entry has yet.
  PASID: cachedEntry("PASID-cache: 00:00.0, PASID 1, domain 6", "§6.2.3", {
    request: page(0x1000n, 1),
    change: [
      [PASID_TABLE + 72n, 9n],
      [PASID_TABLE + 80n, FIRST_NEW],
    ],
    before: 0x300_1000n,
    after: 0x500_1000n,
  }),
  "PASID, another": cachedEntry("PASID-cache: 00:00.0, PASID 4, domain 6", "§6.2.3", {
    request: page(0x1000n, 4),
    change: [
      [PASID_TABLE + 264n, 9n],
      [PASID_TABLE + 272n, FIRST_NEW],
    ],
    before: 0x400_1000n,
    after: 0x500_1000n,
  }),
  "PASID, another domain": cachedEntry("PASID-cache: 00:00.0, PASID 3, domain 8", "§6.2.3", {
    request: page(0x1000n, 3),
    change: [
      [PASID_TABLE + 192n, SECOND | (2n << 6n) | (2n << 2n) | 1n],
      [PASID_TABLE + 200n, 9n],
    ],
    before: 0x200_1000n,
    after: 0x100_1000n,
  }),
  "not-present page": cachedEntry("page 0x3000 of domain 5 without caching mode", "§6.1", {
    request: page(0x3000n),
    change: [[level1(SECOND) + 0x18n, 0x70_0000n | SS]],
    before: null,
    after: 0x70_0000n,
    cacheable: false,
  }),
  "not-present page of a first stage": cachedEntry("page 0x3000 of PASID 1, in no mode", "§6.1", {
    request: page(0x3000n, 1),
    change: [[level1(FIRST) + 0x18n, 0x70_0000n | FS]],
    before: null,
    after: 0x70_0000n,
    cacheable: false,
  }),
  "not-present PASID": cachedEntry("PASID 5 without caching mode", "§6.1", {
    request: page(0x1000n, 5),
    change: [
      [PASID_TABLE + 328n, 9n],
      [PASID_TABLE + 320n, SECOND | (2n << 6n) | (2n << 2n) | 1n],
    ],
    before: null,
    after: 0x100_1000n,
    cacheable: false,
  }),
  "not-present context": cachedEntry("00:02.0 without caching mode", "§6.1", {
    request: page(0x1000n, undefined, 16),
    change: [[CONTEXT + 0x200n, DIRECTORY | 9n]],
    before: null,
    after: 0x100_1000n,
    cacheable: false,
  }),
}

function submit({ memory, model: { mmio } }: ModelMachine, words: readonly bigint[]): void {
  const tail = Number(mmio.read64(IQT)) / 32
  for (let i = 0; i < 4; i++) memory.write64(QUEUE + BigInt(tail * 32 + i * 8), words[i] ?? 0n)
  mmio.write64(IQT, BigInt(((tail + 1) % 128) * 32))
}

const queued = (
  name: string,
  source: string,
  words: readonly bigint[],
  drops: readonly string[],
): InvalidationCase => ({ name, source, issue: machine => submit(machine, words), drops })

/** Granularities of the PASID-cache: 0 domain, 1 PASID within domain, 3 global. §6.5.2.2. */
const pasidCache = (granularity: bigint, domain: bigint, pasid: bigint): bigint[] => [
  7n | (granularity << 4n) | (domain << 16n) | (pasid << 32n),
]
/** Of the PASID-based IOTLB: 2 PASID, 3 page. §6.5.2.4. */
const pasidIotlb = (
  granularity: bigint,
  domain: bigint,
  pasid: bigint,
  address = 0n,
  mask = 0n,
  hint = 0n,
): bigint[] => [6n | (granularity << 4n) | (domain << 16n) | (pasid << 32n), address | mask | (hint << 6n)]

const DOMAIN_5 = ["second", "second, another page", "second, 2 MiB", "second, table"]
const FIRST_PASID_1 = ["first", "first, another page", "first, with G", "first, table"]
const DOMAIN_6 = [...FIRST_PASID_1, "first, another PASID"]
const FAULTS = ["not-present page", "not-present PASID", "not-present context"]
const DOMAIN_7 = ["nested", "nested, second-stage page", "nested, second-stage table"]
const TRANSLATIONS = [...DOMAIN_5, "second, another domain", ...DOMAIN_6, ...DOMAIN_7]
const CONTEXTS = ["context", "context, another device"]
const PASIDS = ["PASID", "PASID, another", "PASID, another domain"]

const CC = "§6.5.2.1"
const PC = "§6.5.2.2"
const IOTLB = "§6.5.2.3"
const P_IOTLB = "§6.5.2.4"

const commands: readonly InvalidationCase[] = [
  queued("a wait", "§6.5.2.9", [5n], []),
  queued("context-cache, global", CC, contextCache(1n, 0n, 0n, 0n), CONTEXTS),
  queued(
    "context-cache, domain, which is global in scalable mode",
    CC,
    contextCache(2n, 77n, 0n, 0n),
    CONTEXTS,
  ),
  queued("context-cache, 00:00.0", CC, contextCache(3n, 77n, 0n, 0n), ["context"]),
  queued("context-cache, 00:01.0", CC, contextCache(3n, 5n, 8n, 0n), ["context, another device"]),
  queued("context-cache, 00:00.1", CC, contextCache(3n, 5n, 1n, 0n), []),
  queued("context-cache, 00:00.4 with mask 1", CC, contextCache(3n, 5n, 4n, 1n), ["context"]),
  queued("context-cache, 00:00.2 with mask 1", CC, contextCache(3n, 5n, 2n, 1n), []),
  queued("context-cache, 00:00.6 with mask 2", CC, contextCache(3n, 5n, 6n, 2n), ["context"]),
  queued("context-cache, 00:01.7 with mask 3", CC, contextCache(3n, 5n, 15n, 3n), [
    "context, another device",
  ]),
  queued("PASID-cache, global", PC, pasidCache(3n, 0n, 0n), PASIDS),
  queued("PASID-cache, domain 6", PC, pasidCache(0n, 6n, 0n), ["PASID", "PASID, another"]),
  queued("PASID-cache, domain 8", PC, pasidCache(0n, 8n, 0n), ["PASID, another domain"]),
  queued("PASID-cache, domain 6, PASID 1", PC, pasidCache(1n, 6n, 1n), ["PASID"]),
  queued("PASID-cache, domain 8, PASID 1", PC, pasidCache(1n, 8n, 1n), []),
  queued("IOTLB, global", IOTLB, iotlb(1n, 0n), TRANSLATIONS),
  queued("IOTLB, domain 5", IOTLB, iotlb(2n, 5n), DOMAIN_5),
  queued("IOTLB, domain 6", IOTLB, iotlb(2n, 6n), DOMAIN_6),
  queued("IOTLB, domain 7", IOTLB, iotlb(2n, 7n), DOMAIN_7),
  queued("IOTLB, domain 9", IOTLB, iotlb(2n, 9n), []),
  queued("IOTLB, page 0x1000 of domain 5", IOTLB, iotlb(3n, 5n, 0x1000n), ["second", "second, table"]),
  queued("IOTLB, the same with IH", IOTLB, iotlb(3n, 5n, 0x1000n, 0n, 1n), ["second"]),
  queued("IOTLB, 8 pages at 0x4000 of domain 5, IH", IOTLB, iotlb(3n, 5n, 0x4000n, 3n, 1n), [
    "second",
    "second, another page",
  ]),
  queued("IOTLB, 2 MiB at 0x200000 of domain 5, IH", IOTLB, iotlb(3n, 5n, 0x20_0000n, 9n, 1n), [
    "second, 2 MiB",
  ]),
  queued("IOTLB, page 0x600000 of domain 5", IOTLB, iotlb(3n, 5n, 0x60_0000n), []),
  queued("IOTLB, any page of domain 6, IH", IOTLB, iotlb(3n, 6n, 0x60_0000n, 0n, 1n), DOMAIN_6),
  queued("IOTLB, page 0x402000 of domain 7", IOTLB, iotlb(3n, 7n, 0x40_2000n), [
    "nested",
    "nested, second-stage table",
  ]),
  queued("IOTLB, page 0x401000 of domain 7, IH", IOTLB, iotlb(3n, 7n, 0x40_1000n, 0n, 1n), [
    "nested",
    "nested, second-stage page",
  ]),
  queued("IOTLB, page 0x600000 of domain 7", IOTLB, iotlb(3n, 7n, 0x60_0000n), ["nested"]),
  queued("PASID-based IOTLB, domain 6, PASID 1", P_IOTLB, pasidIotlb(2n, 6n, 1n), FIRST_PASID_1),
  queued("PASID-based IOTLB, domain 6, PASID 4", P_IOTLB, pasidIotlb(2n, 6n, 4n), ["first, another PASID"]),
  queued("PASID-based IOTLB, domain 7, PASID 2", P_IOTLB, pasidIotlb(2n, 7n, 2n), ["nested"]),
  queued("PASID-based IOTLB, domain 5, PASID 0", P_IOTLB, pasidIotlb(2n, 5n, 0n), []),
  queued("PASID-based IOTLB, page 0x1000", P_IOTLB, pasidIotlb(3n, 6n, 1n, 0x1000n), [
    "first",
    "first, table",
  ]),
  queued("PASID-based IOTLB, the same with IH", P_IOTLB, pasidIotlb(3n, 6n, 1n, 0x1000n, 0n, 1n), ["first"]),
  queued("PASID-based IOTLB, 8 pages, IH", P_IOTLB, pasidIotlb(3n, 6n, 1n, 0n, 3n, 1n), [
    "first",
    "first, another page",
    "first, with G",
  ]),
  queued("PASID-based IOTLB, page of PASID 2", P_IOTLB, pasidIotlb(3n, 7n, 2n, 0x1000n), ["nested"]),
  {
    name: "a root pointer with CAP.ESRTPS",
    source: "§6.6",
    issue: ({ model: { mmio } }) => mmio.write32(GCMD, SRTP + QIE + TE),
    drops: [...TRANSLATIONS, ...CONTEXTS, ...PASIDS],
  },
]

const store =
  (address: bigint, value: bigint) =>
  ({ memory }: ModelMachine): void =>
    memory.write64(address, value)
const issue =
  (words: readonly bigint[]) =>
  (machine: ModelMachine): void =>
    submit(machine, words)

export const caching: CachingContract | null = {
  start,
  entries,
  commands,
  liveUpdates: [
    {
      name: "a page of a second stage goes",
      source: "§6.5.3.3",
      request: page(0x1000n),
      before: 0x100_1000n,
      after: null,
      sequence: [
        { what: "the entry", kind: "change", run: store(level1(SECOND) + 0x08n, 0n) },
        { what: "the page's invalidation", kind: "invalidate", run: issue(iotlb(3n, 5n, 0x1000n, 0n, 1n)) },
      ],
    },
    {
      name: "a PASID gets other first-stage tables under its domain-id",
      source: "§6.5.2.2",
      request: page(0x1000n, 1),
      before: 0x300_1000n,
      after: 0x500_1000n,
      sequence: [
        { what: "FSPTPTR", kind: "change", run: store(PASID_TABLE + 80n, FIRST_NEW) },
        { what: "the PASID-cache's invalidation", kind: "invalidate", run: issue(pasidCache(1n, 6n, 1n)) },
        { what: "the IOTLB's invalidation", kind: "invalidate", run: issue(pasidIotlb(2n, 6n, 1n)) },
      ],
    },
    {
      name: "a device gets another PASID directory with the same domain-ids",
      source: "§6.5.2.1",
      request: page(0x1000n, 1),
      before: 0x300_1000n,
      after: 0x500_1000n,
      sequence: [
        { what: "PASIDDIRPTR", kind: "change", run: store(CONTEXT, OTHER_DIRECTORY | 9n) },
        {
          what: "the context-cache's invalidation",
          kind: "invalidate",
          run: issue(contextCache(3n, 0n, 0n, 0n)),
        },
        { what: "the PASID-cache's invalidation", kind: "invalidate", run: issue(pasidCache(0n, 6n, 0n)) },
        { what: "the IOTLB's invalidation", kind: "invalidate", run: issue(iotlb(2n, 6n)) },
      ],
    },
  ],
}

/** What caching mode adds to the drops of a command: the tag is domain-id 0 but for pages. §6.1. */
const dropsOfFaults: Readonly<Record<string, readonly string[]>> = {
  "context-cache, global": ["not-present context"],
  "context-cache, domain, which is global in scalable mode": ["not-present context"],
  "PASID-cache, global": ["not-present PASID"],
  "IOTLB, global": ["not-present page"],
  "IOTLB, domain 5": ["not-present page"],
  // Aligned to its size, from address 0 on.
  "IOTLB, 8 pages at 0x4000 of domain 5, IH": ["not-present page"],
  "a root pointer with CAP.ESRTPS": FAULTS,
}

/** The same unit with CAP.CM = 1. */
export const cachingMode: CachingContract = {
  start,
  entries: Object.fromEntries(
    Object.entries(entries).map(([name, entry]) => [
      name,
      FAULTS.includes(name) ? { ...entry, cacheable: true } : entry,
    ]),
  ),
  commands: [
    ...commands.map(command => ({
      ...command,
      drops: [...command.drops, ...(dropsOfFaults[command.name] ?? [])],
    })),
    queued("context-cache, 00:02.0", CC, contextCache(3n, 0n, 16n, 0n), ["not-present context"]),
    queued("PASID-cache, domain 0", PC, pasidCache(0n, 0n, 0n), ["not-present PASID"]),
    queued("PASID-cache, domain 0, PASID 5", PC, pasidCache(1n, 0n, 5n), ["not-present PASID"]),
    queued("PASID-cache, domain 9, PASID 5", PC, pasidCache(1n, 9n, 5n), []),
    queued("IOTLB, page 0x3000 of domain 5, IH", IOTLB, iotlb(3n, 5n, 0x3000n, 0n, 1n), ["not-present page"]),
    queued("IOTLB, page 0x3000 of domain 0, IH", IOTLB, iotlb(3n, 0n, 0x3000n, 0n, 1n), []),
    queued("PASID-based IOTLB, page 0x3000 of PASID 0", P_IOTLB, pasidIotlb(3n, 5n, 0n, 0x3000n), []),
  ],
  liveUpdates: [
    {
      name: "a page of a second stage comes, in caching mode",
      source: "§6.1",
      request: page(0x3000n),
      before: null,
      after: 0x70_0000n,
      sequence: [
        { what: "the entry", kind: "change", run: store(level1(SECOND) + 0x18n, 0x70_0000n | SS) },
        { what: "the page's invalidation", kind: "invalidate", run: issue(iotlb(3n, 5n, 0x3000n, 0n, 1n)) },
      ],
    },
    {
      name: "a PASID comes, in caching mode",
      source: "§6.5.2.2",
      request: page(0x1000n, 5),
      before: null,
      after: 0x100_1000n,
      sequence: [
        {
          what: "the entry",
          kind: "change",
          run: ({ memory }) => {
            memory.write64(PASID_TABLE + 328n, 9n)
            memory.write64(PASID_TABLE + 320n, SECOND | (2n << 6n) | (2n << 2n) | 1n)
          },
        },
        { what: "the PASID-cache's invalidation", kind: "invalidate", run: issue(pasidCache(1n, 0n, 5n)) },
      ],
    },
  ],
}
