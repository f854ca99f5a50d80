/**
 * What an SMMUv3 may cache and what drops it. Arm IHI 0070 G.b §3.17 (tags), §3.21 (what may be cached), §4.3
 * (configuration) and §4.4 (TLBs), typed as words.
 *
 * Stream 1 has stage 1 with VMID 5: SubstreamID 0 (also without one) with ASID 3, SubstreamID 1 with ASID 4. Stream 2
 * has stage 2 with VMID 7, stream 3 both stages with VMID 8 and ASID 3, stream 4 stage 1 with VMID 6 and ASID 3,
 * stream 5 stage 2 with VMID 9; the STE of stream 6 is not valid. Stream 7 has stage 1 with VMID 10 and two levels of
 * CD tables, streams 8 and 9 stage 1 in StreamWorld EL2 with ASIDs 3 and 4. Streams from 64 on have Level 2 arrays of their own, and bypass.
 */
import {
  type CachedEntry,
  type CachingContract,
  cachedEntry,
  type InvalidationCase,
  type ModelMachine,
  type Step,
} from "@iommu/conformance"

const RAM = 0x4000_0000n
const STREAM_TABLE = RAM
const CMDQ = RAM + 0x1000n
const EVENTQ = RAM + 0x2000n
const LEVEL1 = RAM + 0x3000n
/** Four CDs of stream 1; one each of streams 3 and 4. */
const CDS = RAM + 0x4000n
const NESTED_CD = RAM + 0x5000n
const OTHER_CD = RAM + 0x6000n
/** Level 2 arrays for streams 64 to 127. */
const UPPER_STREAMS = RAM + 0x7000n
const OTHER_UPPER_STREAMS = RAM + 0x8000n
/** First level and leaves of stream 7's CD tables. */
const L1CDS = RAM + 0x9000n
const CD_LEAF = RAM + 0xa000n
const OTHER_CD_LEAF = RAM + 0xb000n
/** Of streams 8 and 9. */
const EL2_CD = RAM + 0xc000n
const EL2_OTHER_CD = RAM + 0xd000n

/** Trees of six tables: levels 0 to 3, another table of level 3, a table of level 2 for the second 1 GiB. */
const STAGE1 = RAM + 0x1_0000n
const STAGE1_ASID4 = RAM + 0x1_6000n
const STAGE1_NESTED = RAM + 0x1_c000n
const STAGE1_VMID6 = RAM + 0x2_2000n
const STAGE1_NEW = RAM + 0x2_8000n
const STAGE2 = RAM + 0x2_e000n
const STAGE2_NESTED = RAM + 0x3_4000n
const STAGE2_VMID9 = RAM + 0x3_a000n
const STAGE2_NEW = RAM + 0x4_0000n

const CR0 = 0x20
const CR2 = 0x2c
const STRTAB_BASE = 0x80
const STRTAB_BASE_CFG = 0x88
const CMDQ_BASE = 0x90
const CMDQ_PROD = 0x98
const EVENTQ_BASE = 0xa0

const TABLE = 3n
/** Stage 1 with AF and AP 01: nG, global; a block of the same. Stage 2 with AF and S2AP 11. DDI 0487 §D8.3. */
const PAGE = 0xf43n
const GLOBAL_PAGE = 0x743n
const BLOCK = 0xf41n
const STAGE2_PAGE = 0x7ffn
const STAGE2_BLOCK = 0x7fdn

const level2 = (tree: bigint): bigint => tree + 0x2000n
const level3 = (tree: bigint): bigint => tree + 0x3000n
const otherLevel3 = (tree: bigint): bigint => tree + 0x4000n
const level2OfSecondGiB = (tree: bigint): bigint => tree + 0x5000n

/** Pages 0x1000, 0x2000 and 0x5000 at `pages` + their address; the other table of level 3 has 0x2000 elsewhere. */
function tree(at: bigint, flags: bigint, pages: bigint): Step[] {
  return [
    ["store", at, (at + 0x1000n) | TABLE],
    ["store", at + 0x1000n, level2(at) | TABLE],
    ["store", at + 0x1008n, level2OfSecondGiB(at) | TABLE],
    ["store", level2(at), level3(at) | TABLE],
    ["store", level3(at) + 0x08n, (pages + 0x1000n) | flags],
    ["store", level3(at) + 0x10n, (pages + 0x2000n) | flags],
    ["store", level3(at) + 0x28n, (pages + 0x5000n) | flags],
    ["store", otherLevel3(at) + 0x10n, (pages + 0x9000n) | flags],
  ]
}

const ste = (stream: bigint, words: readonly bigint[]): Step[] =>
  words.map((word, i) => ["store", STREAM_TABLE + stream * 64n + BigInt(i) * 8n, word] as const)
/** §5.2: V, Config 5, S1ContextPtr, S1CDMax; S1DSS 2; S2VMID. */
const withStage1 = (cd: bigint, cdMax: bigint, vmid: bigint): bigint[] => [
  1n | (5n << 1n) | cd | (cdMax << 59n),
  2n,
  vmid,
]
/** S2VMID; 48 bits from level 0, 4 KiB, 48 bits out, S2AA64, S2R. */
const stage2Word = (vmid: bigint): bigint =>
  vmid | (16n << 32n) | (2n << 38n) | (5n << 48n) | (1n << 51n) | (1n << 58n)
const withStage2 = (root: bigint, vmid: bigint): bigint[] => [1n | (6n << 1n), 0n, stage2Word(vmid), root]
/** Config 4: both stages bypassed; Config 0: abort. */
const BYPASS = 1n | (4n << 1n)
const ABORT = 1n
/** Span of an L1STD for 64 STEs, V of an L1CD. §5.1.1, §5.3. */
const SPAN_64 = 7n
const L1CD_V = 1n
/** §5.2 STRW EL2. */
const EL2 = 2n << 30n
/** §5.4: T0SZ 16, EPD1, V, IPS 48 bits, AA64, R, A, ASET, ASID. */
const cdWord = (asid: bigint): bigint =>
  16n |
  (1n << 30n) |
  (1n << 31n) |
  (5n << 32n) |
  (1n << 41n) |
  (1n << 45n) |
  (1n << 46n) |
  (1n << 47n) |
  (asid << 48n)
const cd = (at: bigint, asid: bigint, root: bigint): Step[] => [
  ["store", at, cdWord(asid)],
  ["store", at + 8n, root],
]

const start: readonly Step[] = [
  ...ste(1n, withStage1(CDS, 2n, 5n)),
  ...ste(2n, withStage2(STAGE2, 7n)),
  ...ste(3n, [1n | (7n << 1n) | NESTED_CD, 0n, stage2Word(8n), STAGE2_NESTED]),
  ...ste(4n, withStage1(OTHER_CD, 0n, 6n)),
  ...ste(5n, withStage2(STAGE2_VMID9, 9n)),
  ...ste(7n, [(1n << 4n) | (withStage1(L1CDS, 8n, 10n)[0] as bigint), 2n, 10n]),
  ...ste(8n, [withStage1(EL2_CD, 0n, 0n)[0] as bigint, EL2]),
  ...ste(9n, [withStage1(EL2_OTHER_CD, 0n, 0n)[0] as bigint, EL2]),
  ["store", LEVEL1, STREAM_TABLE | SPAN_64],
  ["store", LEVEL1 + 8n, UPPER_STREAMS | SPAN_64],
  ...[0n, 64n].flatMap((offset): Step[] => [
    ["store", UPPER_STREAMS + offset, BYPASS],
    ["store", OTHER_UPPER_STREAMS + offset, ABORT],
  ]),
  ["store", L1CDS, CD_LEAF | L1CD_V],
  ...cd(CD_LEAF + 64n, 13n, STAGE1),
  ...cd(CD_LEAF + 128n, 11n, STAGE1_ASID4),
  ...cd(OTHER_CD_LEAF + 128n, 12n, STAGE1_NEW),
  ...cd(EL2_CD, 3n, STAGE1_VMID6),
  ...cd(EL2_OTHER_CD, 4n, STAGE1_ASID4),
  ["store", level3(STAGE1_VMID6) + 0x30n, 0x300_6000n | GLOBAL_PAGE],
  ...cd(CDS, 3n, STAGE1),
  ...cd(CDS + 64n, 4n, STAGE1_ASID4),
  ...cd(NESTED_CD, 3n, STAGE1_NESTED),
  ...cd(OTHER_CD, 3n, STAGE1_VMID6),
  ...tree(STAGE1, PAGE, 0x100_0000n),
  ["store", level3(STAGE1) + 0x30n, 0x100_6000n | GLOBAL_PAGE],
  ["store", level2(STAGE1) + 8n, 0x120_0000n | BLOCK],
  ...tree(STAGE1_ASID4, PAGE, 0x200_0000n),
  ...tree(STAGE1_VMID6, PAGE, 0x300_0000n),
  ...tree(STAGE1_NEW, PAGE, 0x400_0000n),
  ...tree(STAGE2, STAGE2_PAGE, 0x500_0000n),
  ...tree(STAGE2_VMID9, STAGE2_PAGE, 0x600_0000n),
  ...tree(STAGE2_NEW, STAGE2_PAGE, 0x700_0000n),
  // Stream 3's page 0x1000 is at 0x1000 of its stage 2, in which the tables at RAM stay where they are.
  ...tree(STAGE1_NESTED, PAGE, 0n),
  ...tree(STAGE2_NESTED, STAGE2_PAGE, 0x800_0000n),
  ["store", level2OfSecondGiB(STAGE2_NESTED), RAM | STAGE2_BLOCK],
  ["write64", STRTAB_BASE, LEVEL1],
  // Two levels, SPLIT 6, 128 streams.
  ["write32", STRTAB_BASE_CFG, (1 << 16) | (6 << 6) | 7],
  ["write64", CMDQ_BASE, CMDQ | 3n],
  ["write64", EVENTQ_BASE, EVENTQ | 2n],
  ["write32", CR0, 0x8],
  ["write32", CR0, 0xc],
  ["write32", CR0, 0xd],
]

const page = (device: number, iova: bigint, pasid?: number) =>
  pasid === undefined ? { device, iova } : { device, iova, pasid }

const entries: Readonly<Record<string, CachedEntry>> = {
  STE: cachedEntry("STE of stream 2", "§3.21.3", {
    request: page(2, 0x1000n),
    change: [[STREAM_TABLE + 128n, BYPASS]],
    before: 0x500_1000n,
    after: 0x1000n,
  }),
  "STE, another": cachedEntry("STE of stream 5", "§3.21.3", {
    request: page(5, 0x1000n),
    change: [[STREAM_TABLE + 320n, BYPASS]],
    before: 0x600_1000n,
    after: 0x1000n,
  }),
  "STE, not valid": cachedEntry("STE of stream 6", "§3.21.3", {
    request: page(6, 0x1000n),
    change: [[STREAM_TABLE + 384n, BYPASS]],
    before: null,
    after: 0x1000n,
  }),
  L1STD: cachedEntry("L1STD of streams 64 to 127", "§3.21.3", {
    primedBy: [page(64, 0x1000n)],
    request: page(65, 0x1000n),
    change: [[LEVEL1 + 8n, OTHER_UPPER_STREAMS | SPAN_64]],
    before: 0x1000n,
    after: null,
  }),
  L1CD: cachedEntry("L1CD of stream 7, SubstreamIDs 0 to 63", "§3.21.3", {
    primedBy: [page(7, 0x1000n, 1)],
    request: page(7, 0x1000n, 2),
    change: [[L1CDS, OTHER_CD_LEAF | L1CD_V]],
    before: 0x200_1000n,
    after: 0x400_1000n,
  }),
  // With an ASID that no TLB entry has yet.
  CD: cachedEntry("CD of stream 1, SubstreamID 0", "§3.21.3", {
    request: page(1, 0x1000n),
    change: [
      [CDS, cdWord(9n)],
      [CDS + 8n, STAGE1_NEW],
    ],
    before: 0x100_1000n,
    after: 0x400_1000n,
  }),
  "CD, another": cachedEntry("CD of stream 1, SubstreamID 1", "§3.21.3", {
    request: page(1, 0x1000n, 1),
    change: [
      [CDS + 64n, cdWord(9n)],
      [CDS + 72n, STAGE1_NEW],
    ],
    before: 0x200_1000n,
    after: 0x400_1000n,
  }),
  "stage 1": cachedEntry("TLB: VMID 5, ASID 3, page 0x1000", "§3.17", {
    request: page(1, 0x1000n),
    change: [[level3(STAGE1) + 0x08n, 0x70_0000n | PAGE]],
    before: 0x100_1000n,
    after: 0x70_0000n,
  }),
  "stage 1, another page": cachedEntry("TLB: VMID 5, ASID 3, page 0x5000", "§3.17", {
    request: page(1, 0x5000n),
    change: [[level3(STAGE1) + 0x28n, 0x70_0000n | PAGE]],
    before: 0x100_5000n,
    after: 0x70_0000n,
  }),
  "stage 1, global": cachedEntry("TLB: VMID 5, any ASID, page 0x6000", "§3.17", {
    request: page(1, 0x6000n),
    change: [[level3(STAGE1) + 0x30n, 0x70_0000n | GLOBAL_PAGE]],
    before: 0x100_6000n,
    after: 0x70_0000n,
  }),
  "stage 1, 2 MiB": cachedEntry("TLB: VMID 5, ASID 3, block of 2 MiB at 0x200000", "§3.17", {
    request: page(1, 0x20_3000n),
    change: [[level2(STAGE1) + 8n, 0x140_0000n | BLOCK]],
    before: 0x120_3000n,
    after: 0x140_3000n,
  }),
  "stage 1, another ASID": cachedEntry("TLB: VMID 5, ASID 4, page 0x1000", "§3.17", {
    request: page(1, 0x1000n, 1),
    change: [[level3(STAGE1_ASID4) + 0x08n, 0x70_0000n | PAGE]],
    before: 0x200_1000n,
    after: 0x70_0000n,
  }),
  "stage 1, another VMID": cachedEntry("TLB: VMID 6, ASID 3, page 0x1000", "§3.17", {
    request: page(4, 0x1000n),
    change: [[level3(STAGE1_VMID6) + 0x08n, 0x70_0000n | PAGE]],
    before: 0x300_1000n,
    after: 0x70_0000n,
  }),
  EL2: cachedEntry("TLB: StreamWorld EL2, page 0x1000", "§3.17", {
    request: page(8, 0x1000n),
    change: [[level3(STAGE1_VMID6) + 0x08n, 0x70_0000n | PAGE]],
    before: 0x300_1000n,
    after: 0x70_0000n,
  }),
  "EL2, table": cachedEntry("walk cache: StreamWorld EL2, level 3 table of the first 2 MiB", "§16.2", {
    primedBy: [page(8, 0x1000n)],
    request: page(8, 0x2000n),
    change: [[level2(STAGE1_VMID6), otherLevel3(STAGE1_VMID6) | TABLE]],
    before: 0x300_2000n,
    after: 0x300_9000n,
  }),
  "stage 1, table": cachedEntry("walk cache: VMID 5, ASID 3, level 3 table of the first 2 MiB", "§16.2", {
    primedBy: [page(1, 0x1000n)],
    request: page(1, 0x2000n),
    change: [[level2(STAGE1), otherLevel3(STAGE1) | TABLE]],
    before: 0x100_2000n,
    after: 0x100_9000n,
  }),
  "stage 2": cachedEntry("TLB: VMID 7, intermediate page 0x1000", "§3.17", {
    request: page(2, 0x1000n),
    change: [[level3(STAGE2) + 0x08n, 0x70_0000n | STAGE2_PAGE]],
    before: 0x500_1000n,
    after: 0x70_0000n,
  }),
  "stage 2, another page": cachedEntry("TLB: VMID 7, intermediate page 0x5000", "§3.17", {
    request: page(2, 0x5000n),
    change: [[level3(STAGE2) + 0x28n, 0x70_0000n | STAGE2_PAGE]],
    before: 0x500_5000n,
    after: 0x70_0000n,
  }),
  "stage 2, another VMID": cachedEntry("TLB: VMID 9, intermediate page 0x1000", "§3.17", {
    request: page(5, 0x1000n),
    change: [[level3(STAGE2_VMID9) + 0x08n, 0x70_0000n | STAGE2_PAGE]],
    before: 0x600_1000n,
    after: 0x70_0000n,
  }),
  "stage 2, table": cachedEntry("walk cache: VMID 7, level 3 table of the first 2 MiB", "§16.2", {
    primedBy: [page(2, 0x1000n)],
    request: page(2, 0x2000n),
    change: [[level2(STAGE2), otherLevel3(STAGE2) | TABLE]],
    before: 0x500_2000n,
    after: 0x500_9000n,
  }),
  nested: cachedEntry("TLB: both stages, VMID 8, ASID 3, page 0x1000, stage 1 leaf", "§3.17", {
    request: page(3, 0x1000n),
    change: [[level3(STAGE1_NESTED) + 0x08n, 0x5000n | PAGE]],
    before: 0x800_1000n,
    after: 0x800_5000n,
  }),
  // The combination of both stages and stage 2 alone are kept apart: no command for one stage drops both.
  "nested, stage 2 leaf": cachedEntry(
    "TLB: both stages, VMID 8, ASID 3, page 0x1000, stage 2 leaf",
    "§4.4.3.1",
    {
      request: page(3, 0x1000n),
      change: [[level3(STAGE2_NESTED) + 0x08n, 0x70_0000n | STAGE2_PAGE]],
      before: 0x800_1000n,
      after: 0x70_0000n,
    },
  ),
  "stage 1, invalid": cachedEntry("a page without a valid descriptor", "§3.21.1", {
    request: page(1, 0x3000n),
    change: [[level3(STAGE1) + 0x18n, 0x70_0000n | PAGE]],
    before: null,
    after: 0x70_0000n,
    cacheable: false,
  }),
  "stage 2, invalid": cachedEntry("an intermediate page without a valid descriptor", "§3.21.1", {
    request: page(2, 0x3000n),
    change: [[level3(STAGE2) + 0x18n, 0x70_0000n | STAGE2_PAGE]],
    before: null,
    after: 0x70_0000n,
    cacheable: false,
  }),
}

function submit({ memory, model: { mmio } }: ModelMachine, words: readonly bigint[]): void {
  const prod = mmio.read32(CMDQ_PROD)
  for (let i = 0; i < 2; i++) memory.write64(CMDQ + BigInt((prod & 7) * 16 + i * 8), words[i] ?? 0n)
  mmio.write32(CMDQ_PROD, (prod + 1) & 0xf)
}

const queued = (
  name: string,
  source: string,
  words: readonly bigint[],
  drops: readonly string[],
): InvalidationCase => ({ name, source, issue: machine => submit(machine, words), drops })

/** The same with CR0.VMW: low bits of the VMID that do not count, §3.17.6. */
const queuedWithVmw = (
  vmw: number,
  name: string,
  words: readonly bigint[],
  drops: readonly string[],
): InvalidationCase => ({
  name: `${name} with VMW ${vmw}`,
  source: "§3.17.6",
  issue: machine => {
    machine.model.mmio.write32(CR0, 0xd | (vmw << 6))
    submit(machine, words)
  },
  drops,
})

const cfgiSte = (stream: bigint, leaf = 1n): bigint[] => [0x03n | (stream << 32n), leaf]
const cfgiRange = (stream: bigint, range: bigint): bigint[] => [0x04n | (stream << 32n), range]
const cfgiCd = (stream: bigint, substream: bigint, leaf = 1n): bigint[] => [
  0x05n | (1n << 11n) | (substream << 12n) | (stream << 32n),
  leaf,
]
const cfgiCdAll = (stream: bigint): bigint[] => [0x06n | (stream << 32n)]
const nhAll = (vmid: bigint): bigint[] => [0x10n | (vmid << 32n)]
const nhAsid = (vmid: bigint, asid: bigint): bigint[] => [0x11n | (vmid << 32n) | (asid << 48n)]
const LEAF = 1n
/** NUM, SCALE 0; TG 4 KiB. */
const pages = (count: bigint): bigint => (count - 1n) << 12n
const TG_4K = 1n << 10n
const TTL_2 = 2n << 8n
const TTL_3 = 3n << 8n
const nhVa = (vmid: bigint, asid: bigint, second: bigint, range = 0n): bigint[] => [
  0x12n | range | (vmid << 32n) | (asid << 48n),
  second,
]
const nhVaa = (vmid: bigint, second: bigint): bigint[] => [0x13n | (vmid << 32n), second]
const el2Asid = (asid: bigint): bigint[] => [0x21n | (asid << 48n)]
const el2Va = (second: bigint, asid = 0n): bigint[] => [0x22n | (asid << 48n), second]
const el2Vaa = (second: bigint): bigint[] => [0x23n, second]
const s12Vmall = (vmid: bigint): bigint[] => [0x28n | (vmid << 32n)]
const s2Ipa = (vmid: bigint, second: bigint): bigint[] => [0x2an | (vmid << 32n), second]

const ASID_3 = ["stage 1", "stage 1, another page", "stage 1, 2 MiB", "stage 1, table"]
const VMID_5 = [...ASID_3, "stage 1, global", "stage 1, another ASID"]
const VMID_7 = ["stage 2", "stage 2, another page", "stage 2, table"]
const VMID_8 = ["nested", "nested, stage 2 leaf"]
const TRANSLATIONS = [...VMID_5, "stage 1, another VMID", ...VMID_7, "stage 2, another VMID", ...VMID_8]
const EL2_ENTRIES = ["EL2", "EL2, table"]
const CDS_OF_1 = ["CD", "CD, another"]
const STES = ["STE", "STE, another", "STE, not valid"]

const commands: readonly InvalidationCase[] = [
  queued("CMD_SYNC", "§4.7.3", [0x46n], []),
  queued("CMD_CFGI_STE of stream 2", "§4.3.1", cfgiSte(2n), ["STE"]),
  queued("CMD_CFGI_STE of stream 1", "§4.3.1", cfgiSte(1n), CDS_OF_1),
  queued("CMD_CFGI_STE of stream 6", "§4.3.1", cfgiSte(6n), ["STE, not valid"]),
  queued("CMD_CFGI_STE_RANGE of streams 0 and 1", "§4.3.2", cfgiRange(0n, 0n), CDS_OF_1),
  queued("CMD_CFGI_STE_RANGE of streams 4 to 7", "§4.3.2", cfgiRange(4n, 1n), [
    "STE, another",
    "STE, not valid",
    "L1CD",
  ]),
  queued("CMD_CFGI_STE_RANGE of streams 64 to 127", "§4.3.2", cfgiRange(64n, 5n), ["L1STD"]),
  queued("CMD_CFGI_ALL", "§4.3.2", cfgiRange(0n, 31n), [...STES, ...CDS_OF_1, "L1STD", "L1CD"]),
  queued("CMD_CFGI_STE of stream 7", "§4.3.1", cfgiSte(7n), ["L1CD"]),
  queued("CMD_CFGI_STE of stream 64", "§4.3.1", cfgiSte(64n), []),
  queued("CMD_CFGI_STE of stream 64 without Leaf", "§4.3.1", cfgiSte(64n, 0n), ["L1STD"]),
  queued("CMD_CFGI_STE of stream 0 without Leaf", "§4.3.1", cfgiSte(0n, 0n), []),
  queued("CMD_CFGI_CD of SubstreamID 0", "§4.3.3", cfgiCd(1n, 0n), ["CD"]),
  queued("CMD_CFGI_CD of SubstreamID 1", "§4.3.3", cfgiCd(1n, 1n), ["CD, another"]),
  queued("CMD_CFGI_CD of another stream", "§4.3.3", cfgiCd(3n, 0n), []),
  queued("CMD_CFGI_CD of stream 7", "§4.3.3", cfgiCd(7n, 1n), []),
  queued("CMD_CFGI_CD of stream 7 without Leaf", "§4.3.3", cfgiCd(7n, 1n, 0n), ["L1CD"]),
  queued("CMD_CFGI_CD of another L1CD of stream 7 without Leaf", "§4.3.3", cfgiCd(7n, 64n, 0n), []),
  queued("CMD_CFGI_CD_ALL", "§4.3.4", cfgiCdAll(1n), CDS_OF_1),
  queued("CMD_CFGI_CD_ALL of stream 7", "§4.3.4", cfgiCdAll(7n), ["L1CD"]),
  queued("CMD_TLBI_NH_ALL of VMID 5", "§4.4.2.1", nhAll(5n), VMID_5),
  queued("CMD_TLBI_NH_ALL of VMID 6", "§4.4.2.1", nhAll(6n), ["stage 1, another VMID"]),
  queued("CMD_TLBI_NH_ALL of VMID 7", "§4.4.2.1", nhAll(7n), []),
  queued("CMD_TLBI_NH_ALL of VMID 8", "§4.4.2.1", nhAll(8n), ["nested"]),
  queued("CMD_TLBI_NH_ASID of ASID 3", "§4.4.2.2", nhAsid(5n, 3n), ASID_3),
  queued("CMD_TLBI_NH_ASID of ASID 4", "§4.4.2.2", nhAsid(5n, 4n), ["stage 1, another ASID"]),
  queued("CMD_TLBI_NH_ASID of another VMID", "§4.4.2.2", nhAsid(7n, 3n), []),
  queued("CMD_TLBI_NH_VA", "§4.4.2.3", nhVa(5n, 3n, 0x1000n), ["stage 1", "stage 1, table"]),
  queued("CMD_TLBI_NH_VA with Leaf", "§4.4.2.3", nhVa(5n, 3n, 0x1000n | LEAF), ["stage 1"]),
  queued("CMD_TLBI_NH_VA of a global page by another ASID", "§4.4.2.3", nhVa(5n, 4n, 0x6000n | LEAF), [
    "stage 1, global",
  ]),
  queued("CMD_TLBI_NH_VA in a block", "§4.4.2.3", nhVa(5n, 3n, 0x20_3000n | LEAF), ["stage 1, 2 MiB"]),
  queued("CMD_TLBI_NH_VA of both stages", "§4.4.2.3", nhVa(8n, 3n, 0x1000n), ["nested"]),
  queued("CMD_TLBI_NH_VA of a page that nobody has", "§4.4.2.3", nhVa(5n, 3n, 0x4000_0000n | LEAF), []),
  queued("CMD_TLBI_NH_VA of 8 pages", "§4.4.1.1", nhVa(5n, 3n, LEAF | TG_4K, pages(8n)), [
    "stage 1",
    "stage 1, another page",
    "stage 1, global",
  ]),
  queued("CMD_TLBI_NH_VA of 2 pages", "§4.4.1.1", nhVa(5n, 3n, LEAF | TG_4K, pages(2n)), ["stage 1"]),
  queued("CMD_TLBI_NH_VA with TTL 3", "§4.4.1.1", nhVa(5n, 3n, 0x1000n | LEAF | TG_4K | TTL_3), ["stage 1"]),
  queued("CMD_TLBI_NH_VA with TTL 2", "§4.4.1.1", nhVa(5n, 3n, 0x20_0000n | LEAF | TG_4K | TTL_2), [
    "stage 1, 2 MiB",
  ]),
  queued("CMD_TLBI_NH_VAA", "§4.4.2.4", nhVaa(5n, 0x1000n | LEAF), ["stage 1", "stage 1, another ASID"]),
  queued("CMD_TLBI_S12_VMALL of VMID 7", "§4.4.3.2", s12Vmall(7n), VMID_7),
  queued("CMD_TLBI_S12_VMALL of VMID 8", "§4.4.3.2", s12Vmall(8n), VMID_8),
  queued("CMD_TLBI_S12_VMALL of VMID 5", "§4.4.3.2", s12Vmall(5n), VMID_5),
  queued("CMD_TLBI_S2_IPA", "§4.4.3.1", s2Ipa(7n, 0x1000n), ["stage 2", "stage 2, table"]),
  queued("CMD_TLBI_S2_IPA with Leaf", "§4.4.3.1", s2Ipa(7n, 0x1000n | LEAF), ["stage 2"]),
  queued("CMD_TLBI_S2_IPA of VMID 9", "§4.4.3.1", s2Ipa(9n, 0x1000n | LEAF), ["stage 2, another VMID"]),
  queued("CMD_TLBI_S2_IPA of both stages", "§4.4.3.1", s2Ipa(8n, 0x1000n), []),
  queued("CMD_TLBI_NSNH_ALL", "§4.4.4.1", [0x30n], TRANSLATIONS),
  queuedWithVmw(1, "CMD_TLBI_S12_VMALL of VMID 8", s12Vmall(8n), [...VMID_8, "stage 2, another VMID"]),
  queuedWithVmw(2, "CMD_TLBI_NH_ALL of VMID 4", nhAll(4n), [...VMID_5, "stage 1, another VMID"]),
  queuedWithVmw(1, "CMD_TLBI_NH_ASID of VMID 7", nhAsid(7n, 3n), ["stage 1, another VMID"]),
  queuedWithVmw(1, "CMD_TLBI_S2_IPA of VMID 6", s2Ipa(6n, 0x1000n | LEAF), ["stage 2"]),
  queuedWithVmw(7, "CMD_TLBI_S12_VMALL of VMID 8", s12Vmall(8n), VMID_8),
  queued("CMD_TLBI_NH_ALL of VMID 0", "§4.4.2.1", nhAll(0n), []),
  queued("CMD_TLBI_EL2_ALL", "§4.4.2.7", [0x20n], EL2_ENTRIES),
  queued("CMD_TLBI_EL2_VA", "§4.4.2.8", el2Va(0x1000n), EL2_ENTRIES),
  queued("CMD_TLBI_EL2_VA with Leaf", "§4.4.2.8", el2Va(0x1000n | LEAF), ["EL2"]),
  queued("CMD_TLBI_EL2_VA of another page", "§4.4.2.8", el2Va(0x4000_0000n | LEAF), []),
  queued("CMD_TLBI_EL2_VAA with Leaf", "§4.4.2.9", el2Vaa(0x1000n | LEAF), ["EL2"]),
  // Of EL2-E2H alone, which CR2.E2H selects.
  queued("CMD_TLBI_EL2_ASID", "§4.4.2.10", el2Asid(3n), []),
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
      name: "a page of stage 1 goes",
      source: "§3.21.1",
      request: page(1, 0x1000n),
      before: 0x100_1000n,
      after: null,
      sequence: [
        { what: "the descriptor", kind: "change", run: store(level3(STAGE1) + 0x08n, 0n) },
        { what: "CMD_TLBI_NH_VA", kind: "invalidate", run: issue(nhVa(5n, 3n, 0x1000n | LEAF)) },
      ],
    },
    {
      name: "a page of stage 2 under a stage 1 moves",
      source: "§4.4.3.1",
      request: page(3, 0x1000n),
      before: 0x800_1000n,
      after: 0x70_0000n,
      sequence: [
        {
          what: "the descriptor",
          kind: "change",
          run: store(level3(STAGE2_NESTED) + 0x08n, 0x70_0000n | STAGE2_PAGE),
        },
        { what: "CMD_TLBI_S2_IPA", kind: "invalidate", run: issue(s2Ipa(8n, 0x1000n | LEAF)) },
        { what: "CMD_TLBI_NH_ALL", kind: "invalidate", run: issue(nhAll(8n)) },
      ],
    },
    {
      name: "a CD gets other tables under its ASID",
      source: "§3.21.3",
      request: page(1, 0x1000n),
      before: 0x100_1000n,
      after: 0x400_1000n,
      sequence: [
        { what: "TTB0", kind: "change", run: store(CDS + 8n, STAGE1_NEW) },
        { what: "CMD_CFGI_CD", kind: "invalidate", run: issue(cfgiCd(1n, 0n)) },
        { what: "CMD_TLBI_NH_ASID", kind: "invalidate", run: issue(nhAsid(5n, 3n)) },
      ],
    },
    {
      name: "an STE gets other tables under its VMID",
      source: "§3.21.3",
      request: page(2, 0x1000n),
      before: 0x500_1000n,
      after: 0x700_1000n,
      sequence: [
        { what: "S2TTB", kind: "change", run: store(STREAM_TABLE + 152n, STAGE2_NEW) },
        { what: "CMD_CFGI_STE", kind: "invalidate", run: issue(cfgiSte(2n)) },
        { what: "CMD_TLBI_S12_VMALL", kind: "invalidate", run: issue(s12Vmall(7n)) },
      ],
    },
  ],
}

/** StreamWorld EL2-E2H has ASIDs and global pages: the same machine with CR2.E2H = 1. §3.17.5. */
export const cachingE2h: CachingContract = {
  start: [["write32", CR2, 1], ...start],
  entries: {
    E2H: cachedEntry("TLB: StreamWorld EL2-E2H, ASID 3, page 0x1000", "§3.17", {
      request: page(8, 0x1000n),
      change: [[level3(STAGE1_VMID6) + 0x08n, 0x70_0000n | PAGE]],
      before: 0x300_1000n,
      after: 0x70_0000n,
    }),
    "E2H, global": cachedEntry("TLB: StreamWorld EL2-E2H, any ASID, page 0x6000", "§3.17", {
      request: page(8, 0x6000n),
      change: [[level3(STAGE1_VMID6) + 0x30n, 0x70_0000n | GLOBAL_PAGE]],
      before: 0x300_6000n,
      after: 0x70_0000n,
    }),
    "E2H, another ASID": cachedEntry("TLB: StreamWorld EL2-E2H, ASID 4, page 0x1000", "§3.17", {
      request: page(9, 0x1000n),
      change: [[level3(STAGE1_ASID4) + 0x08n, 0x70_0000n | PAGE]],
      before: 0x200_1000n,
      after: 0x70_0000n,
    }),
    "E2H, table": cachedEntry(
      "walk cache: StreamWorld EL2-E2H, ASID 3, level 3 table of the first 2 MiB",
      "§16.2",
      {
        primedBy: [page(8, 0x1000n)],
        request: page(8, 0x2000n),
        change: [[level2(STAGE1_VMID6), otherLevel3(STAGE1_VMID6) | TABLE]],
        before: 0x300_2000n,
        after: 0x300_9000n,
      },
    ),
  },
  commands: [
    queued(
      "CMD_TLBI_EL2_ALL",
      "§4.4.2.7",
      [0x20n],
      ["E2H", "E2H, global", "E2H, another ASID", "E2H, table"],
    ),
    queued("CMD_TLBI_EL2_ASID of ASID 3", "§4.4.2.10", el2Asid(3n), ["E2H", "E2H, table"]),
    queued("CMD_TLBI_EL2_ASID of ASID 4", "§4.4.2.10", el2Asid(4n), ["E2H, another ASID"]),
    queued("CMD_TLBI_EL2_VA of ASID 3", "§4.4.2.8", el2Va(0x1000n, 3n), ["E2H", "E2H, table"]),
    queued("CMD_TLBI_EL2_VA of ASID 4 with Leaf", "§4.4.2.8", el2Va(0x1000n | LEAF, 4n), [
      "E2H, another ASID",
    ]),
    queued("CMD_TLBI_EL2_VA of a global page by another ASID", "§4.4.2.8", el2Va(0x6000n | LEAF, 4n), [
      "E2H, global",
    ]),
    queued("CMD_TLBI_EL2_VAA with Leaf", "§4.4.2.9", el2Vaa(0x1000n | LEAF), ["E2H", "E2H, another ASID"]),
    queued("CMD_TLBI_NH_ALL of VMID 0", "§4.4.2.1", nhAll(0n), []),
    queued("CMD_TLBI_NSNH_ALL", "§4.4.4.1", [0x30n], []),
  ],
  liveUpdates: [
    {
      name: "a CD of EL2-E2H gets other tables under its ASID",
      source: "§3.21.3",
      request: page(8, 0x1000n),
      before: 0x300_1000n,
      after: 0x400_1000n,
      sequence: [
        { what: "TTB0", kind: "change", run: store(EL2_CD + 8n, STAGE1_NEW) },
        { what: "CMD_CFGI_CD", kind: "invalidate", run: issue(cfgiCd(8n, 0n)) },
        { what: "CMD_TLBI_EL2_ASID", kind: "invalidate", run: issue(el2Asid(3n)) },
      ],
    },
  ],
}
