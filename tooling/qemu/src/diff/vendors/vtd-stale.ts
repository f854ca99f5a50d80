/** VT-d tables that change under its IOTLB. Intel VT-d 5.10 (D51397-018) §6.5.2. */
import { commands, registers } from "@iommu/vtd"
import type { Invalidation, QueuedCommands, StaleDiff } from "../stale.ts"
import type { World } from "../vendor-diff.ts"
import { withFirstPageMoved } from "./case-parts.ts"
import { type VtdCase, vtdCases } from "./vtd-case.ts"
import { QUEUE, STATUS } from "./vtd-layout.ts"
import { DOMAIN, descriptorsOf, firstDescriptors, waitDescriptor } from "./vtd-script.ts"

const PAGE = 1n << 30n

export const vtdStale: StaleDiff<VtdCase> = {
  cases: world =>
    vtdCases(world).map(given => ({
      ...given,
      type: 0,
      damage: null,
      together: true,
      accesses: given.accesses.map(access => ({ ...access, flip: null })),
    })),
  changed: (given, isGone) => {
    if (!isGone) return { ...given, leaves: withFirstPageMoved(given.leaves) }
    const depth = given.levels - 1 - Math.min(given.leaves[0].level, given.levels - 1)
    return { ...given, damage: { at: "stage 2", leaf: 0, depth, bit: 0 } }
  },
  invalidate,
}

function invalidate({ places, variant }: World, kind: Invalidation, iova: bigint): QueuedCommands {
  const descriptor = descriptorOf(kind, variant, iova)
  const wait = waitDescriptor(places.structures + STATUS)
  const words = descriptor === null ? [] : descriptorsOf(variant, [descriptor, wait])
  const first = firstDescriptors(variant)
  const base = places.structures + QUEUE + first
  return {
    stores: new Map(words.map((word, index) => [base + index * 8, word])),
    writes: [{ offset: registers.REGISTERS.IQT[0], bytes: 8, value: BigInt(first + words.length * 8) }],
  }
}

function descriptorOf(kind: Invalidation, variant: string, iova: bigint): readonly bigint[] | null {
  const byPage = (did: bigint, address: bigint): readonly bigint[] =>
    variant === "scalable-first"
      ? commands.P_IOTLB_INV_DSC.encode({
          Type: BigInt(commands.P_IOTLB_INV),
          G: BigInt(commands.P_IOTLB_PAGE),
          DID: did,
          ADDR: BigInt.asUintN(64, address) >> 12n,
        })
      : commands.IOTLB_INV_DSC.encode({
          Type: BigInt(commands.IOTLB_INV),
          G: BigInt(commands.IOTLB_PAGE),
          DID: did,
          ADDR: BigInt.asUintN(64, address) >> 12n,
        })
  switch (kind) {
    case "none":
      return null
    case "other page":
      return byPage(DOMAIN, iova ^ PAGE)
    case "other tag":
      return byPage(DOMAIN + 1n, iova)
    case "exact":
      return byPage(DOMAIN, iova)
    case "everything":
      return commands.IOTLB_INV_DSC.encode({
        Type: BigInt(commands.IOTLB_INV),
        G: BigInt(commands.IOTLB_GLOBAL),
      })
  }
}
