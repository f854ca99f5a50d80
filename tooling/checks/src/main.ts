/** Checks the house's laws on the whole tree. Exit 0 when all hold, 1 when one is broken. */
import { join } from "node:path"
import { importLaws } from "./rules/import-laws.ts"
import { manifests } from "./rules/manifests.ts"
import { noVendorInCore } from "./rules/no-vendor-in-core.ts"
import { sameRooms } from "./rules/same-rooms.ts"
import { smallFiles } from "./rules/small-files.ts"
import { gitTree } from "./tree.ts"

const tree = gitTree(join(import.meta.dirname, "../../.."))
const breaches = [importLaws, sameRooms, smallFiles, noVendorInCore, manifests].flatMap(rule => rule(tree))
for (const { rule, path, line, message } of breaches) {
  console.error(`${path}${line > 0 ? `:${line}` : ""}: ${rule}: ${message}`)
}
console.log(
  breaches.length === 0 ? "all laws of the house hold" : `${breaches.length} breaches of the house's laws`,
)
process.exitCode = breaches.length === 0 ? 0 : 1
