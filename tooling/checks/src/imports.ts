import { posix } from "node:path"
import type { Tree } from "./tree.ts"

export interface Import {
  readonly path: string
  readonly line: number
  /** A workspace path for relative imports, the specifier for others. */
  readonly target: string
}

const SPECIFIER = /(?:\bfrom|\bimport)\s*\(?\s*["']([^"'\n]+)["']/g

/** All imports and re-exports of the TypeScript files of a tree whose paths pass a filter. */
export function importsOf(tree: Tree, wanted: (path: string) => boolean): Import[] {
  return tree.paths
    .filter(path => path.endsWith(".ts") && wanted(path))
    .flatMap(path => {
      const text = tree.read(path)
      return [...text.matchAll(SPECIFIER)]
        .filter(match => !inComment(text, match.index))
        .map(match => ({
          path,
          line: text.slice(0, match.index).split("\n").length,
          target: resolve(path, match[1] as string),
        }))
    })
}

/** Examples in doc comments show imports of the reader's code, not of the file's. */
function inComment(text: string, index: number): boolean {
  const line = text.slice(text.lastIndexOf("\n", index) + 1, index)
  return /^\s*(\*|\/\/|\/\*)/.test(line)
}

function resolve(from: string, specifier: string): string {
  return specifier.startsWith(".") ? posix.join(posix.dirname(from), specifier) : specifier
}
