/**
 * Packed captures: several files in one, compressed with brotli.
 *
 * Before compression: a line of JSON, `{"iommuCapture":1,"files":[{"name":…,"bytes":…},…]}`, then the files'
 * bytes one after the other.
 */
import { brotliCompressSync, brotliDecompressSync, constants } from "node:zlib"
import * as v from "valibot"
import { InputError } from "./input-error.ts"
import { parseJson } from "./json-file.ts"

const NEWLINE = 0x0a
/** No packed file may unfold to more: a few kilobytes of brotli can claim terabytes. */
const MAX_UNPACKED_BYTES = 0x2000_0000

const headerSchema = v.object({
  iommuCapture: v.literal(1, "must be 1, the only version there is"),
  files: v.array(v.object({ name: v.string(), bytes: v.pipe(v.number(), v.safeInteger(), v.minValue(0)) })),
})

export interface NamedFile {
  readonly name: string
  readonly bytes: Uint8Array
}

export function packFiles(files: readonly NamedFile[]): Uint8Array {
  const list = files.map(({ name, bytes }) => ({ name, bytes: bytes.length }))
  const header = Buffer.from(`${JSON.stringify({ iommuCapture: 1, files: list })}\n`)
  const plain = Buffer.concat([header, ...files.map(file => file.bytes)])
  return brotliCompressSync(plain, {
    params: {
      [constants.BROTLI_PARAM_QUALITY]: constants.BROTLI_MAX_QUALITY,
      [constants.BROTLI_PARAM_LGWIN]: constants.BROTLI_MAX_WINDOW_BITS,
      [constants.BROTLI_PARAM_SIZE_HINT]: plain.length,
    },
  })
}

/**
 * @param path for messages
 * @throws InputError when it is no packed capture, or a damaged one
 */
export function unpackFiles(packed: Uint8Array, path: string): ReadonlyMap<string, Uint8Array> {
  const plain = decompress(packed, path)
  const headerEnd = plain.indexOf(NEWLINE)
  if (headerEnd < 0) throw new InputError(path, "is no packed capture: its header line does not end")
  const { value } = parseJson(plain.subarray(0, headerEnd), `${path} (header)`)
  const header = v.safeParse(headerSchema, value)
  if (!header.success) throw new InputError(path, `is no packed capture: ${header.issues[0].message}`)

  const files = new Map<string, Uint8Array>()
  let at = headerEnd + 1
  for (const { name, bytes } of header.output.files) {
    if (at + bytes > plain.length) {
      throw new InputError(path, `ends inside ${name}: ${plain.length - at} of ${bytes} bytes are there`)
    }
    files.set(name, new Uint8Array(plain.subarray(at, at + bytes)))
    at += bytes
  }
  if (at !== plain.length) throw new InputError(path, `has ${plain.length - at} bytes after its last file`)
  return files
}

function decompress(packed: Uint8Array, path: string): Buffer {
  try {
    return brotliDecompressSync(packed, { maxOutputLength: MAX_UNPACKED_BYTES })
  } catch {
    throw new InputError(path, "is neither a folder nor a packed capture: brotli cannot unpack it")
  }
}
