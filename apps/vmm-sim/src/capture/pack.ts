import { packFiles } from "./container.ts"
import { openCapture } from "./files.ts"
import { loadCapture } from "./load.ts"

/** What is read of a capture; its logs and traces are for people and stay behind. */
const REQUIRED = ["capture.json", "pages.bin"]
const OPTIONAL = ["leaves.json", "ops.txt"]

/**
 * A capture in one compressed file.
 * @throws InputError when it cannot be used
 */
export function packCapture(folder: string): Uint8Array {
  const source = openCapture(folder)
  loadCapture(source)
  return packFiles([
    ...REQUIRED.map(name => ({ name, bytes: source.read(name) })),
    ...OPTIONAL.flatMap(name => {
      const bytes = source.readOptional(name)
      return bytes === null ? [] : [{ name, bytes }]
    }),
  ])
}
