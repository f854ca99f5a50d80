/** `ops.txt`: the page-table calls of a kernel, from boot to the dump. */
import { InputError } from "./input-error.ts"
import { decodeUtf8 } from "./json-file.ts"

/** One io-pgtable call: `count` pages of `pageSize` bytes. */
export type TableCall =
  | {
      readonly kind: "map"
      readonly line: number
      readonly domain: string
      readonly iova: bigint
      readonly pa: bigint
      readonly pageSize: bigint
      readonly count: bigint
      /** `IOMMU_*` bits of Linux. */
      readonly prot: number
    }
  | {
      readonly kind: "unmap"
      readonly line: number
      readonly domain: string
      readonly iova: bigint
      readonly pageSize: bigint
      readonly count: bigint
    }

const FORMS = {
  m: ["domain", "iova", "pa", "pgsize", "pgcount", "prot"],
  u: ["domain", "iova", "pgsize", "pgcount"],
} as const

/** @throws InputError with the line of the first call that cannot be read */
export function parseOps(bytes: Uint8Array, file: string): TableCall[] {
  const calls: TableCall[] = []
  for (const [index, text] of decodeUtf8(bytes, file).split("\n").entries()) {
    const words = text.trim().split(/\s+/)
    if (words[0] === "" || words[0]?.startsWith("#")) continue
    calls.push(parseCall(words, file, index + 1))
  }
  return calls
}

function parseCall(words: readonly string[], file: string, line: number): TableCall {
  const kind = words[0]
  if (kind !== "m" && kind !== "u") throw new InputError(file, `"${kind}" is neither "m" nor "u"`, { line })
  const form = FORMS[kind]
  if (words.length !== form.length + 1) {
    throw new InputError(file, `"${kind}" takes ${form.join(" ")}, got ${words.length - 1} fields`, { line })
  }
  const field = (name: string): string => words[(form as readonly string[]).indexOf(name) + 1] as string
  const hex = (name: string): bigint =>
    parseField(field(name), /^(?:0x)?([0-9a-f]{1,16})$/i, 16, name, file, line)
  const common = {
    line,
    domain: field("domain"),
    iova: hex("iova"),
    pageSize: hex("pgsize"),
    count: parseField(field("pgcount"), /^([0-9]{1,15})$/, 10, "pgcount", file, line),
  }
  if (!isPageSize(common.pageSize)) {
    throw new InputError(file, `pgsize ${field("pgsize")} is no power of two of at least 1000`, { line })
  }
  if (kind === "u") return { kind: "unmap", ...common }
  const prot = hex("prot")
  if (prot > 0x3fn) throw new InputError(file, `prot ${field("prot")} has bits that mean nothing`, { line })
  return { kind: "map", ...common, pa: hex("pa"), prot: Number(prot) }
}

function isPageSize(size: bigint): boolean {
  return size >= 0x1000n && (size & (size - 1n)) === 0n
}

function parseField(
  text: string,
  form: RegExp,
  base: 10 | 16,
  name: string,
  file: string,
  line: number,
): bigint {
  const digits = form.exec(text)?.[1]
  if (digits === undefined) {
    throw new InputError(file, `${name} "${text}" is no ${base === 16 ? "hex" : "decimal"} number`, { line })
  }
  return BigInt(base === 16 ? `0x${digits}` : digits)
}
