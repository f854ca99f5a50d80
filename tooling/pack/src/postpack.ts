/** Puts back the workspace's manifest that prepack.ts replaced. */
import { existsSync, renameSync } from "node:fs"

if (existsSync("package.json.workspace")) renameSync("package.json.workspace", "package.json")
