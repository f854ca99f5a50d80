/** Physical region pages: where the bytes of a transfer lie in the host's memory. NVM Express 1.4c §4.3. */
import type { Dma } from "../pci/dma.ts"
import { PAGE_BYTES, STATUS } from "./spec.ts"

interface Piece {
  readonly iova: bigint
  readonly bytes: number
}

/** Pieces in order, or the status with which the command ends. */
type Pieces = readonly Piece[] | number

const OFFSET = BigInt(PAGE_BYTES - 1)
const POINTER_BYTES = 8

function piecesOf(dma: Dma, prp1: bigint, prp2: bigint, bytes: number): Pieces {
  const first = Math.min(bytes, PAGE_BYTES - Number(prp1 & OFFSET))
  const pieces: Piece[] = [{ iova: prp1, bytes: first }]
  const left = bytes - first
  if (left === 0) return pieces
  if (left > PAGE_BYTES) return fromList(dma, prp2, left, pieces)
  if ((prp2 & OFFSET) !== 0n) return STATUS.PRP_OFFSET_INVALID
  return [...pieces, { iova: prp2, bytes: left }]
}

/** A list holds what fits into its page; its last pointer leads on when there is more. The transfer's size bounds all. */
function fromList(dma: Dma, start: bigint, bytes: number, pieces: Piece[]): Pieces {
  let list = start
  let left = bytes
  while (left > 0) {
    if (list % BigInt(POINTER_BYTES) !== 0n) return STATUS.PRP_OFFSET_INVALID
    const room = (PAGE_BYTES - Number(list & OFFSET)) / POINTER_BYTES
    const needed = Math.ceil(left / PAGE_BYTES)
    const pointers = new BigUint64Array(Math.min(room, needed))
    if (!dma.read(list, new Uint8Array(pointers.buffer))) return STATUS.DATA_TRANSFER_ERROR
    const isContinued = needed > room
    // Every pointer of a list, the one that leads on included, has offset 0: so each further list has 512 pointers.
    if (pointers.some(pointer => (pointer & OFFSET) !== 0n)) return STATUS.PRP_OFFSET_INVALID
    for (const pointer of isContinued ? pointers.subarray(0, -1) : pointers) {
      const piece = Math.min(left, PAGE_BYTES)
      pieces.push({ iova: pointer, bytes: piece })
      left -= piece
    }
    list = pointers[pointers.length - 1] as bigint
  }
  return pieces
}

/** Moves bytes to the host. @returns a status */
export function toHost(dma: Dma, prp1: bigint, prp2: bigint, data: Uint8Array): number {
  return move(dma, prp1, prp2, data, (iova, bytes) => dma.write(iova, bytes))
}

/** Fills `into` from the host. @returns a status */
export function fromHost(dma: Dma, prp1: bigint, prp2: bigint, into: Uint8Array): number {
  return move(dma, prp1, prp2, into, (iova, bytes) => dma.read(iova, bytes))
}

function move(
  dma: Dma,
  prp1: bigint,
  prp2: bigint,
  data: Uint8Array,
  transfer: (iova: bigint, bytes: Uint8Array) => boolean,
): number {
  const pieces = piecesOf(dma, prp1, prp2, data.length)
  if (typeof pieces === "number") return pieces
  let done = 0
  for (const { iova, bytes } of pieces) {
    if (!transfer(iova, data.subarray(done, done + bytes))) return STATUS.DATA_TRANSFER_ERROR
    done += bytes
  }
  return STATUS.SUCCESS
}
