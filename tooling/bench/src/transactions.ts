import { ACCESS_READ, NO_PASID } from "@iommu/core"
import { IOVA_HI, IOVA_LO, type Machine } from "./machines.ts"

/** Reads of `pages` pages in turn, `calls` in all. */
export function transactions({ model, device }: Machine, pages: number, calls: number): () => number {
  const list = Int32Array.from({ length: calls }, (_, n) => IOVA_LO + ((n % pages) << 12))
  return () => {
    let sum = 0
    for (let n = 0; n < calls; n++) {
      const status = model.translate(device, NO_PASID, IOVA_HI, list[n] as number, ACCESS_READ)
      sum = (sum + status + model.result.paLo) | 0
    }
    return sum
  }
}

/** @throws Error when the model refuses a read of one of the pages: refusals have another price */
export function checkAllowed({ model, device }: Machine, pages: number): void {
  for (let page = 0; page < pages; page++) {
    const status = model.translate(device, NO_PASID, IOVA_HI, IOVA_LO + (page << 12), ACCESS_READ)
    if (status !== 0) throw new Error(`${model.vendor}: ${model.result.fault?.reason} at page ${page}`)
  }
}
