import { describe, expect, it } from "vitest"
import { readmeExample } from "../src/example.ts"
import { publishedManifest } from "../src/manifest.ts"

describe("published manifest", () => {
  const versions = new Map([["@iommu/core", "1.2.3"]])

  it("swaps the doors in, ranges for workspace:, and leaves out what only the workspace needs", () => {
    const manifest = {
      name: "@iommu/x",
      exports: { ".": "./src/index.ts" },
      publishConfig: { access: "public", exports: { ".": "./dist/index.js" } },
      scripts: { build: "tsc" },
      peerDependencies: { "@iommu/core": "workspace:^" },
      devDependencies: { "@iommu/core": "workspace:^" },
    }
    expect(publishedManifest(manifest, versions)).toEqual({
      name: "@iommu/x",
      exports: { ".": "./dist/index.js" },
      publishConfig: { access: "public" },
      peerDependencies: { "@iommu/core": "^1.2.3" },
    })
  })

  it("refuses a workspace dependency that does not exist", () => {
    expect(() => publishedManifest({ dependencies: { "@iommu/y": "workspace:^" } }, versions)).toThrow(
      /@iommu\/y/,
    )
  })
})

describe("README example", () => {
  it("is the first block of TypeScript, at most 15 lines", () => {
    expect(readmeExample("# x\n```sh\nnpm i\n```\n```ts\nf()\n```\n")).toBe("f()\n")
    expect(() => readmeExample("# x")).toThrow(/no ```ts/)
    expect(() => readmeExample(`\`\`\`ts\n${"x\n".repeat(16)}\`\`\``)).toThrow(/16 lines/)
  })
})
