import { readFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { BOOKS } from "../src/books.ts"
import { staleFiles } from "../src/files.ts"
import { referencePage } from "../src/page.ts"

const DOCS = join(import.meta.dirname, "../../../docs")

describe("docs/reference", () => {
  it("is what `pnpm reference` writes", () => {
    expect(staleFiles()).toEqual([])
  })

  it.each(BOOKS)("$name.md has every register and a layout of every room", book => {
    const page = referencePage(book)
    for (const [heading, room] of book.rooms) {
      const layouts = Object.values(room).filter(
        value => typeof value === "object" && value !== null && "fields" in value,
      )
      expect(layouts.length, heading).toBeGreaterThan(0)
      expect(page).toContain(`## ${heading}\n`)
    }
    for (const name of Object.keys(book.rooms[0]?.[1].REGISTERS as object)) {
      expect(page).toContain(`| \`${name}\` |`)
    }
  })
})

describe("the pages on what models cover", () => {
  it.each(BOOKS)("$title links to its reference", ({ name }) => {
    expect(readFileSync(join(DOCS, `${name}.md`), "utf8")).toContain(`](reference/${name}.md)`)
  })
})

describe("a page", () => {
  it("names offset, width and access of registers, bits and source of layouts", () => {
    const amd = referencePage(BOOKS.find(book => book.name === "amd") as (typeof BOOKS)[number])
    expect(amd).toContain("| 2020h | `STATUS` | 8 | RW1C | IOMMU Status |")
    expect(amd).toMatch(/### DTE\n\nAMD 48882 §2\.2\.2\.1; 256 bits\./)
    expect(amd).toContain("| 51:12 | `HostPageTableRootPtr` |")
  })
})
