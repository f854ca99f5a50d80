/** Archives in the "newc" format that Linux unpacks as its first file system: Documentation/driver-api/early-userspace/buffer-format.rst. */

export type CpioEntry =
  | { readonly kind: "folder"; readonly path: string }
  | {
      readonly kind: "file"
      readonly path: string
      readonly data: Uint8Array
      readonly isExecutable: boolean
    }
  | { readonly kind: "link"; readonly path: string; readonly target: string }
  | {
      readonly kind: "character device"
      readonly path: string
      readonly major: number
      readonly minor: number
    }

const FOLDER = 0o040755
const FILE = 0o100644
const EXECUTABLE = 0o100755
const LINK = 0o120777
const CHARACTER_DEVICE = 0o020600
const ALIGN = 4

/** Entries come out in the order given: a folder before what is in it. */
export function cpioArchive(entries: readonly CpioEntry[]): Uint8Array {
  const parts = entries.flatMap((entry, n) => record(n + 1, entry))
  parts.push(...member({ path: "TRAILER!!!", inode: 0, mode: 0, links: 1 }, new Uint8Array(0)))
  return Buffer.concat(parts)
}

function record(inode: number, entry: CpioEntry): Uint8Array[] {
  const { path } = entry
  switch (entry.kind) {
    case "folder":
      return member({ path, inode, mode: FOLDER, links: 2 }, new Uint8Array(0))
    case "file":
      return member({ path, inode, mode: entry.isExecutable ? EXECUTABLE : FILE, links: 1 }, entry.data)
    case "link":
      return member({ path, inode, mode: LINK, links: 1 }, new TextEncoder().encode(entry.target))
    case "character device": {
      const numbers = [entry.major, entry.minor] as const
      return member({ path, inode, mode: CHARACTER_DEVICE, links: 1, device: numbers }, new Uint8Array(0))
    }
  }
}

interface Member {
  readonly path: string
  readonly inode: number
  readonly mode: number
  readonly links: number
  readonly device?: readonly [major: number, minor: number]
}

/** Thirteen numbers of eight hexadecimal digits after the magic, the name, the data; both padded to four bytes. */
function member({ path, inode, mode, links, device = [0, 0] }: Member, data: Uint8Array): Uint8Array[] {
  const name = new TextEncoder().encode(`${path}\0`)
  const numbers = [inode, mode, 0, 0, links, 0, data.length, 0, 0, ...device, name.length, 0]
  const header = `070701${numbers.map(number => number.toString(16).padStart(8, "0").toUpperCase()).join("")}`
  return [padded(Buffer.concat([Buffer.from(header, "ascii"), name])), padded(data)]
}

function padded(bytes: Uint8Array): Uint8Array {
  const length = Math.ceil(bytes.length / ALIGN) * ALIGN
  if (length === bytes.length) return bytes
  const longer = new Uint8Array(length)
  longer.set(bytes)
  return longer
}
