/**
 * What AMD 48882 rev 3.10 says of an IOMMU, typed as words and offsets: nothing here uses the encoders of `src/spec`.
 * Device 1 has host tables, device 2 guest tables behind host tables, device 3 guest tables alone; all map 0x1000.
 */
import type { LockedRegister, ModelMachine, ModelTarget, QueueError, Step } from "@iommu/conformance"
import { type CachePolicy, createMemory } from "@iommu/core"
import { amdModel, registers } from "../src/index.ts"
import { caching } from "./model-caching.ts"

const DEVTAB = 0x1000n
const CMDBUF = 0x2000n
const EVTLOG = 0x3000n
const SCRATCH = 0x4000n
/** Tables of levels 4 to 1 follow each other. */
const HOST = 0x5000n
const GCR3 = 0x9000n
const GUEST = 0xa000n
const MEMORY_BYTES = 0x4_0000
const HOST_PAGE = 0x50_1000n
const GUEST_PAGE = 0x1f_0000n

const DEVTAB_BASE = 0x00
const CMDBUF_BASE = 0x08
const EVTLOG_BASE = 0x10
const CONTROL = 0x18
const PPR_BASE = 0x38
const CMD_HEAD = 0x2000
const CMD_TAIL = 0x2008
const EVT_HEAD = 0x2010
const EVT_TAIL = 0x2018
const STATUS = 0x2020

/** 2^8 entries, the least there is. */
const ENTRIES = 256
const LENGTH = 8n << 56n

const IOMMU_EN = 1n << 0n
const EVENT_LOG_EN = 1n << 2n
const CMD_BUF_EN = 1n << 12n
const PPR_LOG_EN = 1n << 13n
const GT_EN = 1n << 16n
const ON = IOMMU_EN | EVENT_LOG_EN | CMD_BUF_EN | GT_EN
const EVENT_OVERFLOW = 1
const EVENT_LOG_RUN = 8
const CMD_BUF_RUN = 0x10

/** §2.2.2: V, TV, Mode 4, IR, IW; GV, GIOV, and the GCR3 table's address in three pieces. */
const RIGHTS = 3n << 61n
const HOST_DTE = 3n | (4n << 9n) | HOST | RIGHTS
const GUEST_BITS = (1n << 54n) | (1n << 55n) | (((GCR3 >> 12n) & 7n) << 58n)
const GCR3_MIDDLE = ((GCR3 >> 15n) & 0xffffn) << 16n

/** §2.2.3: PR, NextLevel, IR, IW; §2.2.6: P, R/W, U/S, A. */
const pde = (table: bigint, level: bigint) => table | 1n | (level << 9n) | RIGHTS
const pte = (page: bigint) => page | 1n | RIGHTS
const V2 = 0x27n

const structures: readonly Step[] = [
  ["store", DEVTAB + 32n, HOST_DTE],
  ["store", DEVTAB + 40n, 5n],
  ["store", DEVTAB + 64n, HOST_DTE | GUEST_BITS],
  ["store", DEVTAB + 72n, 6n | GCR3_MIDDLE],
  ["store", DEVTAB + 96n, 3n | RIGHTS | GUEST_BITS],
  ["store", DEVTAB + 104n, 7n | GCR3_MIDDLE],
  // The first 2 MiB stay where they are, page 0x201000 goes elsewhere.
  ["store", HOST, pde(HOST + 0x1000n, 3n)],
  ["store", HOST + 0x1000n, pde(HOST + 0x2000n, 2n)],
  ["store", HOST + 0x2000n, pte(0n)],
  ["store", HOST + 0x2008n, pde(HOST + 0x3000n, 1n)],
  ["store", HOST + 0x3008n, pte(HOST_PAGE)],
  ["store", GCR3, GUEST | 1n],
  ["store", GUEST, (GUEST + 0x1000n) | V2],
  ["store", GUEST + 0x1000n, (GUEST + 0x2000n) | V2],
  ["store", GUEST + 0x2000n, (GUEST + 0x3000n) | V2],
  ["store", GUEST + 0x3008n, GUEST_PAGE | V2],
]

const start: readonly Step[] = [
  ...structures,
  ["write64", DEVTAB_BASE, DEVTAB],
  ["write64", CMDBUF_BASE, CMDBUF | LENGTH],
  ["write64", EVTLOG_BASE, EVTLOG | LENGTH],
  ["write64", CONTROL, EVENT_LOG_EN | CMD_BUF_EN | GT_EN],
  ["write64", CONTROL, ON],
  ["expect32", STATUS, EVENT_LOG_RUN | CMD_BUF_RUN, EVENT_LOG_RUN | CMD_BUF_RUN],
]

function put({ memory }: ModelMachine, index: number, words: readonly bigint[]): void {
  for (let i = 0; i < 2; i++) memory.write64(CMDBUF + BigInt(index * 16 + i * 8), words[i] ?? 0n)
}

function submit(machine: ModelMachine, commands: readonly (readonly bigint[])[]): void {
  const { mmio } = machine.model
  let tail = mmio.read32(CMD_TAIL) / 16
  for (const words of commands) {
    put(machine, tail, words)
    tail = (tail + 1) % ENTRIES
  }
  mmio.write32(CMD_TAIL, tail * 16)
}

/** §2.4: correct the command, then start the command buffer again by CmdBufEn. */
function resume(machine: ModelMachine, at: number, replacement: readonly bigint[]): void {
  put(machine, at, replacement)
  machine.model.mmio.write64(CONTROL, ON & ~CMD_BUF_EN)
  machine.model.mmio.write64(CONTROL, ON)
}

/** §2.5.6 ILLEGAL_COMMAND_ERROR: code 5 and the address of the command, which is the second. */
const illegal: readonly Step[] = [
  ["expect32", STATUS, CMD_BUF_RUN, 0],
  ["expect32", EVT_TAIL, 0xffff_ffff, 16],
  ["load", EVTLOG, 5n << 60n],
  ["load", EVTLOG + 8n, CMDBUF + 16n],
]
/** §2.5.7 COMMAND_HARDWARE_ERROR: code 6, a master abort, and the address. */
const aborted = (address: bigint): Step[] => [
  ["expect32", STATUS, CMD_BUF_RUN, 0],
  ["load", EVTLOG, (6n << 60n) | (1n << 57n)],
  ["load", EVTLOG + 8n, address],
]
const HOLE = 0x4000_0000n

function wrong(name: string, source: string, found: readonly Step[], ...command: bigint[]): QueueError {
  return { name, source, command, found, resume }
}

function records({ memory, model: { mmio } }: ModelMachine): bigint[][] {
  const found: bigint[][] = []
  for (let at = mmio.read32(EVT_HEAD); at !== mmio.read32(EVT_TAIL); at = (at + 16) % (ENTRIES * 16)) {
    found.push([memory.read64(EVTLOG + BigInt(at)), memory.read64(EVTLOG + BigInt(at) + 8n)])
  }
  return found
}

/** §2.5.1: logging off, all records taken, EventOverflow cleared, logging on. */
function restart({ model: { mmio } }: ModelMachine): void {
  mmio.write64(CONTROL, ON & ~EVENT_LOG_EN)
  mmio.write32(EVT_HEAD, mmio.read32(EVT_TAIL))
  mmio.write32(STATUS, EVENT_OVERFLOW)
  mmio.write64(CONTROL, ON)
}

const refused = (n: number) => ({ device: 1, iova: 0x40_0000n + BigInt(n) * 0x1000n })
const BASE = 0x000f_ffff_ffff_f000n
const BUFFER = BASE | (0xfn << 56n)
const POINTER = 0x7_fff0n
const ALL = 0xffff_ffff_ffff_ffffn
/** Destination mode, destination, vector, delivery mode. */
const XT = 0xff00_01ff_ffff_ff04n

/** A pointer that hardware moves while its buffer runs. */
function pointer(register: string, runs: string, enable: bigint, base: number): LockedRegister {
  return {
    register,
    source: `§3.4, while ${runs} is 1`,
    lock: [
      ["write64", base, EVTLOG | LENGTH],
      ["write64", CONTROL, enable | IOMMU_EN],
    ],
    unlock: [["write64", CONTROL, 0n]],
    value: 0x40n,
  }
}

export const modelTarget: ModelTarget = {
  name: "the AMD model",
  create: (caches: CachePolicy) => {
    const memory = createMemory([{ base: 0n, size: MEMORY_BYTES }])
    return { memory, model: amdModel({ memory, caches }) }
  },
  start,
  running: { device: 1, iova: 0x20_1000n, pa: HOST_PAGE },
  registers: {
    specs: registers.REGISTERS,
    reset: { CONTROL: 0n, CMD_HEAD: 0n, CMD_TAIL: 0n, EVT_HEAD: 0n, EVT_TAIL: 0n, STATUS: 0n },
    writable: {
      DEVTAB_BASE: BASE | 0x1ffn,
      CMDBUF_BASE: BUFFER,
      EVTLOG_BASE: BUFFER,
      EXCL_BASE: BASE | 3n,
      EXCL_LIMIT: BASE,
      PPR_BASE: BUFFER,
      HWEV_UPPER: ALL,
      HWEV_LOWER: ALL,
      GALOG_BASE: BUFFER,
      GALOG_TAIL_ADDR: 0x000f_ffff_ffff_fff8n,
      ...Object.fromEntries([1, 2, 3, 4, 5, 6, 7].map(n => [`DEVTAB_SEG${n}_BASE`, BASE | 0xffn])),
      DSCX: 0n,
      MSI_ADDR_LO: 0xffff_fffcn,
      MSI_ADDR_HI: 0xffff_ffffn,
      MSI_DATA: 0xffffn,
      PERF_OPT_CONTROL: 0n,
      XT_GEN_INT_CONTROL: XT,
      XT_PPR_INT_CONTROL: XT,
      XT_GA_INT_CONTROL: XT,
      CMD_HEAD: POINTER,
      CMD_TAIL: POINTER,
      EVT_HEAD: POINTER,
      EVT_TAIL: POINTER,
      PPR_HEAD: POINTER,
      PPR_TAIL: POINTER,
      GALOG_HEAD: 0xfff8n,
      GALOG_TAIL: 0xfff8n,
      PPR_AUTO_RESPONSE: 0x1fn,
      PPR_OVERFLOW_EARLY: 0xc000_7fffn,
      // Reserved without DualPprLogSup and DualEventLogSup.
      PPRB_BASE: 0n,
      PPRB_HEAD: 0n,
      PPRB_TAIL: 0n,
      PPRB_OVERFLOW_EARLY: 0n,
      EVTLOGB_BASE: 0n,
      EVTB_HEAD: 0n,
      EVTB_TAIL: 0n,
    },
    active: ["CONTROL", "MSI_CAP_HEADER"],
    clearable: [
      {
        register: "STATUS",
        bits: EVENT_OVERFLOW,
        raise: ({ model }) => {
          for (let n = 0; n < ENTRIES; n++) model.translate(1, -1, 0, 0x40_0000 + n * 0x1000, 1)
        },
      },
      // EventLogInt by any record, ComWaitInt by COMPLETION_WAIT with I.
      { register: "STATUS", bits: 2, raise: ({ model }) => model.translate(1, -1, 0, 0x40_0000, 1) },
      // HEV and HEO by two entries of the device table that no memory answers for, §2.5.
      {
        register: "HWEV_STATUS",
        bits: 3,
        raise: ({ model }) => {
          model.mmio.write64(DEVTAB_BASE, HOLE)
          for (const device of [0x10, 0x20]) model.translate(device, -1, 0, 0x1000, 1)
        },
      },
      { register: "STATUS", bits: 4, raise: machine => submit(machine, [[(1n << 60n) | 2n]]) },
    ],
    locked: [
      pointer("CMD_HEAD", "CmdBufRun", CMD_BUF_EN, CMDBUF_BASE),
      pointer("EVT_TAIL", "EventLogRun", EVENT_LOG_EN, EVTLOG_BASE),
      pointer("PPR_TAIL", "PprLogRun", PPR_LOG_EN, PPR_BASE),
    ],
    holes: [0x58, 0xd8, 0x1f00, 0x2100, 0x3ff8],
  },
  handshakes: [
    {
      name: "CmdBufRun follows CmdBufEn and IommuEn",
      source: "§3.4, MMIO Offset 0018h",
      steps: [
        ["write64", CMDBUF_BASE, CMDBUF | LENGTH],
        ["write64", CONTROL, CMD_BUF_EN],
        ["expect32", STATUS, CMD_BUF_RUN, 0],
        ["write64", CONTROL, CMD_BUF_EN | IOMMU_EN],
        ["expect32", STATUS, CMD_BUF_RUN, CMD_BUF_RUN],
        ["write64", CONTROL, IOMMU_EN],
        ["expect32", STATUS, CMD_BUF_RUN, 0],
      ],
    },
    {
      name: "EventLogRun follows EventLogEn and IommuEn",
      source: "§3.4, MMIO Offset 0018h",
      steps: [
        ["write64", EVTLOG_BASE, EVTLOG | LENGTH],
        ["write64", CONTROL, EVENT_LOG_EN],
        ["expect32", STATUS, EVENT_LOG_RUN, 0],
        ["write64", CONTROL, EVENT_LOG_EN | IOMMU_EN],
        ["expect32", STATUS, EVENT_LOG_RUN, EVENT_LOG_RUN],
        ["write64", CONTROL, EVENT_LOG_EN],
        ["expect32", STATUS, EVENT_LOG_RUN, 0],
      ],
    },
    {
      name: "a base register resets its buffer's pointers",
      source: "§2.4",
      steps: [
        ["write64", CMDBUF_BASE, CMDBUF | LENGTH],
        ["write64", CMD_TAIL, 0x40n],
        ["expect64", CMD_TAIL, 0xffff_ffffn, 0x40n],
        ["write64", CMDBUF_BASE, CMDBUF | LENGTH],
        ["expect64", CMD_TAIL, 0xffff_ffffn, 0n],
        ["expect64", CMD_HEAD, 0xffff_ffffn, 0n],
      ],
    },
  ],
  queue: {
    entries: ENTRIES,
    submit,
    head: ({ model }) => model.mmio.read32(CMD_HEAD) / 16,
    // COMPLETION_WAIT with S, §2.4.1.
    wait: (address, data) => [(1n << 60n) | address | 1n, BigInt(data)],
    scratch: SCRATCH,
    errors: [
      wrong("opcode 0", "§2.4", illegal, 0n, 0n),
      wrong("opcode 15", "§2.4", illegal, 0xfn << 60n, 0n),
      wrong("a reserved bit of INVALIDATE_DEVTAB_ENTRY", "§2.4.2", illegal, (2n << 60n) | (1n << 20n), 0n),
      wrong("a reserved word of INVALIDATE_IOMMU_ALL", "§2.4.8", illegal, 8n << 60n, 1n),
      wrong(
        "a completion store where no memory answers",
        "§2.5.7",
        aborted(HOLE),
        (1n << 60n) | HOLE | 1n,
        7n,
      ),
    ],
  },
  log: {
    // One entry stays free, so that a full log differs from an empty one.
    capacity: ENTRIES - 1,
    refused,
    records,
    identify: record => Number(((record[1] as bigint) - 0x40_0000n) >> 12n),
    overflowed: ({ model }) => (model.mmio.read32(STATUS) & EVENT_OVERFLOW) !== 0,
    restart,
  },
  structures: [
    {
      name: "DTE with host tables",
      source: "§2.2.2.1",
      start,
      request: { device: 1, iova: 0x20_1000n },
      pa: HOST_PAGE,
      at: DEVTAB + 32n,
      refused: [
        { first: 1, last: 1, reason: "IO_PAGE_FAULT" },
        { first: 2, last: 3, reason: "ILLEGAL_DEV_TABLE_ENTRY" },
        { first: 61, last: 61, reason: "IO_PAGE_FAULT" },
        { first: 63, last: 63, reason: "ILLEGAL_DEV_TABLE_ENTRY" },
        { first: 192, last: 206, reason: "ILLEGAL_DEV_TABLE_ENTRY" },
        { first: 240, last: 245, reason: "ILLEGAL_DEV_TABLE_ENTRY" },
      ],
      // The domain-id, which only tags, and all of GCR3 without GV.
      ignored: [
        [56, 60],
        [64, 95],
        [107, 127],
        [134, 179],
      ],
    },
    {
      name: "DTE with guest and host tables",
      source: "§2.2.2.1",
      start,
      request: { device: 2, iova: 0x1000n },
      pa: GUEST_PAGE,
      at: DEVTAB + 64n,
      refused: [
        { first: 1, last: 1, reason: "IO_PAGE_FAULT" },
        { first: 183, last: 183, reason: "ILLEGAL_DEV_TABLE_ENTRY" },
      ],
      ignored: [[64, 79]],
    },
    {
      name: "GCR3 table entry",
      source: "§2.2.6.3",
      start,
      request: { device: 3, iova: 0x1000n },
      pa: GUEST_PAGE,
      at: GCR3,
      refused: [
        { first: 0, last: 0, reason: "IO_PAGE_FAULT" },
        { first: 1, last: 2, reason: "IO_PAGE_FAULT" },
        { first: 5, last: 11, reason: "IO_PAGE_FAULT" },
        { first: 52, last: 63, reason: "IO_PAGE_FAULT" },
      ],
      ignored: [[3, 4]],
    },
    {
      name: "host entry of a 4 KiB page",
      source: "§2.2.3",
      start,
      request: { device: 1, iova: 0x20_1000n },
      pa: HOST_PAGE,
      at: HOST + 0x3008n,
      refused: [
        { first: 0, last: 0, reason: "IO_PAGE_FAULT" },
        { first: 61, last: 61, reason: "IO_PAGE_FAULT" },
      ],
      ignored: [
        [1, 4],
        [63, 63],
      ],
    },
    {
      name: "host entry of a table",
      source: "§2.2.3",
      start,
      request: { device: 1, iova: 0x20_1000n },
      pa: HOST_PAGE,
      at: HOST + 0x2008n,
      refused: [
        { first: 0, last: 0, reason: "IO_PAGE_FAULT" },
        { first: 10, last: 11, reason: "IO_PAGE_FAULT" },
        { first: 61, last: 61, reason: "IO_PAGE_FAULT" },
      ],
      ignored: [
        [1, 4],
        [63, 63],
      ],
    },
    {
      name: "guest entry of a 4 KiB page",
      source: "§2.2.6",
      start,
      request: { device: 3, iova: 0x1000n },
      pa: GUEST_PAGE,
      at: GUEST + 0x3008n,
      refused: [
        { first: 0, last: 0, reason: "IO_PAGE_FAULT" },
        { first: 2, last: 2, reason: "IO_PAGE_FAULT" },
      ],
      ignored: [
        [9, 11],
        [52, 62],
      ],
    },
  ],
  caching,
}
