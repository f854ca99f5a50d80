import { hi32, IOMMU_READ, IOMMU_WRITE, lo32, NO_PASID, type WalkStep } from "@iommu/core"
import { LEDGER } from "@iommu/qemu"
import { describe, expect, it } from "vitest"
import type { Capture } from "../src/capture/load.ts"
import type { TableCall } from "../src/capture/ops-file.ts"
import type { FaultRow, TranslationRow } from "../src/capture/schema.ts"
import { type Leaf, readLeaves } from "../src/verify/leaves.ts"
import { Machine } from "../src/verify/machine.ts"
import { type CaptureReport, isClean, TABLES, verifyCapture } from "../src/verify/verify.ts"
import { fixture, fixtureNames, fixtureText } from "./capture-folder.ts"

const byLedger = new Set<string>()

describe("every committed capture", () => {
  it("has all vendors and modes among them", () => {
    expect(fixtureNames.map(name => fixture(name).vendor)).toEqual(
      expect.arrayContaining(["vtd", "smmuv3", "amd"]),
    )
    expect(fixtureNames.length).toBeGreaterThanOrEqual(10)
  })

  it.each(fixtureNames)("%s agrees in every row", name => {
    const capture = fixture(name)
    const report = verifyCapture(capture)
    expect(report.details.filter(({ explainedBy }) => explainedBy === null).slice(0, 5)).toEqual([])
    for (const table of TABLES) {
      const { checked, agree, explained, differ } = report.counts[table]
      expect(agree + explained + differ, table).toBe(checked)
      expect(differ, table).toBe(0)
      if (table !== "ops") expect(checked, table).toBe(capture[table].length)
    }
    expect(report.counts.ops.checked > 0).toBe(capture.ops !== null)
    expect(report.unknownRegisters).toEqual([])
    for (const { explainedBy } of report.details) for (const id of explainedBy ?? []) byLedger.add(id)
  })

  it("finds the slips of the ledger that these captures are known to show", () => {
    expect(LEDGER.map(({ id }) => id).filter(id => byLedger.has(id))).toEqual([
      "vtd-legacy-reasons",
      "smmuv3-ipa-offset",
      "smmuv3-tt-s2",
      "smmuv3-fetch-rnw",
      "smmuv3-tt-rnw",
      "smmuv3-ias-silent",
    ])
  })
})

describe("what must not matter", () => {
  const clean = (capture: Capture): void =>
    expect(isClean(verifyCapture({ ...capture, ops: null }))).toBe(true)
  const registersOf = (name: string, changes: Readonly<Record<string, bigint>>): Capture => {
    const capture = fixture(name)
    return { ...capture, registers: { ...capture.registers, ...changes } }
  }

  it("a fault log that is full, has overflowed, or lies outside the dump", () => {
    clean(registersOf("smmuv3-s1-4k", { EVENTQ_PROD: 0x8000_0000n, EVENTQ_CONS: 0x2_0000n, GERROR: 4n }))
    clean(registersOf("smmuv3-s2-4k", { EVENTQ_BASE: 0xfff_ffff_0005n, EVENTQ_PROD: 0x1fn }))
    clean(registersOf("amd-v1", { EVT_HEAD: 0x10n, EVT_TAIL: 0x0n, STATUS: 0x19n }))
    clean(registersOf("vtd-legacy-48", { FSTS: 0x3n, FRCD0_HI: 0x8000_0004_0000_0038n }))
  })

  it("registers that nobody knows, and missing ones that no row needs", () => {
    const { EVENTQ_CONS: _, IIDR: __, ...registers } = fixture("smmuv3-s1-4k").registers
    const report = verifyCapture({
      ...fixture("smmuv3-s1-4k"),
      registers: { ...registers, FROM_THE_FUTURE: 5n },
    })
    expect(isClean(report)).toBe(true)
    expect(report.unknownRegisters).toEqual(["FROM_THE_FUTURE"])
  })

  it.each(fixtureNames)("%s: the order of its pages and rows, and its name", name => {
    const capture = fixture(name)
    const data = new Uint8Array(capture.data.length)
    const last = capture.pages.length - 1
    for (let page = 0; page <= last; page++) {
      data.set(capture.data.subarray(page * 4096, (page + 1) * 4096), (last - page) * 4096)
    }
    clean({
      ...capture,
      name: "another",
      pages: capture.pages.toReversed(),
      data,
      faults: capture.faults.toReversed(),
      variants: capture.variants.toReversed(),
    })
  })
})

/** Leaf lists of another reader than ours: permissions as letters, everything hex. */
interface LeafList {
  readonly devices: readonly string[]
  readonly leaves: readonly (readonly [iova: string, pa: string, size: string, permissions: string])[]
}

function leafLists(name: string): [root: string, list: LeafList][] {
  return Object.entries(JSON.parse(fixtureText(name, "leaves.json")) as Record<string, LeafList>)
}

describe("leaves of another reader", () => {
  const listed = fixtureNames.filter(name => fixture(name).vendor !== "smmuv3")

  it.each(listed)("%s: are what the model finds, all of them and no more", name => {
    const capture = fixture(name)
    const machine = new Machine(capture)
    expect(leafLists(name).length).toBeGreaterThan(0)
    for (const [, { devices, leaves }] of leafLists(name)) {
      const found = readLeaves(machine, deviceOfBdf(devices[0]), capture.pages.length)
      expect(found.complete).toBe(true)
      expect(found.leaves.map(leafRow)).toEqual(
        leaves.map(([iova, pa, size, permissions]) => [iova, pa, size, permissions.replace("-", "")]),
      )
    }
  })

  it.each(listed)("%s: mapped through the driver, are the dumped ones", name => {
    const lists = leafLists(name)
    const traceDomains = Object.fromEntries(
      lists.map(([root, { devices }]) => [root, devices.map(deviceOfBdf)]),
    )
    const ops = lists.flatMap(([root, { leaves }]) => leaves.map(leaf => mapCall(root, leaf)))
    const { counts, details } = verifyCapture({
      ...fixture(name),
      translations: [],
      unmapped: [],
      faults: [],
      traceDomains,
      ops,
    })
    expect(details.slice(0, 3)).toEqual([])
    expect(counts.ops.agree).toBeGreaterThanOrEqual(ops.length)
  })
})

function mapCall(domain: string, [iova, pa, size, permissions]: LeafList["leaves"][number]): TableCall {
  return {
    kind: "map",
    line: 1,
    domain,
    iova: BigInt(`0x${iova}`),
    pa: BigInt(`0x${pa}`),
    pageSize: BigInt(`0x${size}`),
    count: 1n,
    prot: (permissions.includes("r") ? IOMMU_READ : 0) | (permissions.includes("w") ? IOMMU_WRITE : 0),
  }
}

function deviceOfBdf(bdf: string): number {
  const [bus, device, fn] = bdf.split(/[:.]/).map(part => Number.parseInt(part, 16))
  return (bus << 8) | (device << 3) | fn
}

function leafRow({ iova, pa, size, allowed }: Leaf): string[] {
  const permissions = `${allowed & 1 ? "r" : ""}${allowed & 2 ? "w" : ""}`
  return [iova.toString(16), pa.toString(16), size.toString(16), permissions]
}

describe("what is wrong is found", () => {
  const simple = "smmuv3-s1-4k"
  const differing = (report: CaptureReport): string[] =>
    TABLES.filter(table => report.counts[table].differ > 0)

  /** Only the rows given, of a fixture. */
  const only = (name: string, rows: Partial<Capture>): Capture => ({
    ...fixture(name),
    translations: [],
    unmapped: [],
    faults: [],
    variants: [],
    ops: null,
    ...rows,
  })

  const writable = (name: string): TranslationRow => {
    const row = fixture(name).translations.find(({ read, write }) => read && write)
    if (row === undefined) throw new Error("every fixture has a writable page")
    return row
  }

  it.each([
    ["pa", { pa: 0x1234_5000n }],
    ["size", { size: 1n << 20n }],
    ["write", { write: false }],
    ["read", { read: false }],
    ["device", { device: 0x7f }],
    ["iova", { iova: 0x7654_3210_0000n }],
  ])("a translation with another %s", (_, change) => {
    const good = only(simple, { translations: [writable(simple)] })
    expect(isClean(verifyCapture(good))).toBe(true)
    const bad = { ...good, translations: [{ ...writable(simple), ...change }] }
    expect(differing(verifyCapture(bad))).toEqual(["translations"])
  })

  it.each(["ipa", "s1Size", "s2Size"] as const)("a nested translation with another %s", field => {
    const row = fixture("smmuv3-nested-4k").translations[0]
    const bad = only("smmuv3-nested-4k", {
      translations: [{ ...row, [field]: (row[field] ?? 0n) + 0x1000n }],
    })
    expect(differing(verifyCapture(bad))).toEqual(["translations"])
  })

  it("a mapped page called unmapped", () => {
    const mapped = only(simple, { unmapped: [writable(simple)] })
    expect(differing(verifyCapture(mapped))).toEqual(["unmapped"])
  })

  it("a leaf that allows nothing called unmapped", () => {
    const name = "smmuv3-s2-4k"
    const row = fixture(name).translations.find(({ read, write }) => !read && write)
    if (row === undefined) throw new Error("the fixture has write-only pages")
    const capture = fixture(name)
    const data = capture.data.slice()
    const view = new DataView(data.buffer)
    const at = offsetInDump(capture, lastEntry(capture, row))
    // S2AP 7:6 of a stage 2 descriptor: 2 is write only, 0 nothing.
    view.setBigUint64(at, view.getBigUint64(at, true) & ~0xc0n, true)
    expect(differing(verifyCapture(only(name, { unmapped: [row], data })))).toEqual(["unmapped"])
  })

  it.each(fixtureNames)("%s: any single bit of the address in a leaf", name => {
    const capture = fixture(name)
    for (const row of [capture.translations[0], capture.translations.at(-1)]) {
      if (row === undefined) throw new Error("every fixture has translations")
      const entry = lastEntry(capture, row)
      for (const bit of [30n, 36n]) {
        const data = capture.data.slice()
        const view = new DataView(data.buffer)
        const at = offsetInDump(capture, entry)
        view.setBigUint64(at, view.getBigUint64(at, true) ^ (1n << bit), true)
        const report = verifyCapture(only(name, { translations: [row], data }))
        expect(report.counts.translations.differ, `bit ${bit} at 0x${entry.toString(16)}`).toBe(1)
      }
    }
  })

  it.each(fixtureNames)("%s: tables that are gone", name => {
    const capture = fixture(name)
    const report = verifyCapture(
      only(name, { translations: capture.translations, data: new Uint8Array(capture.data.length) }),
    )
    expect(report.counts.translations.differ).toBe(capture.translations.length)
  })

  describe("a fault", () => {
    const first = (name: string, of: (row: FaultRow) => boolean): FaultRow => {
      const row = fixture(name).faults.find(of)
      if (row === undefined) throw new Error("no such row")
      return row
    }
    const translation = first(simple, ({ event }) => event === "F_TRANSLATION")
    const words = translation.words ?? []
    const silent = first(simple, ({ qemu }) => qemu === "abort")
    const bypass = first(simple, ({ qemu }) => qemu === "bypass")
    const legacy = first("vtd-legacy-48", ({ code }) => code === 5n)
    const firstStage = first("vtd-scalable-first-48", ({ code }) => code === 0x71n)
    const amd = first("amd-v1", ({ reason }) => reason === "not-present")
    const amdPermission = first("amd-v1", ({ reason }) => reason === "no-write-permission")

    it.each([
      ["with another word", simple, { ...translation, words: [words[0], words[1], words[2] ^ 1n, words[3]] }],
      [
        "with another bit of the kind that the ledger knows",
        simple,
        { ...translation, words: [words[0], words[1] ^ (1n << 39n), words[2], words[3]] },
      ],
      ["with fewer words", simple, { ...translation, words: words.slice(0, 3) }],
      ["without the record that is written", simple, { ...translation, words: null }],
      ["of another event", simple, { ...translation, event: "F_PERMISSION", words: undefined }],
      [
        "that is an access which succeeds",
        simple,
        { ...translation, ...writable(simple), access: "read" as const },
      ],
      ["with a record where none is written", simple, { ...silent, words }],
      ["that is called a bypass", simple, { ...silent, qemu: "bypass" }],
      ["that is a bypass", simple, { ...bypass, qemu: "abort" }],
      ["with another VT-d reason", "vtd-legacy-48", { ...legacy, code: 6n }],
      ["with a VT-d reason of another mode", "vtd-scalable-first-48", { ...firstStage, code: 5n }],
      ["of a permission that is not at fault", "amd-v1", { ...amd, reason: "no-write-permission" }],
      ["of a page that is present", "amd-v1", { ...amdPermission, reason: "not-present" }],
    ])("%s", (_, name, row) => {
      expect(differing(verifyCapture(only(name, { faults: [row] })))).toEqual(["faults"])
    })
  })

  describe("a variant", () => {
    const { variants } = fixture("smmuv3-nested-4k")
    const faulting = variants.find(({ events }) => events.length === 2)
    const passing = variants.find(({ events }) => events.length === 0)
    if (faulting === undefined || passing === undefined) throw new Error("the fixture has both kinds")
    const [head, tail] = faulting.events

    it.each([
      ["with one record less", { ...faulting, events: [] }],
      [
        "with another address",
        { ...faulting, events: [head, tail.map((word, at) => (at === 2 ? word + 4n : word))] },
      ],
      [
        "with another event",
        { ...faulting, events: [head.map((word, at) => (at === 0 ? word ^ 1n : word)), tail] },
      ],
      ["with records where nothing faults", { ...passing, events: faulting.events }],
      ["without its patch", { ...faulting, patch: [faulting.patch[0], faulting.was ?? 0n] as const }],
      ["of other memory", { ...faulting, was: 0x1234n }],
    ])("%s", (_, row) => {
      expect(differing(verifyCapture(only("smmuv3-nested-4k", { variants: [row] })))).toEqual(["variants"])
    })

    it("leaves memory as it was", () => {
      const report = verifyCapture(only("smmuv3-nested-4k", { variants: [faulting, faulting] }))
      expect(isClean(report)).toBe(true)
    })
  })

  describe("a replay", () => {
    /** A domain with few calls and all page sizes, and its device. */
    const [name, domain, device] = ["smmuv3-s1-4k-ops", "dom7", 72]
    const calls = (fixture(name).ops ?? []).filter(call => call.domain === domain)
    const replayed = (ops: Capture["ops"]): CaptureReport =>
      verifyCapture(only(name, { ops, traceDomains: { [domain]: [device] } }))

    it("that is right", () => {
      const report = replayed(calls)
      expect(isClean(report)).toBe(true)
      expect(report.counts.ops.checked).toBeGreaterThan(500)
    })

    it("that ends early, maps another page or with another permission", () => {
      const last = calls.findLast(call => call.kind === "map" && call.count === 1n)
      if (last?.kind !== "map") throw new Error("the fixture maps single pages")
      const changes: Partial<typeof last>[] = [{ pa: last.pa ^ last.pageSize }, { prot: last.prot ^ 2 }]
      for (const change of changes) {
        const report = replayed(calls.map(call => (call === last ? { ...last, ...change } : call)))
        expect(report.counts.ops.differ).toBe(1)
      }
      expect(replayed(calls.filter(call => call !== last)).counts.ops.differ).toBe(1)
    })

    it("that maps twice, or unmaps what is not mapped", () => {
      const twice = replayed([...calls, ...calls.slice(-1)])
      expect(twice.details.map(({ row }) => row)).toEqual([expect.stringMatching(/^ops\.txt line \d+$/)])
      const hole = replayed([
        ...calls,
        { kind: "unmap", line: 99, domain, iova: 0x1000n, pageSize: 0x1000n, count: 1n },
      ])
      expect(hole.details.map(({ row }) => row)).toEqual(["ops.txt line 99"])
    })
  })
})

/** Address of the entry that the last step of a walk read. */
function lastEntry(capture: Capture, row: TranslationRow): bigint {
  const { model } = new Machine(capture)
  const steps: WalkStep[] = []
  model.trace = step => steps.push(step)
  model.translate(row.device, NO_PASID, hi32(row.iova), lo32(row.iova), row.read ? 1 : 2)
  const last = steps.at(-1)
  if (last === undefined) throw new Error("the walk read no table")
  return last.table + BigInt(last.index * 8)
}

function offsetInDump(capture: Capture, address: bigint): number {
  const page = address & ~0xfffn
  return capture.pages.indexOf(page) * 4096 + Number(address - page)
}
