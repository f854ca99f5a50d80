/**
 * What Arm IHI 0070 G.b says of an SMMUv3, typed as words and offsets: nothing here uses the encoders of `src/spec`.
 * Stream 1 has stage 1, stream 2 stage 2, stream 3 both; all map address 0x1000.
 */
import type { LockedRegister, ModelMachine, ModelTarget, Step } from "@iommu/conformance"
import { type CachePolicy, createMemory } from "@iommu/core"
import { registers, smmuv3Model } from "../src/index.ts"
import { caching } from "./model-caching.ts"

const RAM = 0x4000_0000n
const STREAM_TABLE = RAM
const CMDQ = RAM + 0x1000n
const EVENTQ = RAM + 0x2000n
const SCRATCH = RAM + 0x3000n
const CD = RAM + 0x4000n
/** Tables of levels 0 to 3 follow each other. */
const STAGE1 = RAM + 0x5000n
const STAGE2 = RAM + 0x9000n
const STAGE2_LOW = RAM + 0xd000n
const PAGE = RAM + 0x1_0000n
const STAGE2_PAGE = RAM + 0x1_1000n

const CR0 = 0x20
const CR0ACK = 0x24
const IRQ_CTRL = 0x50
const IRQ_CTRLACK = 0x54
const GERROR = 0x60
const GERRORN = 0x64
const STRTAB_BASE = 0x80
const STRTAB_BASE_CFG = 0x88
const CMDQ_BASE = 0x90
const CMDQ_PROD = 0x98
const CMDQ_CONS = 0x9c
const EVENTQ_BASE = 0xa0
const EVENTQ_PROD = 0x1_00a8
const EVENTQ_CONS = 0x1_00ac

/** 2^3 commands, 2^2 events. */
const COMMANDS = 8
const EVENTS = 4

/** §5.2: V, Config. Stage 2: 48 bits from level 0, 4 KiB, 48 bits out, S2AA64, S2R. */
const CONFIG_STAGE1 = 0b101n
const CONFIG_STAGE2 = 0b110n
const CONFIG_NESTED = 0b111n
const STE_VALID = 1n
const STAGE2_WORD = 7n | (16n << 32n) | (2n << 38n) | (5n << 48n) | (1n << 51n) | (1n << 58n)
/** §5.4: T0SZ 16, EPD1, V, IPS 48 bits, AA64, R, A, ASID 3. */
const CD_WORD =
  16n | (1n << 30n) | (1n << 31n) | (5n << 32n) | (1n << 41n) | (1n << 45n) | (1n << 46n) | (3n << 48n)

/** Valid table descriptor; page with AF and all permissions; block of the same. DDI 0487 §D8.3. */
const TABLE = 3n
const STAGE1_PAGE = 0x743n
const STAGE2_ALL = 0x7ffn
const STAGE2_BLOCK = 0x7fdn

function ste(stream: bigint, words: readonly bigint[]): Step[] {
  return words.map((word, i) => ["store", STREAM_TABLE + stream * 64n + BigInt(i) * 8n, word] as const)
}

const structures: readonly Step[] = [
  ...ste(1n, [STE_VALID | (CONFIG_STAGE1 << 1n) | CD]),
  ...ste(2n, [STE_VALID | (CONFIG_STAGE2 << 1n), 0n, STAGE2_WORD, STAGE2]),
  ...ste(3n, [STE_VALID | (CONFIG_NESTED << 1n) | CD, 0n, STAGE2_WORD, STAGE2]),
  ["store", CD, CD_WORD],
  ["store", CD + 8n, STAGE1],
  ["store", STAGE1, (STAGE1 + 0x1000n) | TABLE],
  ["store", STAGE1 + 0x1000n, (STAGE1 + 0x2000n) | TABLE],
  ["store", STAGE1 + 0x2000n, (STAGE1 + 0x3000n) | TABLE],
  ["store", STAGE1 + 0x3008n, PAGE | STAGE1_PAGE],
  // Stage 2: page 0x1000, and 2 MiB at RAM that stay where they are.
  ["store", STAGE2, (STAGE2 + 0x1000n) | TABLE],
  ["store", STAGE2 + 0x1000n, (STAGE2 + 0x2000n) | TABLE],
  ["store", STAGE2 + 0x1008n, STAGE2_LOW | TABLE],
  ["store", STAGE2_LOW, RAM | STAGE2_BLOCK],
  ["store", STAGE2 + 0x2000n, (STAGE2 + 0x3000n) | TABLE],
  ["store", STAGE2 + 0x3008n, STAGE2_PAGE | STAGE2_ALL],
]

/** §6.3.9: bases first, then queues, then translation. */
const enable: readonly Step[] = [
  ["write32", 0x2c, 2],
  ["write64", STRTAB_BASE, STREAM_TABLE],
  ["write32", STRTAB_BASE_CFG, 5],
  ["write64", CMDQ_BASE, CMDQ | 3n],
  ["write32", CMDQ_PROD, 0],
  ["write32", CMDQ_CONS, 0],
  ["write64", EVENTQ_BASE, EVENTQ | 2n],
  ["write32", EVENTQ_PROD, 0],
  ["write32", EVENTQ_CONS, 0],
  ["write32", CR0, 0x8],
  ["expect32", CR0ACK, 0xffff_ffff, 0x8],
  ["write32", CR0, 0xc],
  ["expect32", CR0ACK, 0xffff_ffff, 0xc],
  ["write32", CR0, 0xd],
  ["expect32", CR0ACK, 0xffff_ffff, 0xd],
]

const start: readonly Step[] = [...structures, ...enable]

function submit({ memory, model }: ModelMachine, commands: readonly (readonly bigint[])[]): void {
  let prod = model.mmio.read32(CMDQ_PROD)
  for (const words of commands) {
    words.forEach((word, i) => {
      memory.write64(CMDQ + BigInt(prod % COMMANDS) * 16n + BigInt(i) * 8n, word)
    })
    prod = (prod + 1) % (2 * COMMANDS)
  }
  model.mmio.write32(CMDQ_PROD, prod)
}

/** §7.1: correct the command, then acknowledge GERROR.CMDQ_ERR. */
function resume({ memory, model }: ModelMachine, at: number, replacement: readonly bigint[]): void {
  replacement.forEach((word, i) => {
    memory.write64(CMDQ + BigInt(at * 16 + i * 8), word)
  })
  model.mmio.write32(GERRORN, model.mmio.read32(GERROR))
}

const illegal: readonly Step[] = [
  ["expect32", GERROR, 1, 1],
  ["expect32", GERRORN, 1, 0],
  ["expect32", CMDQ_CONS, 0x7f00_0000, 0x0100_0000],
]
const wrong = (name: string, source: string, ...command: bigint[]) => ({
  name,
  source,
  command,
  found: illegal,
  resume,
})

function events({ memory, model }: ModelMachine): bigint[][] {
  const prod = model.mmio.read32(EVENTQ_PROD)
  const cons = model.mmio.read32(EVENTQ_CONS)
  const count = (prod - cons) & (2 * EVENTS - 1)
  return Array.from({ length: count }, (_, i) => {
    const at = EVENTQ + BigInt((cons + i) % EVENTS) * 32n
    return [0n, 8n, 16n, 24n].map(offset => memory.read64(at + offset))
  })
}

/** An address of bits 55:5, the hint at bit 62, and LOG2SIZE; an address of bits 55:2. */
const BASE = 0x40ff_ffff_ffff_ffffn
const MESSAGE = 0x00ff_ffff_ffff_fffcn

/** Registers that are read-only while bits of another are 1. */
function locked(
  offset: number,
  bits: number,
  source: string,
  values: Readonly<Record<string, bigint>>,
): LockedRegister[] {
  return Object.entries(values).map(([register, value]) => ({
    register,
    source,
    lock: [["write32", offset, bits]],
    unlock: [["write32", offset, 0]],
    value,
  }))
}

export const modelTarget: ModelTarget = {
  name: "the SMMUv3 model",
  create: (caches: CachePolicy) => {
    const memory = createMemory([{ base: RAM, size: 0x8_0000 }])
    return { memory, model: smmuv3Model({ memory, caches }) }
  },
  start,
  running: { device: 1, iova: 0x1000n, pa: PAGE },
  registers: {
    specs: registers.REGISTERS,
    reset: { CR0: 0n, CR0ACK: 0n, IRQ_CTRL: 0n, IRQ_CTRLACK: 0n, GERROR: 0n, GERRORN: 0n },
    writable: {
      CR1: 0xfffn,
      CR2: 0xfn,
      AGBPA: 0xffff_ffffn,
      STRTAB_BASE: 0x40ff_ffff_ffff_ffc0n,
      STRTAB_BASE_CFG: 0x3_07ffn,
      CMDQ_BASE: BASE,
      CMDQ_PROD: 0xf_ffffn,
      CMDQ_CONS: 0x7f0f_ffffn,
      EVENTQ_BASE: BASE,
      EVENTQ_PROD: 0x800f_ffffn,
      EVENTQ_CONS: 0x800f_ffffn,
      PRIQ_BASE: BASE,
      PRIQ_PROD: 0x800f_ffffn,
      PRIQ_CONS: 0x800f_ffffn,
      GERRORN: 0x1fdn,
      GERROR_IRQ_CFG0: MESSAGE,
      GERROR_IRQ_CFG1: 0xffff_ffffn,
      GERROR_IRQ_CFG2: 0x3fn,
      EVENTQ_IRQ_CFG0: MESSAGE,
      EVENTQ_IRQ_CFG1: 0xffff_ffffn,
      EVENTQ_IRQ_CFG2: 0x3fn,
      PRIQ_IRQ_CFG0: MESSAGE,
      PRIQ_IRQ_CFG1: 0xffff_ffffn,
      PRIQ_IRQ_CFG2: 0x8000_003fn,
      IRQ_CTRL: 7n,
    },
    active: ["CR0", "GBPA"],
    clearable: [],
    locked: [
      ...locked(CR0, 1, "§6.3.12, §6.3.24, §6.3.25, while CR0.SMMUEN is 1", {
        CR2: 1n,
        STRTAB_BASE: 0x1_0000n,
        STRTAB_BASE_CFG: 5n,
      }),
      ...locked(CR0, 2, "§6.3.33, §6.3.97, while CR0.PRIQEN is 1", { PRIQ_BASE: 0x1_0000n, PRIQ_PROD: 1n }),
      ...locked(CR0, 4, "§6.3.29, §6.3.95, while CR0.EVENTQEN is 1", {
        EVENTQ_BASE: 0x1_0000n,
        EVENTQ_PROD: 1n,
      }),
      ...locked(CR0, 8, "§6.3.26, §6.3.28, while CR0.CMDQEN is 1", { CMDQ_BASE: 0x1_0000n, CMDQ_CONS: 1n }),
      ...locked(CR0, 0xf, "§6.3.11, while tables and queues are in use", { CR1: 0xfffn }),
      ...["GERROR", "PRIQ", "EVENTQ"].flatMap((source, bit) =>
        locked(IRQ_CTRL, 1 << bit, `§6.3.21 on, while IRQ_CTRL.${source}_IRQEN is 1`, {
          [`${source}_IRQ_CFG0`]: 0x1_0000n,
          [`${source}_IRQ_CFG1`]: 7n,
          [`${source}_IRQ_CFG2`]: 5n,
        }),
      ),
    ],
    holes: [0x34, 0xf0, 0xfe0, 0x1_0000, 0x1_1000],
  },
  handshakes: [
    {
      name: "CR0 and CR0ACK, one enable at a time",
      source: "§6.3.9",
      steps: [0x8, 0xc, 0xe, 0xf, 0xe, 0xc, 0x8, 0].flatMap((value): Step[] => [
        ["write32", CR0, value],
        ["expect32", CR0, 0xffff_ffff, value],
        ["expect32", CR0ACK, 0xffff_ffff, value],
      ]),
    },
    {
      name: "IRQ_CTRL and IRQ_CTRLACK",
      source: "§6.3.16",
      steps: [1, 4, 5, 7, 0].flatMap((value): Step[] => [
        ["write32", IRQ_CTRL, value],
        ["expect32", IRQ_CTRLACK, 0xffff_ffff, value],
      ]),
    },
    {
      name: "GBPA.Update reads as 0 when the update is done",
      source: "§6.3.14",
      steps: [
        ["write32", 0x44, 0x8010_0000],
        ["expect32", 0x44, 0x8010_0000, 0x10_0000],
        ["write32", 0x44, 0x8000_0000],
        ["expect32", 0x44, 0x8010_0000, 0],
      ],
    },
  ],
  queue: {
    entries: COMMANDS,
    submit,
    head: ({ model }) => model.mmio.read32(CMDQ_CONS) % COMMANDS,
    // CMD_SYNC with CS = SIG_IRQ, §4.7.3.
    wait: (address, data) => [0x46n | (1n << 12n) | (BigInt(data) << 32n), address],
    scratch: SCRATCH,
    errors: [
      wrong("an opcode that does not exist", "§4.1.3", 0xffn, 0n),
      wrong("opcode 0", "§4.1.3", 0n, 0n),
      wrong("CMD_SYNC with a Reserved CS", "§4.7.3", 0x46n | (3n << 12n), 0n),
      wrong("SSec in a Non-secure queue", "§4.3.1", 0x03n | (1n << 10n), 0n),
      wrong("a TG without range and level", "§4.4.1.1", 0x12n, 1n << 10n),
    ],
  },
  log: {
    capacity: EVENTS,
    refused: n => ({ device: 1, iova: 0x10_0000n + BigInt(n) * 0x1000n }),
    records: events,
    identify: record => Number((record[2] as bigint) - 0x10_0000n) / 0x1000,
    overflowed: ({ model }) =>
      ((model.mmio.read32(EVENTQ_PROD) ^ model.mmio.read32(EVENTQ_CONS)) & 0x8000_0000) !== 0,
    // §7.4: taking everything and acknowledging is one write.
    restart: ({ model }) => model.mmio.write32(EVENTQ_CONS, model.mmio.read32(EVENTQ_PROD)),
  },
  structures: [
    {
      name: "STE of a stream with stage 1",
      source: "§5.2",
      start,
      request: { device: 1, iova: 0x1000n },
      pa: PAGE,
      at: STREAM_TABLE + 64n,
      refused: [
        { first: 0, last: 0, reason: "C_BAD_STE" },
        { first: 94, last: 94, reason: "C_BAD_STE" },
      ],
      // S1Fmt with S1CDMax 0, and all of stage 2.
      ignored: [
        [4, 5],
        [128, 143],
        [160, 178],
        [179, 183],
        [196, 243],
      ],
    },
    {
      name: "STE of a stream with stage 2",
      source: "§5.2",
      start,
      request: { device: 2, iova: 0x1000n },
      pa: STAGE2_PAGE,
      at: STREAM_TABLE + 128n,
      refused: [
        { first: 0, last: 0, reason: "C_BAD_STE" },
        { first: 179, last: 179, reason: "C_BAD_STE" },
      ],
      ignored: [
        [4, 55],
        [59, 65],
      ],
    },
    {
      name: "CD",
      source: "§5.4",
      start,
      request: { device: 1, iova: 0x1000n },
      pa: PAGE,
      at: CD,
      refused: [
        { first: 31, last: 31, reason: "C_BAD_CD" },
        { first: 41, last: 41, reason: "C_BAD_CD" },
        { first: 14, last: 14, reason: "F_TRANSLATION" },
      ],
      // T1SZ, TG1 and TTB1 with EPD1, and ASID, which only tags.
      ignored: [
        [16, 29],
        [48, 63],
        [132, 179],
      ],
    },
    {
      name: "page descriptor of stage 1",
      source: "DDI 0487 §D8.3, §7.3.13 and §7.3.15",
      start,
      request: { device: 1, iova: 0x1000n },
      pa: PAGE,
      at: STAGE1 + 0x3008n,
      refused: [
        { first: 0, last: 1, reason: "F_TRANSLATION" },
        { first: 10, last: 10, reason: "F_ACCESS" },
      ],
      ignored: [[55, 58]],
    },
    {
      name: "table descriptor of stage 1",
      source: "DDI 0487 §D8.3",
      start,
      request: { device: 1, iova: 0x1000n },
      pa: PAGE,
      at: STAGE1 + 0x2000n,
      refused: [{ first: 0, last: 0, reason: "F_TRANSLATION" }],
      ignored: [
        [2, 11],
        [52, 58],
      ],
    },
    {
      name: "page descriptor of stage 2",
      source: "DDI 0487 §D8.3, §7.3.16",
      start,
      request: { device: 2, iova: 0x1000n },
      pa: STAGE2_PAGE,
      at: STAGE2 + 0x3008n,
      refused: [
        { first: 0, last: 1, reason: "F_TRANSLATION" },
        { first: 6, last: 6, reason: "F_PERMISSION" },
        { first: 10, last: 10, reason: "F_ACCESS" },
      ],
      ignored: [[55, 58]],
    },
    {
      name: "block of stage 2 that a stage 1 table lies in",
      source: "§7.3.13",
      start,
      request: { device: 3, iova: 0x1000n },
      pa: PAGE,
      at: STAGE2_LOW,
      refused: [
        { first: 0, last: 0, reason: "F_TRANSLATION" },
        { first: 6, last: 6, reason: "F_PERMISSION" },
        { first: 10, last: 10, reason: "F_ACCESS" },
      ],
      ignored: [[55, 58]],
    },
  ],
  caching,
}
