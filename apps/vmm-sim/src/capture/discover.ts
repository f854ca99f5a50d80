/** Which captures a command line means. */
import { existsSync, readdirSync } from "node:fs"
import { join } from "node:path"
import { isFolder, PACKED_SUFFIX } from "./files.ts"
import { InputError } from "./input-error.ts"

/**
 * A capture's folder or packed file stands for itself; any other folder for the captures directly in it, by name.
 * @throws InputError for a path without a capture
 */
export function findCaptures(paths: readonly string[]): string[] {
  return paths.flatMap(path => {
    if (!isFolder(path) || existsSync(join(path, "capture.json"))) return [path]
    const inside = readdirSync(path, { withFileTypes: true })
      .filter(entry =>
        entry.isDirectory()
          ? existsSync(join(path, entry.name, "capture.json"))
          : entry.name.endsWith(PACKED_SUFFIX),
      )
      .map(entry => join(path, entry.name))
      .sort()
    // A folder with pages.bin was meant to be a capture itself: its missing file is the better complaint.
    if (existsSync(join(path, "pages.bin"))) return [path]
    if (inside.length === 0)
      throw new InputError(path, `holds no capture: no capture.json, no *${PACKED_SUFFIX}`)
    return inside
  })
}
