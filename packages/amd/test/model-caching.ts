/**
 * What an AMD IOMMU may cache and what drops it. AMD 48882 rev 3.10, §2.2.2.1 (DomainID), §2.4.2 to §2.4.8 and §3.2
 * (NpCache), typed as words.
 *
 * Devices 1 and 4 have the host tables of domain 5, device 3 those of domain 8. Device 2 has guest tables for PASIDs 0
 * (also without PASID), 1 and 2 over host tables, domain 6; device 5 has guest tables alone, domain 7. Device 6 has an
 * entry with V = 0.
 */
import {
  type CachedEntry,
  type CachingContract,
  cachedEntry,
  type InvalidationCase,
  type ModelMachine,
  type ModelRequest,
  type Step,
  type UpdateStep,
} from "@iommu/conformance"

const DEVTAB = 0x1000n
const CMDBUF = 0x2000n
const EVTLOG = 0x3000n
const GCR3 = 0x6000n
const GCR3_ALONE = 0x7000n

/** Trees of six tables: levels 4 to 1, a second table of level 1 and one of level 2. */
const HOST = 0x1_0000n
const HOST_OTHER = 0x1_6000n
const HOST_OF_NESTED = 0x1_c000n
const GUEST_0 = 0x2_2000n
const GUEST_1 = 0x2_8000n
const GUEST_2 = 0x2_e000n
const GUEST_NEW = 0x3_4000n
const GUEST_ALONE = 0x3_a000n

const DEVTAB_BASE = 0x00
const CMDBUF_BASE = 0x08
const EVTLOG_BASE = 0x10
const CONTROL = 0x18
const CMD_TAIL = 0x2008
const BUFFER_BYTES = 0x1000
const LENGTH = 8n << 56n
/** IommuEn, EventLogEn, CmdBufEn, GTEn. */
const ON = 1n | (1n << 2n) | (1n << 12n) | (1n << 16n)

/** IR and IW; §2.2.3. */
const IR = 1n << 61n
const RIGHTS = 3n << 61n
const pde = (table: bigint, level: bigint): bigint => table | (level << 9n) | 1n | RIGHTS
const pte = (page: bigint): bigint => page | 1n | RIGHTS
/** NextLevel 7, 64 KiB: ones in bits 14:12 and a zero in bit 15. */
const pte64K = (page: bigint): bigint => page | 0x7000n | (7n << 9n) | 1n | RIGHTS
/** §2.2.6: P, R/W, U/S, A, D. */
const V2 = 0x67n

const level3 = (tree: bigint): bigint => tree + 0x1000n
const level2 = (tree: bigint): bigint => tree + 0x2000n
const level1 = (tree: bigint): bigint => tree + 0x3000n
const otherLevel1 = (tree: bigint): bigint => tree + 0x4000n
const otherLevel2 = (tree: bigint): bigint => tree + 0x5000n

/**
 * Pages 0x1000, 0x2000 and 0x5000 at `pages` + their address, and 0x4000 read-only; the other table of level 1 has
 * 0x2000 elsewhere. The third 2 MiB are those of the first, by the other table of level 2 those of the other table.
 */
function hostTree(tree: bigint, pages: bigint): Step[] {
  return [
    ["store", tree, pde(level3(tree), 3n)],
    ["store", level3(tree), pde(level2(tree), 2n)],
    ["store", level2(tree), pde(level1(tree), 1n)],
    ["store", level2(tree) + 0x10n, pde(level1(tree), 1n)],
    ["store", otherLevel2(tree) + 0x10n, pde(otherLevel1(tree), 1n)],
    ["store", level1(tree) + 0x08n, pte(pages + 0x1000n)],
    ["store", level1(tree) + 0x10n, pte(pages + 0x2000n)],
    ["store", level1(tree) + 0x20n, (pages + 0x4000n) | 1n | IR],
    ["store", level1(tree) + 0x28n, pte(pages + 0x5000n)],
    ["store", otherLevel1(tree) + 0x10n, pte(pages + 0x9000n)],
  ]
}

/** As the host's; and the second 512 GiB are the first. */
function guestTree(tree: bigint, pages: bigint): Step[] {
  return [
    ["store", tree, level3(tree) | V2],
    ["store", tree + 8n, level3(tree) | V2],
    ["store", level3(tree), level2(tree) | V2],
    ["store", level2(tree), level1(tree) | V2],
    ["store", level1(tree) + 0x08n, (pages + 0x1000n) | V2],
    ["store", level1(tree) + 0x10n, (pages + 0x2000n) | V2],
    ["store", level1(tree) + 0x28n, (pages + 0x5000n) | V2],
    ["store", otherLevel1(tree) + 0x10n, (pages + 0x5000n) | V2],
  ]
}

const dteAt = (device: bigint): bigint => DEVTAB + device * 32n
/** §2.2.2.1: V, TV, Mode 4, root, IR, IW. */
const hostDte = (root: bigint): bigint => 3n | (4n << 9n) | root | RIGHTS
/** GIOV, GV and the GCR3 table's address bits 14:12; bits 30:15 stand in the second word. */
const guestBits = (gcr3: bigint): bigint => (3n << 54n) | (((gcr3 >> 12n) & 7n) << 58n)

const start: readonly Step[] = [
  ["store", dteAt(1n), hostDte(HOST)],
  ["store", dteAt(1n) + 8n, 5n],
  ["store", dteAt(4n), hostDte(HOST)],
  ["store", dteAt(4n) + 8n, 5n],
  ["store", dteAt(3n), hostDte(HOST_OTHER)],
  ["store", dteAt(3n) + 8n, 8n],
  ["store", dteAt(2n), hostDte(HOST_OF_NESTED) | guestBits(GCR3)],
  ["store", dteAt(2n) + 8n, 6n],
  ["store", dteAt(5n), 3n | RIGHTS | guestBits(GCR3_ALONE)],
  ["store", dteAt(5n) + 8n, 7n],
  ["store", GCR3, GUEST_0 | 1n],
  ["store", GCR3 + 8n, GUEST_1 | 1n],
  ["store", GCR3 + 16n, GUEST_2 | 1n],
  ["store", GCR3_ALONE + 8n, GUEST_ALONE | 1n],
  ...hostTree(HOST, 0x100_0000n),
  ["store", level2(HOST) + 0x08n, pte(0x120_0000n)],
  ["store", level1(HOST) + 0x100n, pte64K(0x110_0000n)],
  ["store", level1(HOST) + 0x108n, pte64K(0x110_0000n)],
  ...hostTree(HOST_OTHER, 0x200_0000n),
  // The guest's first 2 MiB stay where they are: its tables, and the pages of PASIDs 0 and 2.
  ...hostTree(HOST_OF_NESTED, 0x600_0000n),
  ["store", level2(HOST_OF_NESTED), pte(0n)],
  ...guestTree(GUEST_0, 0x0c_0000n),
  ...guestTree(GUEST_1, 0x40_0000n),
  ...guestTree(GUEST_2, 0x08_0000n),
  ...guestTree(GUEST_NEW, 0x0a_0000n),
  ...guestTree(GUEST_ALONE, 0x700_0000n),
  ["write64", DEVTAB_BASE, DEVTAB],
  ["write64", CMDBUF_BASE, CMDBUF | LENGTH],
  ["write64", EVTLOG_BASE, EVTLOG | LENGTH],
  ["write64", CONTROL, ON],
]

const WRITE = 2
const page = (device: number, iova: bigint, pasid?: number): ModelRequest =>
  pasid === undefined ? { device, iova } : { device, iova, pasid }

/** Where pages move: the guest's first 2 MiB stay where they are. */
const MOVED = 0x7_0000n

/** A page of level 1 that moves. */
const leaf = (
  what: string,
  request: ModelRequest,
  at: bigint,
  before: bigint,
  bits = 1n | RIGHTS,
): CachedEntry => cachedEntry(what, "§2.4.3", { request, change: [[at, MOVED | bits]], before, after: MOVED })

const hostEntries = {
  host: leaf("host translation, domain 5, 0x1000", page(1, 0x1000n), level1(HOST) + 0x08n, 0x100_1000n),
  "host, another page": leaf(
    "host translation, domain 5, 0x5000",
    page(1, 0x5000n),
    level1(HOST) + 0x28n,
    0x100_5000n,
  ),
  "host, 64 KiB": cachedEntry("host translation, domain 5, page of 64 KiB at 0x20000", "§2.4.3", {
    request: page(1, 0x2_1234n),
    change: [[level1(HOST) + 0x108n, pte64K(0x170_0000n)]],
    before: 0x110_1234n,
    after: 0x170_1234n,
  }),
  "host, 2 MiB": cachedEntry("host translation, domain 5, page of 2 MiB at 0x200000", "§2.4.3", {
    request: page(1, 0x20_3000n),
    change: [[level2(HOST) + 0x08n, pte(0x140_0000n)]],
    before: 0x120_3000n,
    after: 0x140_3000n,
  }),
  "host, rights": cachedEntry(
    "host translation, domain 5, 0x4000 without IW",
    "§3.2: present entries, NpCache or not",
    {
      primedBy: [page(1, 0x4000n)],
      request: { device: 1, iova: 0x4000n, access: WRITE },
      change: [[level1(HOST) + 0x20n, pte(0x100_4000n)]],
      before: null,
      after: 0x100_4000n,
    },
  ),
  "host, another domain": leaf(
    "host translation, domain 8, 0x1000",
    page(3, 0x1000n),
    level1(HOST_OTHER) + 0x08n,
    0x200_1000n,
  ),
  "host, by another device": cachedEntry("host translation, domain 5, 0x1000, met by device 4", "§2.2.2.1", {
    primedBy: [page(1, 0x1000n)],
    request: page(4, 0x1000n),
    change: [[level1(HOST) + 0x08n, pte(0x70_0000n)]],
    before: 0x100_1000n,
    after: 0x70_0000n,
  }),
  "host, table": cachedEntry("directory entry, domain 5, first 2 MiB", "§2.4.3, PDE", {
    primedBy: [page(1, 0x1000n)],
    request: page(1, 0x2000n),
    change: [[level2(HOST), pde(otherLevel1(HOST), 1n)]],
    before: 0x100_2000n,
    after: 0x100_9000n,
  }),
  "host, upper table": cachedEntry("directory entry, domain 5, first 1 GiB", "§2.4.3, PDE", {
    primedBy: [page(1, 0x1000n)],
    request: page(1, 0x40_2000n),
    change: [[level3(HOST), pde(otherLevel2(HOST), 2n)]],
    before: 0x100_2000n,
    after: 0x100_9000n,
  }),
  "host, not present": cachedEntry("host translation, domain 5, 0x3000, not present", "§3.2, NpCache = 0", {
    request: page(1, 0x3000n),
    change: [[level1(HOST) + 0x18n, pte(0x100_3000n)]],
    before: null,
    after: 0x100_3000n,
    cacheable: false,
  }),
} as const

const guestEntries = {
  guest: leaf(
    "guest translation, domain 6, PASID 1, 0x1000",
    page(2, 0x1000n, 1),
    level1(GUEST_1) + 8n,
    0x600_1000n,
    V2,
  ),
  "guest, another PASID": leaf(
    "guest translation, domain 6, PASID 2, 0x1000",
    page(2, 0x1000n, 2),
    level1(GUEST_2) + 8n,
    0x08_1000n,
    V2,
  ),
  "guest, no PASID": leaf(
    "guest translation, domain 6, PASID 0 by GIOV, 0x1000",
    page(2, 0x1000n),
    level1(GUEST_0) + 8n,
    0x0c_1000n,
    V2,
  ),
  "guest, another domain": leaf(
    "guest translation, domain 7, PASID 1, 0x1000",
    page(5, 0x1000n, 1),
    level1(GUEST_ALONE) + 8n,
    0x700_1000n,
    V2,
  ),
  "guest, table": cachedEntry("guest directory entry, domain 6, PASID 1, first 2 MiB", "§2.4.3, PDE", {
    primedBy: [page(2, 0x1000n, 1)],
    request: page(2, 0x2000n, 1),
    change: [[level2(GUEST_1), otherLevel1(GUEST_1) | V2]],
    before: 0x600_2000n,
    after: 0x600_5000n,
  }),
  "guest CR3": cachedEntry("guest CR3, domain 6, PASID 1", "§2.2.6.3", {
    primedBy: [page(2, 0x1000n, 1)],
    request: page(2, 0x80_0000_1000n, 1),
    change: [[GCR3 + 8n, GUEST_NEW | 1n]],
    before: 0x600_1000n,
    after: 0x0a_1000n,
  }),
  "guest CR3, not valid": cachedEntry("guest CR3, domain 6, PASID 3, not valid", "§3.2, NpCache = 0", {
    request: page(2, 0x1000n, 3),
    change: [[GCR3 + 24n, GUEST_NEW | 1n]],
    before: null,
    after: 0x0a_1000n,
    cacheable: false,
  }),
  nested: leaf(
    "host translation, domain 6, of the page 0x401000 that a guest translation ends in",
    page(2, 0x1000n, 1),
    level1(HOST_OF_NESTED) + 8n,
    0x600_1000n,
  ),
  "nested, table": cachedEntry("directory entry, domain 6, third 2 MiB", "§2.4.3, PDE", {
    primedBy: [page(2, 0x1000n, 1)],
    request: page(2, 0x2000n, 1),
    change: [[level2(HOST_OF_NESTED) + 0x10n, pde(otherLevel1(HOST_OF_NESTED), 1n)]],
    before: 0x600_2000n,
    after: 0x600_9000n,
  }),
} as const

const deviceEntries = {
  device: cachedEntry("device table entry, device 1", "§2.4.2", {
    request: page(1, 0x1000n),
    change: [
      [dteAt(1n), hostDte(HOST_OTHER)],
      [dteAt(1n) + 8n, 8n],
    ],
    before: 0x100_1000n,
    after: 0x200_1000n,
  }),
  "device, another": cachedEntry("device table entry, device 4", "§2.4.2", {
    request: page(4, 0x1000n),
    change: [
      [dteAt(4n), hostDte(HOST_OTHER)],
      [dteAt(4n) + 8n, 8n],
    ],
    before: 0x100_1000n,
    after: 0x200_1000n,
  }),
  "device, V = 0": cachedEntry("device table entry, device 6, not valid", "§2.4.2", {
    request: page(6, 0x1000n),
    change: [
      [dteAt(6n) + 8n, 8n],
      [dteAt(6n), hostDte(HOST_OTHER)],
    ],
    before: 0x1000n,
    after: 0x200_1000n,
  }),
} as const

const entries: Readonly<Record<string, CachedEntry>> = { ...hostEntries, ...guestEntries, ...deviceEntries }

function submit({ memory, model: { mmio } }: ModelMachine, low: bigint, high: bigint): void {
  const tail = mmio.read32(CMD_TAIL)
  memory.write64(CMDBUF + BigInt(tail), low)
  memory.write64(CMDBUF + BigInt(tail) + 8n, high)
  mmio.write32(CMD_TAIL, (tail + 16) % BUFFER_BYTES)
}

const S = 1n
const PDE = 2n
const GN = 4n
/** §2.4.3: Address of everything, with S. */
const ALL = 0x7fff_ffff_ffff_f000n | S
/** 16 KiB from 0, and 2 MiB from 2 MiB on: a zero under ones. */
const FIRST_16K = 0x1000n | S
const SECOND_2M = 0x2f_f000n | S

const pages = (domain: bigint, high: bigint, pasid = 0n): [bigint, bigint] => [
  (3n << 60n) | (domain << 32n) | pasid,
  high,
]

const command = (
  name: string,
  source: string,
  words: readonly [bigint, bigint],
  ...drops: string[]
): InvalidationCase => ({ name, source, drops, issue: machine => submit(machine, ...words) })

const hostPages = (name: string, high: bigint, ...drops: string[]): InvalidationCase =>
  command(`INVALIDATE_IOMMU_PAGES, domain 5, ${name}`, "§2.4.3", pages(5n, high), ...drops)
const guestPages = (name: string, high: bigint, ...drops: string[]): InvalidationCase =>
  command(`INVALIDATE_IOMMU_PAGES, domain 6, PASID 1, ${name}`, "§2.4.3", pages(6n, high | GN, 1n), ...drops)

const PAGES_OF_5 = Object.keys(hostEntries).filter(
  name => hostEntries[name as keyof typeof hostEntries].cacheable && !/domain|table/.test(name),
)
const TABLES_OF_5 = ["host, table", "host, upper table"]
const AT_1000 = ["host", "host, by another device"]
/** GN = 0 drops what is cached of the domain's guest tables, for no command names it by guest physical address. */
const GUEST_OF_6 = ["guest", "guest, another PASID", "guest, no PASID", "guest, table"]
const CACHEABLE = Object.keys(entries).filter(name => entries[name]?.cacheable)

const commands: readonly InvalidationCase[] = [
  command("INVALIDATE_DEVTAB_ENTRY, device 1", "§2.4.2", [(2n << 60n) | 1n, 0n], "device"),
  command("INVALIDATE_DEVTAB_ENTRY, device 4", "§2.4.2", [(2n << 60n) | 4n, 0n], "device, another"),
  command("INVALIDATE_DEVTAB_ENTRY, device 6", "§2.4.2", [(2n << 60n) | 6n, 0n], "device, V = 0"),
  hostPages("0x1000", 0x1000n, ...AT_1000),
  hostPages("0x1000, PDE", 0x1000n | PDE, ...AT_1000, ...TABLES_OF_5),
  hostPages("16 KiB from 0", FIRST_16K, ...AT_1000),
  hostPages("0x4000", 0x4000n, "host, rights"),
  hostPages("0x2f000, in a page of 64 KiB", 0x2_f000n, "host, 64 KiB"),
  hostPages("0x207000, in a page of 2 MiB", 0x20_7000n, "host, 2 MiB"),
  hostPages("0x207000, PDE", 0x20_7000n | PDE, "host, 2 MiB", "host, upper table"),
  hostPages("2 MiB from 0x200000", SECOND_2M, "host, 2 MiB"),
  hostPages("everything", ALL, ...PAGES_OF_5),
  hostPages("everything, PDE", ALL | PDE, ...PAGES_OF_5, ...TABLES_OF_5),
  hostPages("everything, GN, PASID 0, PDE", ALL | PDE | GN),
  command(
    "INVALIDATE_IOMMU_PAGES, domain 8, everything, PDE",
    "§2.4.3",
    pages(8n, ALL | PDE),
    "host, another domain",
  ),
  guestPages("0x1000", 0x1000n, "guest"),
  guestPages("0x5000", 0x5000n),
  guestPages("0x1000, PDE", 0x1000n | PDE, "guest", "guest, table", "guest CR3"),
  guestPages("everything", ALL, "guest"),
  guestPages("everything, PDE", ALL | PDE, "guest", "guest, table", "guest CR3"),
  command(
    "INVALIDATE_IOMMU_PAGES, domain 6, PASID 0, everything, PDE",
    "§2.4.3",
    pages(6n, ALL | PDE | GN),
    "guest, no PASID",
  ),
  command(
    "INVALIDATE_IOMMU_PAGES, domain 7, PASID 1, everything, PDE",
    "§2.4.3",
    pages(7n, ALL | PDE | GN, 1n),
    "guest, another domain",
  ),
  command(
    "INVALIDATE_IOMMU_PAGES, domain 6, 0x401000",
    "§2.4.3",
    pages(6n, 0x40_1000n),
    "nested",
    ...GUEST_OF_6,
  ),
  command("INVALIDATE_IOMMU_PAGES, domain 6, 0x405000", "§2.4.3", pages(6n, 0x40_5000n), ...GUEST_OF_6),
  command(
    "INVALIDATE_IOMMU_PAGES, domain 6, 0x401000, PDE",
    "§2.4.3",
    pages(6n, 0x40_1000n | PDE),
    "nested",
    "nested, table",
    ...GUEST_OF_6,
  ),
  command("PREFETCH_IOMMU_PAGES, device 1, 0x1000", "§2.4.6", [(6n << 60n) | 1n, 0x1000n]),
  command("PREFETCH_IOMMU_PAGES, device 1, 0x1000, Inval", "§2.4.6", [(6n << 60n) | 1n, 0x1010n], ...AT_1000),
  command("INVALIDATE_IOTLB_PAGES, device 1, everything", "§2.4.4", [(4n << 60n) | (1n << 24n) | 1n, ALL]),
  command("INVALIDATE_INTERRUPT_TABLE, device 1", "§2.4.5", [(5n << 60n) | 1n, 0n]),
  command("COMPLETION_WAIT", "§2.4.1", [1n << 60n, 0n]),
  command("INVALIDATE_IOMMU_ALL", "§2.4.8", [8n << 60n, 0n], ...CACHEABLE),
  {
    name: "CONTROL.IommuEn turned off and on",
    source: "§2.4: only commands drop",
    drops: [],
    issue: ({ model: { mmio } }) => {
      mmio.write64(CONTROL, ON & ~1n)
      mmio.write64(CONTROL, ON)
    },
  },
  {
    name: "DEVTAB_BASE written",
    source: "§2.4: only commands drop",
    drops: [],
    issue: ({ model: { mmio } }) => mmio.write64(DEVTAB_BASE, DEVTAB),
  },
]

const change = (what: string, ...stores: (readonly [at: bigint, value: bigint])[]): UpdateStep => ({
  what,
  kind: "change",
  run: ({ memory }) => {
    for (const [at, value] of stores) memory.write64(at, value)
  },
})
const invalidate = (what: string, words: readonly [bigint, bigint]): UpdateStep => ({
  what,
  kind: "invalidate",
  run: machine => submit(machine, ...words),
})
const forgetDevice1 = invalidate("INVALIDATE_DEVTAB_ENTRY", [(2n << 60n) | 1n, 0n])

export const caching: CachingContract | null = {
  start,
  entries,
  commands,
  liveUpdates: [
    {
      name: "a host page is unmapped",
      source: "§2.4.3",
      request: page(1, 0x1000n),
      before: 0x100_1000n,
      after: null,
      sequence: [
        change("the page", [level1(HOST) + 8n, 0n]),
        invalidate("INVALIDATE_IOMMU_PAGES", pages(5n, 0x1000n)),
      ],
    },
    {
      name: "a device moves to another domain",
      source: "§2.2.2.2",
      request: page(1, 0x1000n),
      before: 0x100_1000n,
      after: 0x200_1000n,
      sequence: [
        change("DomainID and root", [dteAt(1n) + 8n, 8n], [dteAt(1n), hostDte(HOST_OTHER)]),
        forgetDevice1,
      ],
    },
    {
      name: "the host tables of a domain are replaced",
      source: "§2.2.2.2",
      request: page(1, 0x1000n),
      before: 0x100_1000n,
      after: 0x200_1000n,
      sequence: [
        change("the root, with the same DomainID", [dteAt(1n), hostDte(HOST_OTHER)]),
        forgetDevice1,
        invalidate("INVALIDATE_IOMMU_PAGES of everything, PDE", pages(5n, ALL | PDE)),
      ],
    },
    {
      name: "a PASID gets other guest tables",
      source: "§2.2.6.3",
      request: page(2, 0x1000n, 1),
      before: 0x600_1000n,
      after: 0x0a_1000n,
      sequence: [
        change("the guest CR3", [GCR3 + 8n, GUEST_NEW | 1n]),
        invalidate("INVALIDATE_IOMMU_PAGES with GN = 1, PDE", pages(6n, ALL | PDE | GN, 1n)),
      ],
    },
    {
      name: "the host moves a page of a guest",
      source: "§2.4.3",
      request: page(2, 0x1000n, 1),
      before: 0x600_1000n,
      after: 0x70_0000n,
      sequence: [
        change("the host page", [level1(HOST_OF_NESTED) + 8n, pte(0x70_0000n)]),
        invalidate("INVALIDATE_IOMMU_PAGES with GN = 0", pages(6n, 0x40_1000n)),
      ],
    },
  ],
}
