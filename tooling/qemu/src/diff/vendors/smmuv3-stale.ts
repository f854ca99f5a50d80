/** SMMUv3 tables that change under its TLB. Arm IHI 0070 G.b §4.4. */
import { commands, registers } from "@iommu/smmuv3"
import type { Invalidation, QueuedCommands, StaleDiff } from "../stale.ts"
import type { World } from "../vendor-diff.ts"
import { withFirstPageMoved } from "./case-parts.ts"
import { type SmmuCase, smmuCases } from "./smmuv3-case.ts"
import { COMMAND_QUEUE } from "./smmuv3-layout.ts"
import { RESET_COMMANDS } from "./smmuv3-script.ts"

const TAG = 1n
const OTHER_TAG = 2n
const PAGE = 1n << 30n

export const smmuv3Stale: StaleDiff<SmmuCase> = {
  cases: world =>
    smmuCases(world).map(given => ({
      ...given,
      // One stage at a time, whole, of 4 KiB granules and plain sizes.
      config: (world.identity["IDR0"] & 2n) === 0n ? 6 : 5,
      stage1: { ...given.stage1, granuleLg2: 12, wrongSize: null, outputSize: 4 },
      stage2: {
        ...given.stage2,
        granuleLg2: 12,
        wrongSize: null,
        outputSize: 4,
        inputBits: 40,
        concatenatedLg2: 0,
      },
      damage: null,
      streamTableLg2: 8,
      accesses: given.accesses.map(access => ({ ...access, flip: null })),
    })),
  changed: (given, isGone) => {
    const at = given.config === 6 ? "stage 2" : "stage 1"
    if (isGone) return { ...given, damage: { at, leaf: 0, depth: depthOfLeaf(given), bit: 0 } }
    const move = (stage: SmmuCase["stage1"]): SmmuCase["stage1"] => ({
      ...stage,
      leaves: withFirstPageMoved(stage.leaves),
    })
    return { ...given, stage1: move(given.stage1), stage2: move(given.stage2) }
  },
  invalidate,
}

/** The last entry of the first leaf's way, as damage counts: from the root. */
function depthOfLeaf(given: SmmuCase): number {
  const { inputBits, leaves } = given.config === 6 ? given.stage2 : given.stage1
  const levels = Math.ceil((inputBits - 12) / 9)
  return levels - 1 - Math.min(leaves[0].level, levels - 1)
}

function invalidate({ places, identity }: World, kind: Invalidation, iova: bigint): QueuedCommands {
  const isStage2 = (identity["IDR0"] & 2n) === 0n
  const words = wordsOf(kind, isStage2, iova)
  const all = words === null ? [] : [words, [BigInt(commands.CMD_SYNC), 0n] as const]
  const base = places.structures + COMMAND_QUEUE + RESET_COMMANDS.length * 16
  const stores = all.flatMap(([first, second], index): [number, bigint][] => [
    [base + index * 16, first],
    [base + index * 16 + 8, second],
  ])
  const prod = BigInt(RESET_COMMANDS.length + all.length)
  return {
    stores: new Map(stores),
    writes: [{ offset: registers.REGISTERS.CMDQ_PROD[0], bytes: 4, value: prod }],
  }
}

function wordsOf(kind: Invalidation, isStage2: boolean, iova: bigint): readonly [bigint, bigint] | null {
  const page = (address: bigint): bigint => BigInt.asUintN(64, address) & ~0xfffn
  // CMD_TLBI_S2_IPA has a VMID, CMD_TLBI_NH_VA that and an ASID. §4.4.
  const byAddress = (tag: bigint, address: bigint): readonly [bigint, bigint] =>
    isStage2
      ? [BigInt(commands.CMD_TLBI_S2_IPA) | (tag << 32n), page(address)]
      : [BigInt(commands.CMD_TLBI_NH_VA) | (tag << 48n) | (TAG << 32n), page(address)]
  switch (kind) {
    case "none":
      return null
    case "other page":
      return byAddress(TAG, iova ^ PAGE)
    case "other tag":
      return byAddress(OTHER_TAG, iova)
    case "exact":
      return byAddress(TAG, iova)
    case "everything":
      return [BigInt(commands.CMD_TLBI_NSNH_ALL), 0n]
  }
}
