/** JSON files with errors that say where: `JSON.parse` gives no place for most of them. */
import { findNodeAtLocation, type ParseError, parseTree, printParseErrorCode } from "jsonc-parser"
import { InputError, type Place } from "./input-error.ts"

/** A key or index on the way from the root of a document to one of its values. */
export type JsonPath = readonly (string | number)[]

export interface JsonFile {
  readonly value: unknown
  /** Byte offset of the value at a path, or of the deepest ancestor that exists. */
  placeOf(path: JsonPath): Place
}

/** @throws InputError with the byte offset of the first thing that is no JSON or no UTF-8 */
export function parseJson(bytes: Uint8Array, file: string): JsonFile {
  const text = decodeUtf8(bytes, file)
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw syntaxError(text, file)
  }
  return { value, placeOf: path => ({ offset: byteOffset(text, characterOffset(text, path)) }) }
}

/** @throws InputError when the bytes are no UTF-8 */
export function decodeUtf8(bytes: Uint8Array, file: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    throw new InputError(file, "is not UTF-8 text", { offset: validUtf8Prefix(bytes) })
  }
}

/** How many bytes decode before the first that does not: a halving search over prefixes. */
function validUtf8Prefix(bytes: Uint8Array): number {
  let good = 0
  let bad = bytes.length
  while (bad - good > 1) {
    const middle = (good + bad) >> 1
    try {
      new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(0, middle), { stream: true })
      good = middle
    } catch {
      bad = middle
    }
  }
  return good
}

function syntaxError(text: string, file: string): InputError {
  const errors: ParseError[] = []
  parseTree(text, errors, { disallowComments: true, allowTrailingComma: false })
  const first = errors[0]
  if (first === undefined) return new InputError(file, "is not JSON", { offset: 0 })
  const what = printParseErrorCode(first.error).replace(
    /(?<=[a-z])[A-Z]/g,
    letter => ` ${letter.toLowerCase()}`,
  )
  return new InputError(file, `is not JSON: ${what}`, { offset: byteOffset(text, first.offset) })
}

function characterOffset(text: string, path: JsonPath): number {
  const root = parseTree(text)
  if (root === undefined) return 0
  for (let length = path.length; length >= 0; length--) {
    const node = findNodeAtLocation(root, path.slice(0, length))
    if (node !== undefined) return node.offset
  }
  return 0
}

function byteOffset(text: string, characters: number): number {
  return Buffer.byteLength(text.slice(0, characters), "utf8")
}
