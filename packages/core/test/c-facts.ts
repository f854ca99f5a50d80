/** Sizes, offsets and constants of Linux's header as the C compiler sees them, next to those of our layouts. */
import { execFileSync } from "node:child_process"
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { MemberSpecs } from "@iommu/core"
import { compiler } from "./c-compiler.ts"

/** What the comparison needs of a layout. */
interface Layout {
  readonly name: string
  readonly size: number
  readonly members: MemberSpecs
}

export interface Facts {
  readonly layouts: readonly Layout[]
  /** By the name in C. */
  readonly constants: Readonly<Record<string, number | bigint>>
}

/**
 * A folder with a `linux/iommufd.h` that has a word in it, or null; a line says what is missing then.
 * @param word tells a header that is new enough
 */
export function headersWith(word: string): string | null {
  const folders = [join(import.meta.dirname, "../../../.cache/linux-headers/usr/include"), "/usr/include"]
  const found = folders.find(folder => {
    const header = join(folder, "linux/iommufd.h")
    return existsSync(header) && readFileSync(header, "utf8").includes(word)
  })
  if (found === undefined) {
    console.warn(
      `skipped: no linux/iommufd.h with ${word}; ` +
        "tooling/debian/fetch-package.sh trixie-backports linux-libc-dev .cache/linux-headers gets it",
    )
  }
  return found ?? null
}

/** The facts as our layouts have them. */
export function ours({ layouts, constants }: Facts): Record<string, number> {
  const facts = Object.entries(constants).map(([name, value]): [string, number] => [name, Number(value)])
  for (const { name, size, members } of layouts) {
    facts.push([`sizeof ${name}`, size])
    for (const [member, [, offset]] of Object.entries(members)) {
      facts.push([`${name}.${snake(member)}`, offset])
    }
  }
  return Object.fromEntries(facts)
}

/** The same facts from the C compiler. */
export function measured({ layouts, constants }: Facts, include: string): Record<string, number> {
  const lines = Object.keys(constants).map(name => `FACT("${name}", ${name})`)
  for (const { name, members } of layouts) {
    lines.push(`FACT("sizeof ${name}", sizeof(struct ${name}))`)
    for (const member of Object.keys(members).map(snake)) {
      lines.push(`FACT("${name}.${member}", offsetof(struct ${name}, ${member}))`)
    }
  }
  const source = `#include <stddef.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <linux/iommufd.h>
#include <linux/vfio.h>
#define FACT(name, value) printf("%s=%lld\\n", name, (long long)(value));
int main(void) { ${lines.join("\n")} return 0; }
`
  return Object.fromEntries(run(source, include).trim().split("\n").map(parseFact))
}

function run(source: string, include: string): string {
  const folder = mkdtempSync(join(tmpdir(), "iommu-uapi-"))
  try {
    const program = join(folder, "facts")
    execFileSync(compiler as string, ["-I", include, "-x", "c", "-o", program, "-"], { input: source })
    return execFileSync(program, { encoding: "utf8" })
  } finally {
    rmSync(folder, { recursive: true })
  }
}

function parseFact(line: string): [string, number] {
  const at = line.lastIndexOf("=")
  return [line.slice(0, at), Number(line.slice(at + 1))]
}

function snake(name: string): string {
  return name.startsWith("__") ? name : name.replace(/[A-Z]/g, letter => `_${letter.toLowerCase()}`)
}
