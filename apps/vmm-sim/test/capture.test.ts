import { statSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { packFiles, unpackFiles } from "../src/capture/container.ts"
import { findCaptures } from "../src/capture/discover.ts"
import { openCapture } from "../src/capture/files.ts"
import { InputError } from "../src/capture/input-error.ts"
import { loadCapture } from "../src/capture/load.ts"
import { parseOps } from "../src/capture/ops-file.ts"
import { packCapture } from "../src/capture/pack.ts"
import { fixtureNames, fixturePath, folder, ONE_PAGE, SMALL, smallCapture } from "./capture-folder.ts"

function load(path: string): unknown {
  return loadCapture(openCapture(path))
}

function failure(run: () => unknown): InputError {
  try {
    run()
  } catch (error) {
    if (error instanceof InputError) return error
    throw error
  }
  throw new Error("nothing was wrong")
}

const row = { device: 8, iova: "0x1000" }

describe("a capture that can be used", () => {
  it("has its numbers as numbers, and its name from the folder when it has none", () => {
    const path = smallCapture({ name: undefined, faults: [{ ...row, access: "read", words: ["0x10", 1] }] })
    const capture = loadCapture(openCapture(path))
    expect(capture.name).toMatch(/^capture-\d+$/)
    expect(capture.registers).toEqual({ CR0: 0n })
    expect(capture.faults).toEqual([{ device: 8, iova: 0x1000n, access: "read", words: [0x10n, 1n] }])
  })

  it("may have fields, files and kinds of rows that are not known here, and may lack tables", () => {
    const { translations: _, unmapped: __, faults: ___, ...rest } = SMALL
    const path = folder({
      "capture.json": JSON.stringify({
        ...rest,
        moon: { phase: 3 },
        registers: { FUTURE: "0xffffffffffffffff" },
      }),
      "pages.bin": ONE_PAGE,
      "notes.txt": "hello",
    })
    expect(load(path)).toMatchObject({ translations: [], unmapped: [], faults: [], variants: [], ops: null })
  })
})

describe("a capture that cannot be used says which file, what is wrong and where", () => {
  const json = (text: string): string => folder({ "capture.json": text, "pages.bin": ONE_PAGE })
  const offsetOf = (document: unknown, text: string): number => JSON.stringify(document).indexOf(text)

  it.each([
    ["a missing capture.json", () => folder({ "pages.bin": ONE_PAGE }), "capture.json", /is missing/, null],
    [
      "a missing pages.bin",
      () => folder({ "capture.json": JSON.stringify(SMALL) }),
      "pages.bin",
      /is missing/,
      null,
    ],
    ["an empty file", () => json(""), "capture.json", /is not JSON/, 0],
    [
      "text after the document",
      () => json(`${JSON.stringify(SMALL)}x`),
      "capture.json",
      /is not JSON/,
      JSON.stringify(SMALL).length,
    ],
    [
      "a missing comma, after two-byte letters",
      () => json('{"näme": "ü" "schema": 1}'),
      "capture.json",
      /comma expected/i,
      15,
    ],
    [
      "a document that ends early",
      () => json('{"schema": 1, "pages": ["0x0"'),
      "capture.json",
      /is not JSON/,
      29,
    ],
    ["a comment", () => json('{/* */"schema": 1}'), "capture.json", /is not JSON/, 1],
    ["a document that is no capture", () => json("[1]"), "capture.json", /schema: is missing/, 0],
    ["a document that is no object", () => json("1"), "capture.json", /the document: .*Object/, 0],
  ] as const)("%s", (_, make, file, message, offset) => {
    const error = failure(() => load(make()))
    expect(error.file.endsWith(file)).toBe(true)
    expect(error.message).toMatch(message)
    expect(error.place).toEqual(offset === null ? null : { offset })
  })

  it("bytes that are no UTF-8", () => {
    const path = folder({ "capture.json": new Uint8Array([0x7b, 0x22, 0xff, 0x22]), "pages.bin": ONE_PAGE })
    const error = failure(() => load(path))
    expect(error.message).toMatch(/UTF-8/)
    expect(error.place).toEqual({ offset: 2 })
  })

  const badRow = (table: string, bad: unknown): Record<string, unknown> => ({ [table]: [bad] })
  it.each([
    ["an unknown vendor", { vendor: "riscv" }, '"riscv"', /vendor: must be one of vtd, smmuv3, amd/],
    ["an unknown schema", { schema: 2 }, "2", /schema: must be 1/],
    ["a page that is not aligned", { pages: ["0x40000800"] }, '"0x40000800"', /pages\[0\]/],
    ["a register that is no hex", { registers: { CR0: "12" } }, '"12"', /registers\.CR0/],
    ["a register beyond 64 bits", { registers: { CR0: "0x10000000000000000" } }, '"0x1000', /registers\.CR0/],
    ["a row with bad hex", badRow("unmapped", { device: 8, iova: "0xzz" }), '"0xzz"', /unmapped\[0\]\.iova/],
    [
      "a row without a device",
      badRow("unmapped", { iova: "0x0" }),
      '{"iova"',
      /unmapped\[0\]\.device: is missing/,
    ],
    ["a negative device", badRow("unmapped", { device: -1, iova: "0x0" }), "-1", /unmapped\[0\]\.device/],
    ["a fraction", badRow("unmapped", { device: 1, iova: 0.5 }), "0.5", /unmapped\[0\]\.iova/],
    ["an unknown access", badRow("faults", { ...row, access: "poke" }), '"poke"', /faults\[0\]\.access/],
    [
      "words that are no array",
      badRow("faults", { ...row, access: "read", words: 4 }),
      "4}",
      /faults\[0\]\.words/,
    ],
    [
      "a patch outside the dump",
      badRow("variants", { patch: ["0x50000000", "0x0"], sid: 1, iova: "0x0", write: false, events: [] }),
      '"0x50000000"',
      /variants\[0\]\.patch\[0\].*no dumped page/,
    ],
    [
      "a patch that is not aligned",
      badRow("variants", { patch: ["0x40000004", "0x0"], sid: 1, iova: "0x0", write: false, events: [] }),
      '"0x40000004"',
      /variants\[0\]\.patch\[0\].*aligned/,
    ],
  ])("%s", (_, changes, culprit, message) => {
    const error = failure(() => load(smallCapture(changes)))
    expect(error.file).toMatch(/capture\.json$/)
    expect(error.message).toMatch(message)
    expect(error.place).toEqual({ offset: offsetOf({ ...SMALL, ...changes }, culprit) })
  })

  it("a source id beyond 16 bits on VT-d and AMD, where a StreamID may have 32", () => {
    const wide = { unmapped: [{ device: 0x10000, iova: "0x0" }] }
    expect(failure(() => load(smallCapture({ ...wide, vendor: "vtd" }))).message).toMatch(
      /unmapped\[0\]\.device/,
    )
    expect(failure(() => load(smallCapture({ ...wide, vendor: "amd" }))).message).toMatch(
      /unmapped\[0\]\.device/,
    )
    expect(load(smallCapture(wide))).toBeDefined()
  })

  it("a page that stands twice", () => {
    const pages = ["0x40000000", "0x40001000", "0x40000000"]
    const error = failure(() => load(smallCapture({ pages }, new Uint8Array(3 * 4096))))
    expect(error.message).toMatch(/pages\[2\]: 0x40000000 stands at pages\[0\] already/)
  })

  it.each([0, 4095, 4097, 8192])("pages.bin of %i bytes for one page", bytes => {
    const error = failure(() => load(smallCapture({}, new Uint8Array(bytes))))
    expect(error.file).toMatch(/pages\.bin$/)
    expect(error.message).toMatch(new RegExp(`has ${bytes} bytes, but 1 pages of 4096`))
    expect(error.place).toEqual({ offset: Math.min(bytes, 4096) })
  })

  it("a leaves.json that ends early", () => {
    const files = {
      "capture.json": JSON.stringify(SMALL),
      "pages.bin": ONE_PAGE,
      "leaves.json": '{"0x1000": [',
    }
    const error = failure(() => load(folder(files)))
    expect(error.message).toMatch(/leaves\.json: is not JSON/)
    expect(error.place).toEqual({ offset: 12 })
  })

  it("ops.txt without the devices of its domains", () => {
    const path = folder({ "capture.json": JSON.stringify(SMALL), "pages.bin": ONE_PAGE, "ops.txt": "" })
    expect(failure(() => load(path)).message).toMatch(/traceDomains is missing/)
  })

  it("a path where nothing is, and a folder without captures", () => {
    expect(failure(() => findCaptures(["/no/such/path"])).message).toMatch(
      /^\/no\/such\/path: cannot be read/,
    )
    expect(failure(() => findCaptures([folder({ "readme.md": "" })])).message).toMatch(/holds no capture/)
  })

  it("whatever bytes capture.json has, loading ends in an InputError or a capture", () => {
    const text = JSON.stringify({ ...SMALL, faults: [{ ...row, access: "read" }] })
    fc.assert(
      fc.property(fc.nat(text.length - 1), fc.string({ unit: "binary", maxLength: 3 }), (at, noise) => {
        const path = json(text.slice(0, at) + noise + text.slice(at + 1))
        try {
          load(path)
        } catch (error) {
          expect(error).toBeInstanceOf(InputError)
        }
      }),
      { seed: 7, numRuns: 300 },
    )
  })
})

describe("ops.txt", () => {
  const parse = (text: string): unknown => parseOps(new TextEncoder().encode(text), "ops.txt")

  it("is calls in order, with comments and blank lines between", () => {
    expect(parse("# made by hand\n\nm dom0 ffff0000 8090000 1000 16 1a\r\nu dom0 ffff0000 1000 2\n")).toEqual(
      [
        {
          kind: "map",
          line: 3,
          domain: "dom0",
          iova: 0xffff0000n,
          pa: 0x8090000n,
          pageSize: 0x1000n,
          count: 16n,
          prot: 0x1a,
        },
        { kind: "unmap", line: 4, domain: "dom0", iova: 0xffff0000n, pageSize: 0x1000n, count: 2n },
      ],
    )
  })

  it.each([
    ["x dom0 0 0 1000 1 1", /neither "m" nor "u"/],
    ["m dom0 0 0 1000 1", /takes domain iova pa pgsize pgcount prot/],
    ["u dom0 0 1000 1 7", /takes domain iova pgsize pgcount/],
    ["m dom0 0x 0 1000 1 1", /iova "0x"/],
    ["m dom0 0 12345678901234567 1000 1 1", /pa "12345678901234567"/],
    ["m dom0 0 0 1000 a 1", /pgcount "a" is no decimal/],
    ["m dom0 0 0 1800 1 1", /pgsize 1800 is no power of two/],
    ["u dom0 0 800 1", /pgsize 800 is no power of two/],
    ["m dom0 0 0 1000 1 40", /prot 40/],
  ])("refuses %s", (line, message) => {
    const error = failure(() => parse(`# comment\n${line}\n`))
    expect(error.message).toMatch(message)
    expect(error.place).toEqual({ line: 2 })
  })
})

describe("packed captures", () => {
  it("hold the same bytes", () => {
    const files = [
      { name: "capture.json", bytes: new TextEncoder().encode(JSON.stringify(SMALL)) },
      { name: "pages.bin", bytes: ONE_PAGE.map((_, index) => index) },
      { name: "empty", bytes: new Uint8Array() },
    ]
    const unpacked = unpackFiles(packFiles(files), "x.capture")
    expect([...unpacked.keys()]).toEqual(files.map(({ name }) => name))
    for (const { name, bytes } of files) expect(Buffer.compare(unpacked.get(name)!, bytes)).toBe(0)
  })

  it("are made of a folder, without its logs", () => {
    const source = folder({
      "capture.json": JSON.stringify(SMALL),
      "pages.bin": ONE_PAGE,
      "dmesg.txt": "much text",
    })
    const target = join(folder({}), "small.capture")
    writeFileSync(target, packCapture(source))
    expect(load(target)).toEqual(load(source))
    expect(openCapture(target).readOptional("dmesg.txt")).toBeNull()
  })

  it("are refused when damaged", () => {
    const packed = packFiles([{ name: "capture.json", bytes: ONE_PAGE }])
    const damaged = [
      new Uint8Array(),
      packed.subarray(0, packed.length - 1),
      new TextEncoder().encode("no brotli at all"),
      packFiles([]).subarray(1),
    ]
    for (const bytes of damaged)
      expect(failure(() => unpackFiles(bytes, "x")).message).toMatch(/packed capture/)
  })

  it("of the fixtures take 3 MiB at most", () => {
    const bytes = fixtureNames.map(name => statSync(fixturePath(name)).size)
    expect(bytes.reduce((sum, size) => sum + size, 0)).toBeLessThanOrEqual(3 * 1024 * 1024)
  })
})

describe("a folder of captures", () => {
  it("stands for the captures in it, by name", () => {
    const outer = folder({ "b.capture": packFiles([]), "a.capture": packFiles([]), "readme.md": "" })
    expect(findCaptures([outer])).toEqual([join(outer, "a.capture"), join(outer, "b.capture")])
  })

  it("is itself the capture when it was meant to be one", () => {
    const broken = folder({ "pages.bin": ONE_PAGE })
    expect(findCaptures([broken])).toEqual([broken])
  })
})
