import type { Rule } from "../tree.ts"

const SHARED = ["core", "pagetable", "iommufd", "conformance"]
/** A decision that looks at whose hardware it is. */
const BRANCH =
  /\b(if|switch|case|while)\b[^\n]*["'`](vtd|vt-d|intel|smmuv3|smmu|arm|amd|amd-vi)["'`]|["'`](vtd|vt-d|intel|smmuv3|arm|amd|amd-vi)["'`]\s*(===|!==|\?)|(===|!==)\s*["'`](vtd|vt-d|intel|smmuv3|arm|amd|amd-vi)["'`]/i

/** Shared packages never branch on a vendor's name. */
export const noVendorInCore: Rule = tree =>
  tree.paths
    .filter(path => SHARED.some(name => path.startsWith(`packages/${name}/src/`)) && path.endsWith(".ts"))
    .flatMap(path =>
      tree
        .read(path)
        .split("\n")
        .flatMap((text, index) =>
          BRANCH.test(text)
            ? [
                {
                  rule: "no-vendor-in-core",
                  path,
                  line: index + 1,
                  message: `branches on a vendor: ${text.trim()}`,
                },
              ]
            : [],
        ),
    )
