/** AMD-Vi tables that change under its IOTLB. AMD 48882 rev 3.10 §2.4. */
import { commands, registers } from "@iommu/amd"
import type { Invalidation, QueuedCommands, StaleDiff } from "../stale.ts"
import type { World } from "../vendor-diff.ts"
import { type AmdCase, amdCases } from "./amd-case.ts"
import { COMMAND_BUFFER } from "./amd-layout.ts"
import { DOMAIN } from "./amd-script.ts"
import { withFirstPageMoved } from "./case-parts.ts"

const PAGE = 1n << 30n

export const amdStale: StaleDiff<AmdCase> = {
  cases: world =>
    amdCases(world).map(given => ({
      ...given,
      mode: 4,
      damage: null,
      accesses: given.accesses.map(access => ({ ...access, flip: null })),
    })),
  changed: (given, isGone) => {
    if (!isGone) return { ...given, leaves: withFirstPageMoved(given.leaves) }
    // IR and IW, because PR of a leaf is not looked at everywhere: one bit takes one of them.
    const depth = given.mode - 1 - Math.min(given.leaves[0].level, given.mode - 1)
    return { ...given, damage: { at: "stage 2", leaf: 0, depth, bit: 62 } }
  },
  invalidate,
}

function invalidate({ places, deviceIds }: World, kind: Invalidation, iova: bigint): QueuedCommands {
  const first = (1 + deviceIds.length) * commands.COMMAND_BYTES
  const words = commandOf(kind, iova)
  const base = places.structures + COMMAND_BUFFER + first
  return {
    stores: new Map(words.map((word, index) => [base + index * 8, word])),
    writes: [{ offset: registers.REGISTERS.CMD_TAIL[0], bytes: 8, value: BigInt(first + words.length * 8) }],
  }
}

function commandOf(kind: Invalidation, iova: bigint): readonly bigint[] {
  const byPage = (DomainID: bigint, address: bigint): readonly bigint[] =>
    commands.INVALIDATE_IOMMU_PAGES.encode({
      Opcode: BigInt(commands.OPCODE.INVALIDATE_IOMMU_PAGES),
      DomainID,
      Address: BigInt.asUintN(64, address) >> 12n,
    })
  switch (kind) {
    case "none":
      return []
    case "other page":
      return byPage(DOMAIN, iova ^ PAGE)
    case "other tag":
      return byPage(DOMAIN + 1n, iova)
    case "exact":
      return byPage(DOMAIN, iova)
    case "everything":
      return commands.INVALIDATE_IOMMU_PAGES.encode({
        Opcode: BigInt(commands.OPCODE.INVALIDATE_IOMMU_PAGES),
        DomainID: DOMAIN,
        S: 1n,
        PDE: 1n,
        Address: 0x7_ffff_ffff_ffffn,
      })
  }
}
