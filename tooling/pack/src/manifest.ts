/** What a manifest looks like in the registry: doors into `dist`, ranges instead of `workspace:`. */

type Json = string | number | boolean | null | readonly Json[] | { readonly [key: string]: Json }
export type Manifest = { readonly [key: string]: Json }

const DEPENDENCY_FIELDS = ["dependencies", "peerDependencies", "optionalDependencies"] as const

/**
 * @param versions version of every workspace package by name
 * @throws Error when a dependency names a workspace package that does not exist
 */
export function publishedManifest(manifest: Manifest, versions: ReadonlyMap<string, string>): Manifest {
  const { publishConfig, devDependencies: _dev, scripts: _scripts, ...rest } = manifest
  const published: Record<string, Json> = { ...rest }
  if (isRecord(publishConfig)) {
    const { exports: doors, ...config } = publishConfig
    if (doors !== undefined) published["exports"] = doors
    published["publishConfig"] = config
  }
  for (const field of DEPENDENCY_FIELDS) {
    const dependencies = manifest[field]
    if (isRecord(dependencies)) published[field] = withRanges(dependencies, versions)
  }
  return published
}

function withRanges(dependencies: Manifest, versions: ReadonlyMap<string, string>): Manifest {
  return Object.fromEntries(
    Object.entries(dependencies).map(([name, range]) => {
      if (typeof range !== "string" || !range.startsWith("workspace:")) return [name, range]
      const version = versions.get(name)
      if (version === undefined) throw new Error(`${name} is no package of this workspace`)
      const prefix = range.slice("workspace:".length)
      return [name, prefix === "*" ? version : `${prefix}${version}`]
    }),
  )
}

function isRecord(value: Json | undefined): value is Manifest {
  return typeof value === "object" && value !== null && !Array.isArray(value)
}
