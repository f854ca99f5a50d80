/** The generated files and how they differ from those on disk. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { BOOKS } from "./books.ts"
import { referencePage } from "./page.ts"

const ROOT = join(import.meta.dirname, "../../..")

export interface GeneratedFile {
  /** From the checkout's root, with forward slashes. */
  readonly path: string
  readonly text: string
}

export function generatedFiles(): GeneratedFile[] {
  return BOOKS.map(book => ({ path: `docs/reference/${book.name}.md`, text: referencePage(book) }))
}

/** Paths of generated files that are missing or differ. */
export function staleFiles(): string[] {
  const isStale = ({ path, text }: GeneratedFile): boolean => {
    const at = join(ROOT, path)
    return !existsSync(at) || readFileSync(at, "utf8") !== text
  }
  return generatedFiles()
    .filter(isStale)
    .map(file => file.path)
}

export function writeFiles(): void {
  for (const { path, text } of generatedFiles()) {
    const at = join(ROOT, path)
    mkdirSync(dirname(at), { recursive: true })
    writeFileSync(at, text)
  }
}
