import { execFileSync } from "node:child_process"
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"

/** A tree of files by path from its root, with forward slashes. */
export interface Tree {
  readonly paths: readonly string[]
  read(path: string): string
}

/** A breach of one of the house's laws. */
export interface Breach {
  readonly rule: string
  readonly path: string
  /** Line, from 1; 0 for the file as a whole. */
  readonly line: number
  readonly message: string
}

export type Rule = (tree: Tree) => Breach[]

/** The files of a checkout that git tracks or does not ignore. */
export function gitTree(root: string): Tree {
  const list = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard", "-z"], {
    cwd: root,
    encoding: "utf8",
    maxBuffer: 1 << 26,
  })
  const paths = list.split("\0").filter(path => path !== "" && existsSync(join(root, path)))
  return { paths, read: path => readFileSync(join(root, path), "utf8") }
}

/** A tree from an object, for tests. */
export function treeOf(files: Readonly<Record<string, string>>): Tree {
  return { paths: Object.keys(files), read: path => files[path] ?? "" }
}

export const VENDORS = ["vtd", "smmuv3", "amd"] as const
