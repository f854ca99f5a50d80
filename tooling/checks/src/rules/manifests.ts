import type { Breach, Rule } from "../tree.ts"

interface Manifest {
  readonly name?: string
  readonly private?: boolean
  readonly license?: string
  readonly type?: string
  readonly sideEffects?: boolean
  readonly repository?: { readonly directory?: string }
  readonly engines?: { readonly node?: string }
  readonly dependencies?: Readonly<Record<string, string>>
  readonly peerDependencies?: Readonly<Record<string, string>>
}

/** Every package says its licence and repository; libraries depend on nothing outside `@iommu/*`. */
export const manifests: Rule = tree =>
  tree.paths
    .filter(path => /^(packages|apps|tooling)\/[^/]+\/package\.json$/.test(path))
    .flatMap(path => checkManifest(path, JSON.parse(tree.read(path)) as Manifest, tree.paths))

function checkManifest(path: string, manifest: Manifest, paths: readonly string[]): Breach[] {
  const breaches: Breach[] = []
  const want = (holds: boolean, message: string): void => {
    if (!holds) breaches.push({ rule: "manifests", path, line: 0, message })
  }
  const folder = path.replace("/package.json", "")
  want(manifest.license === "MIT", "license is MIT")
  want(manifest.repository?.directory === folder, `repository.directory is ${folder}`)
  if (!path.startsWith("packages/")) return breaches
  want(manifest.type === "module", "ESM only")
  if (manifest.private === true) return breaches
  want(manifest.sideEffects === false, "sideEffects is false")
  want(manifest.engines?.node === ">=22", "engines.node is >=22")
  want(paths.includes(`${folder}/README.md`), "it has a README.md")
  want(paths.includes(`${folder}/LICENSE`), "it has a LICENSE")
  for (const dependency of Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies })) {
    want(dependency.startsWith("@iommu/"), `a library depends on nothing outside @iommu: ${dependency}`)
  }
  for (const [peer, range] of Object.entries(manifest.peerDependencies ?? {})) {
    want(range === "workspace:^", `peer ${peer} is workspace:^`)
  }
  return breaches
}
