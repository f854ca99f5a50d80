/**
 * What Intel VT-d 5.10 (D51397-018) says of a remapping unit, typed as words and offsets: nothing here uses the
 * encoders of `src/spec`. Scalable mode; device 00:00.0 has in PASID 0 (and without PASID) a first stage, in PASID 1
 * a second stage, in PASID 2 both; all map address 0x1000.
 */
import type { ModelMachine, ModelTarget, QueueError, Step } from "@iommu/conformance"
import { type CachePolicy, createMemory } from "@iommu/core"
import { registers, vtdModel } from "../src/index.ts"
import { caching } from "./model-caching.ts"

const ROOT = 0x1000n
const CONTEXT = 0x2000n
const DIRECTORY = 0x3000n
const PASID_TABLE = 0x4000n
const QUEUE = 0x5000n
const SCRATCH = 0x6000n
/** Tables of levels 4 to 1 follow each other. */
const FIRST = 0x7000n
const SECOND = 0xb000n
const LEGACY_ROOT = 0xf000n
const LEGACY_CONTEXT = 0x1_0000n
const MEMORY_BYTES = 0x4_0000
const FIRST_PAGE = 0x1f_0000n
const SECOND_PAGE = 0x50_1000n

const GCMD = 0x18
const GSTS = 0x1c
const RTADDR = 0x20
const FSTS = 0x34
const IQH = 0x80
const IQT = 0x88
const IQA = 0x90
const IQERCD = 0xb0
/** CAP.FRO of the model's default, times 16. */
const FRCD = 0x220
const RECORDS = 8

const TE = 0x8000_0000
const SRTP = 0x4000_0000
const QIE = 0x400_0000
const IRE = 0x200_0000
const SIRTP = 0x100_0000
const CFI = 0x80_0000
const SCALABLE = 1n << 10n

/** §9.7: P, R/W, U/S, A; §9.8: R, W. */
const FS = 0x27n
const SS = 3n
const PS = 1n << 7n

/** §9.6: P, AW 2 (4 levels), PGTT. */
const pasidEntry = (index: bigint, pgtt: bigint, domain: bigint): Step[] => [
  ["store", PASID_TABLE + index * 64n, 1n | (2n << 2n) | (pgtt << 6n) | (pgtt === 1n ? 0n : SECOND)],
  ["store", PASID_TABLE + index * 64n + 8n, domain],
  ["store", PASID_TABLE + index * 64n + 16n, pgtt === 2n ? 0n : FIRST],
]

const tables: readonly Step[] = [
  ["store", FIRST, (FIRST + 0x1000n) | FS],
  ["store", FIRST + 0x1000n, (FIRST + 0x2000n) | FS],
  ["store", FIRST + 0x2000n, (FIRST + 0x3000n) | FS],
  ["store", FIRST + 0x3008n, FIRST_PAGE | FS],
  // Second stage: the first 2 MiB stay where they are, page 0x201000 goes elsewhere.
  ["store", SECOND, (SECOND + 0x1000n) | SS],
  ["store", SECOND + 0x1000n, (SECOND + 0x2000n) | SS],
  ["store", SECOND + 0x2000n, SS | PS],
  ["store", SECOND + 0x2008n, (SECOND + 0x3000n) | SS],
  ["store", SECOND + 0x3008n, SECOND_PAGE | SS],
]

const scalableStructures: readonly Step[] = [
  ["store", ROOT, CONTEXT | 1n],
  // §9.4: P, PASIDE.
  ["store", CONTEXT, DIRECTORY | 9n],
  ["store", DIRECTORY, PASID_TABLE | 1n],
  ...pasidEntry(0n, 1n, 5n),
  ...pasidEntry(1n, 2n, 6n),
  ...pasidEntry(2n, 3n, 7n),
  ...tables,
]

const start: readonly Step[] = [
  ...scalableStructures,
  ["write64", RTADDR, ROOT | SCALABLE],
  ["write32", GCMD, SRTP],
  ["expect32", GSTS, SRTP, SRTP],
  // Descriptors of 256 bits, one page: 128 of them.
  ["write64", IQA, QUEUE | 0x800n],
  ["write32", GCMD, QIE],
  ["expect32", GSTS, QIE, QIE],
  ["write32", GCMD, QIE + TE],
  ["expect32", GSTS, TE + QIE, TE + QIE],
]

const legacyStart: readonly Step[] = [
  ["store", LEGACY_ROOT, LEGACY_CONTEXT | 1n],
  ["store", LEGACY_CONTEXT, SECOND | 1n],
  // §9.3: AW 2, domain-id 5.
  ["store", LEGACY_CONTEXT + 8n, 2n | (5n << 8n)],
  ...tables,
  ["write64", RTADDR, LEGACY_ROOT],
  ["write32", GCMD, SRTP],
  ["write32", GCMD, TE],
]

const ENTRIES = 128

function put({ memory }: ModelMachine, index: number, words: readonly bigint[]): void {
  for (let i = 0; i < 4; i++) memory.write64(QUEUE + BigInt(index * 32 + i * 8), words[i] ?? 0n)
}

function submit(machine: ModelMachine, commands: readonly (readonly bigint[])[]): void {
  const { mmio } = machine.model
  let tail = Number(mmio.read64(IQT)) / 32
  for (const words of commands) {
    put(machine, tail, words)
    tail = (tail + 1) % ENTRIES
  }
  mmio.write64(IQT, BigInt(tail * 32))
}

/** §6.5.2.11: correct the descriptor, then clear IQE. */
function resume(machine: ModelMachine, at: number, replacement: readonly bigint[]): void {
  put(machine, at, replacement)
  machine.model.mmio.write32(FSTS, 0x10)
}

/** @param iqei IQERCD.IQEI, §11.4.9.9 */
function wrong(name: string, source: string, iqei: bigint, ...command: bigint[]): QueueError {
  const found: Step[] = [
    ["expect32", FSTS, 0x10, 0x10],
    ["expect64", IQERCD, 0xfn, iqei],
  ]
  return { name, source, command, found, resume }
}

/** Records with F set, from FSTS.FRI on, §7.2.1. */
function records({ model: { mmio } }: ModelMachine): bigint[][] {
  const first = (mmio.read32(FSTS) >>> 8) & 0xff
  const found: bigint[][] = []
  for (let n = 0; n < RECORDS; n++) {
    const at = FRCD + 16 * ((first + n) % RECORDS)
    const words = [mmio.read64(at), mmio.read64(at + 8)]
    if ((words[1] as bigint) >> 63n === 0n) break
    found.push(words)
  }
  return found
}

/** §7.2.1: clear F of each record, then PFO. */
function restart({ model: { mmio } }: ModelMachine): void {
  for (let n = 0; n < RECORDS; n++) mmio.write32(FRCD + 16 * n + 12, 0x8000_0000)
  mmio.write32(FSTS, 1)
}

const WAIT_INTERRUPT = [5n | (1n << 4n)]
const refused = (n: number) => ({ device: 0, iova: 0x40_0000n + BigInt(n) * 0x1000n })

export const modelTarget: ModelTarget = {
  name: "the VT-d model",
  create: (caches: CachePolicy) => {
    const memory = createMemory([{ base: 0n, size: MEMORY_BYTES }])
    return { memory, model: vtdModel({ memory, caches }) }
  },
  start,
  running: { device: 0, iova: 0x1000n, pa: FIRST_PAGE },
  registers: {
    specs: registers.REGISTERS,
    reset: {
      GSTS: 0n,
      RTADDR: 0n,
      CCMD: 0n,
      FSTS: 0n,
      FECTL: 0x8000_0000n,
      IQH: 0n,
      IQT: 0n,
      IQA: 0n,
      ICS: 0n,
      IECTL: 0x8000_0000n,
      IRTA: 0n,
      PQH: 0n,
      PQT: 0n,
      PQA: 0n,
      PRS: 0n,
      PECTL: 0x8000_0000n,
    },
    writable: {
      RTADDR: 0xffff_ffff_ffff_fc00n,
      FECTL: 0x8000_0000n,
      FEDATA: 0xffffn,
      FEADDR: 0xffff_fffcn,
      FEUADDR: 0xffff_ffffn,
      IQA: 0xffff_ffff_ffff_f807n,
      IECTL: 0x8000_0000n,
      IEDATA: 0xffffn,
      IEADDR: 0xffff_fffcn,
      IEUADDR: 0xffff_ffffn,
      IRTA: 0xffff_ffff_ffff_f80fn,
      PQA: 0xffff_ffff_ffff_f007n,
      PECTL: 0x8000_0000n,
      PEDATA: 0xffffn,
      PEADDR: 0xffff_fffcn,
      PEUADDR: 0xffff_ffffn,
      IQT: 0x7_fff0n,
      PQH: 0x7_ffe0n,
      PQT: 0x7_ffe0n,
      // Without PLMR and PHMR there is no protected memory, without AFL no advanced log.
      PMEN: 0n,
      PLMBASE: 0n,
      PLMLIMIT: 0n,
      PHMBASE: 0n,
      PHMLIMIT: 0n,
    },
    active: ["CCMD", "PRS"],
    clearable: [
      {
        register: "FSTS",
        bits: 1,
        raise: ({ model }) => {
          for (let n = 0; n <= RECORDS; n++) model.translate(0, -1, 0, 0x40_0000 + n * 0x1000, 1)
        },
      },
      {
        register: "FSTS",
        bits: 0x10,
        raise: machine => {
          submit(machine, [[0xfn]])
          // Cleared, the queue goes on with what then stands there.
          put(machine, 0, [5n])
        },
      },
      { register: "ICS", bits: 1, raise: machine => submit(machine, [WAIT_INTERRUPT]) },
    ],
    locked: [],
    holes: [0x50, 0x54, 0x3f0, 0xff8],
  },
  handshakes: [
    {
      name: "SRTP and RTPS, TE and TES",
      source: "§11.4.4",
      steps: [
        ["write64", RTADDR, ROOT | SCALABLE],
        ["expect32", GSTS, 0xffff_ffff, 0],
        ["write32", GCMD, SRTP],
        ["expect32", GSTS, 0xffff_ffff, SRTP],
        ["write32", GCMD, TE],
        ["expect32", GSTS, 0xffff_ffff, TE + SRTP],
        ["write32", GCMD, 0],
        ["expect32", GSTS, 0xffff_ffff, SRTP],
      ],
    },
    {
      name: "QIE and QIES; the head starts at 0 again",
      source: "§11.4.4, §6.5.2",
      steps: [
        ["write64", IQA, QUEUE],
        ["write32", GCMD, QIE],
        ["expect32", GSTS, 0xffff_ffff, QIE],
        ["store", QUEUE, 5n | (1n << 5n) | (0x77n << 32n)],
        ["store", QUEUE + 8n, SCRATCH],
        ["write64", IQT, 0x10n],
        ["expect64", IQH, 0xffff_ffff_ffff_ffffn, 0x10n],
        ["load", SCRATCH, 0x77n],
        ["write32", GCMD, 0],
        ["expect32", GSTS, 0xffff_ffff, 0],
        ["expect64", IQH, 0xffff_ffff_ffff_ffffn, 0n],
      ],
    },
    {
      name: "SIRTP and IRTPS, IRE and IRES, CFI and CFIS",
      source: "§11.4.4",
      steps: [
        ["write32", GCMD, SIRTP],
        ["expect32", GSTS, 0xffff_ffff, SIRTP],
        ["write32", GCMD, IRE],
        ["expect32", GSTS, 0xffff_ffff, SIRTP + IRE],
        ["write32", GCMD, IRE + CFI],
        ["expect32", GSTS, 0xffff_ffff, SIRTP + IRE + CFI],
        ["write32", GCMD, 0],
        ["expect32", GSTS, 0xffff_ffff, SIRTP],
      ],
    },
  ],
  queue: {
    entries: ENTRIES,
    submit,
    head: ({ model }) => Number(model.mmio.read64(IQH)) / 32,
    // inv_wait_dsc with SW, §6.5.2.9.
    wait: (address, data) => [5n | (1n << 5n) | (BigInt(data) << 32n), address, 0n, 0n],
    scratch: SCRATCH,
    errors: [
      wrong("type 0", "§6.5.2, IQEI 3", 3n, 0n),
      wrong("type 15", "§6.5.2, IQEI 3", 3n, 0xfn),
      wrong("a reserved bit of an IOTLB invalidation", "§6.5.2.4, IQEI 4", 4n, 2n | (1n << 4n) | (1n << 8n)),
      wrong("a reserved word of a wait", "§6.5.2.9, IQEI 4", 4n, 5n, 0n, 0n, 1n),
      wrong("a context-cache invalidation of granularity 0", "§6.5.2.1, IQEI 4", 4n, 1n),
    ],
  },
  log: {
    capacity: RECORDS,
    refused,
    records,
    identify: record => Number(((record[0] as bigint) - 0x40_0000n) >> 12n),
    overflowed: ({ model }) => (model.mmio.read32(FSTS) & 1) !== 0,
    restart,
  },
  structures: [
    {
      name: "root entry",
      source: "§9.1",
      start: legacyStart,
      request: { device: 0, iova: 0x20_1000n },
      pa: SECOND_PAGE,
      at: LEGACY_ROOT,
      refused: [
        { first: 0, last: 0, reason: "LRT.2" },
        { first: 1, last: 11, reason: "LRT.3" },
        { first: 52, last: 127, reason: "LRT.3" },
      ],
      ignored: [],
    },
    {
      name: "context entry",
      source: "§9.3",
      start: legacyStart,
      request: { device: 0, iova: 0x20_1000n },
      pa: SECOND_PAGE,
      at: LEGACY_CONTEXT,
      refused: [
        { first: 0, last: 0, reason: "LCT.2" },
        { first: 4, last: 11, reason: "LCT.3" },
        { first: 52, last: 63, reason: "LCT.3" },
        { first: 71, last: 71, reason: "LCT.3" },
        { first: 88, last: 127, reason: "LCT.3" },
      ],
      // FPD, the bits for software, and the domain-id, which only tags.
      ignored: [
        [1, 1],
        [67, 70],
        [72, 87],
      ],
    },
    {
      name: "scalable-mode root entry",
      source: "§9.2",
      start,
      request: { device: 0, iova: 0x1000n },
      pa: FIRST_PAGE,
      at: ROOT,
      refused: [
        { first: 0, last: 0, reason: "SRT.2" },
        { first: 1, last: 11, reason: "SRT.3" },
        { first: 52, last: 63, reason: "SRT.3" },
      ],
      // The upper half is for devices 16 to 31.
      ignored: [[64, 127]],
    },
    {
      name: "scalable-mode context entry",
      source: "§9.4",
      start,
      request: { device: 0, iova: 0x1000n },
      pa: FIRST_PAGE,
      at: CONTEXT,
      refused: [
        { first: 0, last: 0, reason: "SCT.2" },
        { first: 5, last: 8, reason: "SCT.3" },
        { first: 52, last: 63, reason: "SCT.3" },
        { first: 85, last: 255, reason: "SCT.3" },
      ],
      ignored: [[1, 3]],
    },
    {
      name: "PASID directory entry",
      source: "§9.5",
      start,
      request: { device: 0, iova: 0x1000n },
      pa: FIRST_PAGE,
      at: DIRECTORY,
      refused: [
        { first: 0, last: 0, reason: "SPD.2" },
        { first: 2, last: 11, reason: "SPD.3" },
        { first: 52, last: 63, reason: "SPD.3" },
      ],
      ignored: [[1, 1]],
    },
    {
      name: "PASID table entry",
      source: "§9.6",
      start,
      request: { device: 0, iova: 0x1000n },
      pa: FIRST_PAGE,
      at: PASID_TABLE,
      refused: [
        { first: 0, last: 0, reason: "SPT.2" },
        { first: 5, last: 5, reason: "SPT.3" },
        { first: 10, last: 11, reason: "SPT.3" },
        { first: 80, last: 86, reason: "SPT.3" },
        { first: 91, last: 95, reason: "SPT.3" },
        { first: 129, last: 129, reason: "SPT.3" },
        { first: 136, last: 139, reason: "SPT.3" },
        { first: 180, last: 511, reason: "SPT.3" },
      ],
      // FPD, the domain-id, which only tags, and two bits that older revisions had.
      ignored: [
        [1, 1],
        [64, 79],
        [133, 134],
      ],
    },
    {
      name: "first-stage entry of a 4 KiB page",
      source: "§9.7",
      start,
      request: { device: 0, iova: 0x1000n },
      pa: FIRST_PAGE,
      at: FIRST + 0x3008n,
      refused: [{ first: 0, last: 0, reason: "SFS.2" }],
      // EA counts with EAFE alone; protection keys have no meaning here.
      ignored: [
        [9, 11],
        [52, 62],
      ],
    },
    {
      name: "second-stage entry of a 4 KiB page",
      source: "§9.8",
      start,
      request: { device: 0, pasid: 1, iova: 0x20_1000n },
      pa: SECOND_PAGE,
      at: SECOND + 0x3008n,
      refused: [
        { first: 0, last: 0, reason: "SGN.7" },
        { first: 62, last: 62, reason: "SSS.3" },
      ],
      ignored: [
        [7, 7],
        [10, 10],
        [52, 61],
        [63, 63],
      ],
    },
    {
      name: "second-stage entry of 2 MiB that first-stage tables lie in",
      source: "§9.8",
      start,
      request: { device: 0, pasid: 2, iova: 0x1000n },
      pa: FIRST_PAGE,
      at: SECOND + 0x2000n,
      refused: [
        { first: 0, last: 0, reason: "SFS.6" },
        { first: 12, last: 20, reason: "SSS.3" },
        { first: 62, last: 62, reason: "SSS.3" },
      ],
      ignored: [
        [10, 10],
        [52, 61],
        [63, 63],
      ],
    },
  ],
  caching,
}
