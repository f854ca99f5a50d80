/** Random requests without PASID. */
import { ACCESS_EXEC, ACCESS_PRIV, ACCESS_READ, ACCESS_WRITE, type IommuModel, NO_PASID } from "@iommu/core"
import type { Random } from "../random.ts"
import type { NestedFormat } from "./nested-format.ts"

export const READ_WRITE: number = ACCESS_READ | ACCESS_WRITE
/** What a first stage that lets everything through cannot refuse, whatever its features. */
export const PLAIN_ACCESSES: readonly number[] = [ACCESS_READ, ACCESS_WRITE, READ_WRITE]
const ACCESSES: readonly number[] = [
  ACCESS_READ,
  ACCESS_READ,
  ACCESS_WRITE,
  ACCESS_WRITE,
  READ_WRITE,
  ACCESS_READ | ACCESS_PRIV,
  ACCESS_WRITE | ACCESS_PRIV,
  ACCESS_READ | ACCESS_EXEC,
]

export interface Request {
  hi: number
  lo: number
  access: number
}

/** Addresses of the lower half, of 48 bits or with five levels 57, now and then beyond. */
export function nextRequest(random: Random, { stage1Levels }: NestedFormat, asked: Request): void {
  const most = stage1Levels === 5 ? 0x100_0000 : 0x8000
  asked.hi = random.below(random.below(32) === 0 ? 0x1_0000_0000 : most)
  asked.lo = random.below(0x1_0000_0000)
  asked.access = random.pick(ACCESSES)
}

export function ask(model: IommuModel, format: NestedFormat, { hi, lo, access }: Request): number {
  return model.translate(format.device, NO_PASID, hi, lo, access)
}
