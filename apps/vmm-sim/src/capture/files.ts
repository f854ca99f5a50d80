/** The two forms of a capture: a folder, and one packed file that holds the same files. */
import { readFileSync, statSync } from "node:fs"
import { basename, join } from "node:path"
import { unpackFiles } from "./container.ts"
import { InputError } from "./input-error.ts"

/** End of the name of a packed capture. */
export const PACKED_SUFFIX = ".capture"

export interface CaptureFiles {
  /** The folder's or packed file's name, without the suffix. */
  readonly name: string
  /** A file's path, for messages. */
  pathOf(file: string): string
  /** @throws InputError when it is missing or cannot be read */
  read(file: string): Uint8Array
  /** Null when it is missing. @throws InputError when it cannot be read */
  readOptional(file: string): Uint8Array | null
}

/** @throws InputError when the path is neither a folder nor a packed capture */
export function openCapture(path: string): CaptureFiles {
  return isFolder(path) ? folderFiles(path) : packedFiles(path)
}

/** @throws InputError when nothing is there */
export function isFolder(path: string): boolean {
  try {
    return statSync(path).isDirectory()
  } catch (error) {
    throw new InputError(path, systemReason(error))
  }
}

function folderFiles(folder: string): CaptureFiles {
  const pathOf = (file: string): string => join(folder, file)
  const readOptional = (file: string): Uint8Array | null => {
    try {
      return readBytes(pathOf(file))
    } catch (error) {
      if (errorCode(error) === "ENOENT") return null
      throw new InputError(pathOf(file), systemReason(error))
    }
  }
  return { name: basename(folder) || folder, pathOf, readOptional, read: required(pathOf, readOptional) }
}

function packedFiles(path: string): CaptureFiles {
  let bytes: Uint8Array
  try {
    bytes = readBytes(path)
  } catch (error) {
    throw new InputError(path, systemReason(error))
  }
  const files = unpackFiles(bytes, path)
  const pathOf = (file: string): string => `${path}:${file}`
  const readOptional = (file: string): Uint8Array | null => files.get(file) ?? null
  return { name: basename(path, PACKED_SUFFIX), pathOf, readOptional, read: required(pathOf, readOptional) }
}

/** A plain array of its own: a Buffer's `slice` shares memory where that of an array copies. */
function readBytes(path: string): Uint8Array {
  return new Uint8Array(readFileSync(path))
}

function required(
  pathOf: (file: string) => string,
  readOptional: (file: string) => Uint8Array | null,
): (file: string) => Uint8Array {
  return file => {
    const bytes = readOptional(file)
    if (bytes === null) throw new InputError(pathOf(file), "is missing")
    return bytes
  }
}

function errorCode(error: unknown): string | null {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : null
}

/** Node's reason without the call and the path, which the message has already: "no such file or directory". */
function systemReason(error: unknown): string {
  const reason = error instanceof Error ? /^[A-Z]+: ([^,]+)/.exec(error.message)?.[1] : undefined
  return `cannot be read: ${reason ?? String(error)}`
}
