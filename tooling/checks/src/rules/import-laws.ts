import { type Import, importsOf } from "../imports.ts"
import { type Breach, type Rule, VENDORS } from "../tree.ts"

type Rooms = Readonly<Record<string, readonly string[]>>

/**
 * Who may import whom (ARCHITECTURE.md). A room is a folder under `src`; a package's own files outside the rooms
 * (its door) may import all of its rooms.
 */
const VENDOR_ROOMS: Rooms = {
  spec: ["spec", "@iommu/core"],
  formats: ["formats", "spec", "@iommu/pagetable", "@iommu/core"],
  decode: ["decode", "spec", "@iommu/core"],
  driver: ["driver", "decode", "spec", "formats", "@iommu/pagetable", "@iommu/core"],
  model: ["model", "spec", "@iommu/core"],
}

/** iommufd: what is mapped knows nothing of objects, objects nothing of bytes, and nothing that is shipped of tests. */
const IOMMUFD_ROOMS: Rooms = {
  uapi: ["uapi", "@iommu/core"],
  process: ["process", "memory", "@iommu/core"],
  memory: ["memory", "process", "@iommu/core"],
  ioas: ["ioas", "memory", "process", "@iommu/core"],
  objects: ["objects", "ioas", "memory", "process", "uapi", "@iommu/core"],
  vfio: ["vfio", "context.ts", "objects", "ioas", "process", "@iommu/core"],
  abi: ["abi", "context.ts", "objects", "vfio", "ioas", "memory", "uapi", "@iommu/core"],
  testing: ["testing", "memory", "process", "@iommu/core"],
  "context.ts": ["abi", "objects", "ioas", "memory", "process", "uapi", "@iommu/core"],
}

const PACKAGES: Readonly<Record<string, readonly string[]>> = {
  core: [],
  pagetable: ["@iommu/core"],
  iommufd: ["@iommu/core"],
  conformance: ["@iommu/core"],
  vtd: ["@iommu/core", "@iommu/pagetable"],
  smmuv3: ["@iommu/core", "@iommu/pagetable"],
  amd: ["@iommu/core", "@iommu/pagetable"],
}

export const importLaws: Rule = tree =>
  importsOf(tree, path => /^(packages|apps)\/[^/]+\/src\//.test(path)).flatMap(check)

function check(found: Import): Breach[] {
  const [kind, name, , room] = found.path.split("/") as [string, string, string, string]
  const verdict = kind === "apps" ? appLaw(found, name) : packageLaw(found, name, room)
  return verdict === null
    ? []
    : [{ rule: "import-laws", path: found.path, line: found.line, message: verdict }]
}

/** Apps use what packages export, and nothing of their inside. */
function appLaw(found: Import, name: string): string | null {
  if (found.target.startsWith("packages/") || /^@iommu\/[^/]+\/.*(src|dist)\//.test(found.target)) {
    return `apps import public doors, not ${found.target}`
  }
  if (found.target.startsWith("apps/") && !found.target.startsWith(`apps/${name}/`)) {
    return `an app does not import another app: ${found.target}`
  }
  return null
}

function packageLaw(found: Import, name: string, room: string): string | null {
  const inside = `packages/${name}/src/`
  const rooms = roomsOf(name)
  if (/^(packages|apps|tooling)\//.test(found.target)) {
    if (!found.target.startsWith(inside))
      return `a package reaches others through their doors, not ${found.target}`
    const targetRoom = found.target.slice(inside.length).split("/")[0] as string
    const allowed = rooms[room]
    if (allowed && !allowed.includes(targetRoom)) return `${room} must not import ${targetRoom}`
    return null
  }
  if (found.target.startsWith("node:")) return `libraries run in a browser too: no ${found.target}`
  const allowed = rooms[room] ?? PACKAGES[name] ?? []
  return allowed.includes(found.target)
    ? null
    : `${rooms[room] ? room : name} must not import ${found.target}`
}

function roomsOf(name: string): Rooms {
  if (VENDORS.some(vendor => vendor === name)) return VENDOR_ROOMS
  return name === "iommufd" ? IOMMUFD_ROOMS : {}
}
