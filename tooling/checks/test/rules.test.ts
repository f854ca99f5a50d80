import { describe, expect, it } from "vitest"
import { importLaws } from "../src/rules/import-laws.ts"
import { manifests } from "../src/rules/manifests.ts"
import { noVendorInCore } from "../src/rules/no-vendor-in-core.ts"
import { sameRooms } from "../src/rules/same-rooms.ts"
import { smallFiles } from "../src/rules/small-files.ts"
import { type Rule, treeOf } from "../src/tree.ts"

const breaches = (rule: Rule, files: Record<string, string>): string[] =>
  rule(treeOf(files)).map(({ path, line, message }) => `${path}:${line}: ${message}`)

describe("import laws", () => {
  it.each([
    ["packages/vtd/src/driver/a.ts", "../model/device.ts", "driver must not import model"],
    ["packages/vtd/src/model/a.ts", "../driver/ops.ts", "model must not import driver"],
    ["packages/vtd/src/model/a.ts", "@iommu/pagetable", "model must not import @iommu/pagetable"],
    ["packages/vtd/src/model/a.ts", "../formats/stage1.ts", "model must not import formats"],
    ["packages/vtd/src/spec/a.ts", "../model/walk.ts", "spec must not import model"],
    ["packages/vtd/src/model/a.ts", "../decode/record.ts", "model must not import decode"],
    ["packages/vtd/src/decode/a.ts", "../driver/ops.ts", "decode must not import driver"],
    ["packages/vtd/src/driver/a.ts", "@iommu/amd", "driver must not import @iommu/amd"],
    [
      "packages/vtd/src/driver/a.ts",
      "../../../amd/src/spec/a.ts",
      "a package reaches others through their doors",
    ],
    ["packages/iommufd/src/objects/a.ts", "../testing/mock.ts", "objects must not import testing"],
    ["packages/iommufd/src/ioas/a.ts", "../objects/hwpt.ts", "ioas must not import objects"],
    ["packages/iommufd/src/objects/a.ts", "../abi/command.ts", "objects must not import abi"],
    ["packages/core/src/a.ts", "@iommu/vtd", "core must not import @iommu/vtd"],
    ["packages/pagetable/src/a.ts", "node:fs", "libraries run in a browser too"],
    ["packages/conformance/src/a.ts", "vitest", "conformance must not import vitest"],
    ["apps/sim/src/a.ts", "../../../packages/vtd/src/model/walk.ts", "apps import public doors"],
  ])("%s must not import %s", (path, specifier, message) => {
    const [found] = breaches(importLaws, { [path]: `import { x } from "${specifier}"\n` })
    expect(found).toContain(`${path}:1: ${message}`)
  })

  it("allow what each room needs", () => {
    const files = {
      "packages/vtd/src/index.ts": 'export { a } from "./driver/a.ts"\nexport { b } from "./model/b.ts"',
      "packages/vtd/src/driver/a.ts":
        'import * as s from "../spec/s.ts"\nimport { f } from "../formats/stage1.ts"\nimport { p } from "@iommu/pagetable"',
      "packages/vtd/src/model/b.ts": 'import { x } from "@iommu/core"\nimport * as s from "../spec/s.ts"',
      "apps/sim/src/a.ts": 'import { vtdModel } from "@iommu/vtd"\nimport fs from "node:fs"',
    }
    expect(breaches(importLaws, files)).toEqual([])
  })

  it("look at exports, types, dynamic and multi-line imports, and not at comments", () => {
    const text = `import {\n  a,\n} from "node:fs"\nexport * from "node:os"\nawait import("node:vm")\n/**\n * import x from "node:net"\n */`
    expect(breaches(importLaws, { "packages/core/src/a.ts": text }).map(b => b.slice(-7))).toEqual([
      "node:fs",
      "node:os",
      "node:vm",
    ])
  })
})

describe("same rooms", () => {
  it("names the vendor that lacks a file", () => {
    const files = { "packages/vtd/src/model/walk.ts": "", "packages/amd/src/model/walk.ts": "" }
    expect(breaches(sameRooms, files)).toEqual([
      "packages/smmuv3/src/model/walk.ts:0: another vendor has this file: whoever knows one vendor knows all",
    ])
  })
})

describe("small files", () => {
  it("refuses 401 lines and vague names", () => {
    const lines = (count: number): string => `${Array.from({ length: count }, () => "x").join("\n")}\n`
    expect(
      breaches(smallFiles, { "packages/a/src/b.ts": lines(400), "packages/a/test/b.ts": lines(900) }),
    ).toEqual([])
    expect(breaches(smallFiles, { "packages/a/src/b.ts": lines(401) })).toHaveLength(1)
    expect(breaches(smallFiles, { "packages/a/src/utils.ts": "" })).toHaveLength(1)
  })
})

describe("no vendor in core", () => {
  it("refuses decisions on a vendor's name, and allows data named after one", () => {
    const core = (text: string) => breaches(noVendorInCore, { "packages/core/src/a.ts": text })
    expect(core('if (ops.name === "vtd") return')).toHaveLength(1)
    expect(core('case "amd":')).toHaveLength(1)
    expect(core('structLayout("iommu_hwpt_vtd_s1", 24, vtdS1)')).toEqual([])
  })
})

describe("manifests", () => {
  const good = {
    license: "MIT",
    type: "module",
    sideEffects: false,
    repository: { directory: "packages/a" },
    engines: { node: ">=22" },
  }
  const check = (manifest: object): string[] =>
    breaches(manifests, {
      "packages/a/package.json": JSON.stringify(manifest),
      "packages/a/README.md": "",
      "packages/a/LICENSE": "",
    })

  it("wants licence, repository, engines and no dependency from outside", () => {
    expect(check(good)).toEqual([])
    expect(check({ ...good, license: undefined })).toHaveLength(1)
    expect(check({ ...good, repository: {} })).toHaveLength(1)
    expect(check({ ...good, dependencies: { lodash: "4" } })).toHaveLength(1)
    expect(check({ ...good, peerDependencies: { "@iommu/core": "workspace:*" } })).toHaveLength(1)
  })
})
