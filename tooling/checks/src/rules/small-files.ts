import type { Rule } from "../tree.ts"

const CAP = 400
/** Names that say nothing about what is inside. */
const VAGUE = /(^|\/)(utils?|helpers?|common|misc)\.ts$/

/** Source files have at most 400 lines and a name that says what they are. */
export const smallFiles: Rule = tree =>
  tree.paths
    .filter(path => /^(packages|apps|tooling)\/[^/]+\/src\/.*\.tsx?$/.test(path))
    .flatMap(path => {
      const breach = (message: string) => ({ rule: "small-files", path, line: 0, message })
      const lines = tree.read(path).trimEnd().split("\n").length
      return [
        ...(lines > CAP ? [breach(`${lines} lines, a room that has become two (at most ${CAP})`)] : []),
        ...(VAGUE.test(path) ? [breach("a name that says nothing")] : []),
      ]
    })
