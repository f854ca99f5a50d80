/** Captures from files: read, checked, in numbers. */
import { PAGE_SIZE } from "@iommu/core"
import * as v from "valibot"
import type { CaptureFiles } from "./files.ts"
import { InputError } from "./input-error.ts"
import { type JsonFile, type JsonPath, parseJson } from "./json-file.ts"
import { parseOps, type TableCall } from "./ops-file.ts"
import { type CaptureDocument, captureSchema } from "./schema.ts"

/** A capture that is whole and consistent in itself. */
export interface Capture extends CaptureDocument {
  readonly name: string
  /** The dumped pages one after the other, as {@link CaptureDocument.pages} lists them. */
  readonly data: Uint8Array
  /** Null without `ops.txt`. */
  readonly ops: readonly TableCall[] | null
}

/** @throws InputError when any of the files is missing, wrong, or does not fit the others */
export function loadCapture(files: CaptureFiles): Capture {
  const path = files.pathOf("capture.json")
  const json = parseJson(files.read("capture.json"), path)
  const document = checkDocument(json, path)
  const data = files.read("pages.bin")
  checkPages(document, data, files, (wrong, at) => new InputError(path, wrong, json.placeOf(at)))
  // Another reader's list of leaves, for tests: here it only has to be whole.
  const leaves = files.readOptional("leaves.json")
  if (leaves !== null) parseJson(leaves, files.pathOf("leaves.json"))
  const opsBytes = files.readOptional("ops.txt")
  const ops = opsBytes === null ? null : parseOps(opsBytes, files.pathOf("ops.txt"))
  if (ops !== null && document.traceDomains === undefined) {
    throw new InputError(path, "traceDomains is missing, which ops.txt needs", json.placeOf([]))
  }
  return { ...document, name: document.name ?? files.name, data, ops }
}

function checkDocument(json: JsonFile, path: string): CaptureDocument {
  const result = v.safeParse(captureSchema, json.value, { abortEarly: true })
  if (result.success) {
    checkDevices(result.output, (wrong, at) => new InputError(path, wrong, json.placeOf(at)))
    return result.output
  }
  const issue = result.issues[0]
  const at = (issue.path ?? []).map(item => item.key).filter(isKey)
  const wrong = issue.received === "undefined" ? "is missing" : issue.message
  throw new InputError(path, `${pathText(at)}: ${wrong}`, json.placeOf(at))
}

type Complaint = (wrong: string, at: JsonPath) => InputError

/** Source ids and AMD DeviceIDs are bus, device and function: 16 bits. A StreamID may have 32. */
function checkDevices(document: CaptureDocument, complain: Complaint): void {
  if (document.vendor === "smmuv3") return
  for (const table of ["translations", "unmapped", "faults"] as const) {
    const index = document[table].findIndex(row => row.device > 0xffff)
    if (index >= 0) throw complain(`${table}[${index}].device: must fit in 16 bits`, [table, index, "device"])
  }
}

function checkPages(
  document: CaptureDocument,
  data: Uint8Array,
  files: CaptureFiles,
  complain: Complaint,
): void {
  const { pages } = document
  const seen = new Map<bigint, number>()
  for (const [index, address] of pages.entries()) {
    const text = `pages[${index}]: 0x${address.toString(16)}`
    if (address % BigInt(PAGE_SIZE) !== 0n) {
      throw complain(`${text} is no address of a 4 KiB page`, ["pages", index])
    }
    const before = seen.get(address)
    if (before !== undefined) throw complain(`${text} stands at pages[${before}] already`, ["pages", index])
    seen.set(address, index)
  }
  if (data.length !== pages.length * PAGE_SIZE) {
    const wants = `${pages.length} pages of ${PAGE_SIZE} bytes in capture.json make ${pages.length * PAGE_SIZE}`
    const offset = Math.min(data.length, pages.length * PAGE_SIZE)
    throw new InputError(files.pathOf("pages.bin"), `has ${data.length} bytes, but ${wants}`, { offset })
  }
  for (const [index, { patch }] of document.variants.entries()) {
    const at = ["variants", index, "patch", 0]
    const text = `${pathText(at)}: 0x${patch[0].toString(16)}`
    if (patch[0] % 8n !== 0n) throw complain(`${text} is not 8-byte aligned`, at)
    if (!seen.has(patch[0] - (patch[0] % BigInt(PAGE_SIZE))))
      throw complain(`${text} is in no dumped page`, at)
  }
}

function isKey(key: unknown): key is string | number {
  return typeof key === "string" || typeof key === "number"
}

function pathText(path: JsonPath): string {
  const text = path.map(key => (typeof key === "number" ? `[${key}]` : `.${key}`)).join("")
  return text === "" ? "the document" : text.replace(/^\./, "")
}
