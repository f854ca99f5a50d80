import { type Rule, VENDORS } from "../tree.ts"

const ROOMS = ["spec", "formats", "decode", "driver", "model"]

/** The three vendor packages have the same folders and file names in their rooms. */
export const sameRooms: Rule = tree => {
  const filesOf = (vendor: string): string[] => {
    const inside = `packages/${vendor}/src/`
    return tree.paths
      .filter(path => path.startsWith(inside))
      .map(path => path.slice(inside.length))
      .filter(path => ROOMS.includes(path.split("/")[0] as string))
  }
  const all = new Set(VENDORS.flatMap(filesOf))
  return VENDORS.flatMap(vendor => {
    const own = new Set(filesOf(vendor))
    return [...all]
      .filter(file => !own.has(file))
      .map(file => ({
        rule: "same-rooms",
        path: `packages/${vendor}/src/${file}`,
        line: 0,
        message: "another vendor has this file: whoever knows one vendor knows all",
      }))
  })
}
