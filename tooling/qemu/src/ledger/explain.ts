/** Which entries of the ledger make a difference, if any do. */
import type { Difference } from "../diff/compare.ts"
import type { Vendor } from "../machine/recipe.ts"
import { AMD_SLIPS } from "./amd.ts"
import { AMD_COMMAND_SLIPS } from "./amd-commands.ts"
import type { Dispute, LedgerEntry, RefusedAccess, Setting } from "./entry.ts"
import { SMMUV3_SLIPS } from "./smmuv3.ts"
import { SMMUV3_COMMAND_SLIPS } from "./smmuv3-commands.ts"
import { recordOfCode, VTD_SLIPS } from "./vtd.ts"
import { VTD_COMMAND_SLIPS } from "./vtd-commands.ts"

export type Reading = { readonly id: string } & Extract<LedgerEntry["slip"], { readonly kind: "reading" }>

export const LEDGER: readonly LedgerEntry[] = [
  ...VTD_SLIPS,
  ...VTD_COMMAND_SLIPS,
  ...SMMUV3_SLIPS,
  ...SMMUV3_COMMAND_SLIPS,
  ...AMD_SLIPS,
  ...AMD_COMMAND_SLIPS,
]

/** Releases that were looked at; of any other one nothing is known, so that it may have any slip. */
const RELEASES: ReadonlySet<string> = new Set(LEDGER.flatMap(({ versions }) => versions))

/**
 * Whether an access is answered differently only by slips of QEMU.
 * @param setting the case, where there is one: then only slips of its release count
 * @returns ids of the ledger's entries that explain it, or null when any of the difference is left
 */
export function explainAccess(
  vendor: Vendor,
  dispute: Dispute,
  setting: Setting | null = null,
): readonly string[] | null {
  const entries = entriesOf(vendor, setting)
  const answer = entries.find(({ slip }) => slip.kind === "answer" && slip.explains(dispute, setting))
  if (answer !== undefined) return [answer.id]
  const { fault, ourRecord, theirRecords, theyRefused, write } = dispute
  // One access leaves one record at most; what leaves more is nothing that bits of a record explain.
  if (theirRecords.length > 1) return null
  const theirRecord = dispute.theirRecord ?? recordOfCode(dispute)
  if (fault === null || !theyRefused || ourRecord === null || theirRecord === null) return null
  const used = explainRecord(vendor, ourRecord, theirRecord, { write, reason: fault.reason }, setting)
  // Equal records explain nothing: the difference is elsewhere.
  return used === null || used.length === 0 ? null : used
}

/**
 * The slips that together make QEMU's record of the model's.
 * @returns none for equal records, null when they do not explain all of it
 */
export function explainRecord(
  vendor: Vendor,
  ours: readonly bigint[],
  qemu: readonly bigint[],
  access: RefusedAccess | null = null,
  setting: Setting | null = null,
): readonly string[] | null {
  if (qemu.length !== ours.length) return null
  const used: string[] = []
  let record = ours
  for (const { id, slip } of entriesOf(vendor, setting)) {
    if (slip.kind !== "record") continue
    const slipped = record.map((word, index) => {
      const mask = slip.mask[index] ?? 0n
      return (word & ~mask) | (qemu[index] & mask)
    })
    if (sameWords(slipped, record) || !slip.matches(ours, qemu, access)) continue
    record = slipped
    used.push(id)
  }
  return sameWords(record, qemu) ? used : null
}

/** As {@link explainAccess}, for any difference that a comparison finds. */
export function explainDifference(
  vendor: Vendor,
  difference: Difference,
  setting: Setting,
): readonly string[] | null {
  const state = entriesOf(vendor, setting).find(
    ({ slip }) => slip.kind === "state" && slip.explains(difference),
  )
  if (state !== undefined) return [state.id]
  if (difference.kind !== "access") return null
  const { access, ours, theirs, fault } = difference
  if (ours.records.length > 1) return null
  const dispute: Dispute = {
    write: access.write,
    fault,
    ourRecord: ours.records[0] ?? null,
    theirRecord: theirs.records[0] ?? null,
    theirRecords: theirs.records,
    theirCode: null,
    theyRefused: theirs.answer.kind === "refused",
  }
  return explainAccess(vendor, dispute, setting)
}

/** What entries explain of differences that belong together, by id. */
export function explainTogether(
  vendor: Vendor,
  differences: readonly Difference[],
  setting: Setting,
): ReadonlyMap<string, readonly Difference[]> {
  return new Map(
    entriesOf(vendor, setting).flatMap(({ id, slip }) =>
      slip.kind === "states" ? [[id, slip.explained(differences)] as const] : [],
    ),
  )
}

/** Entries by which QEMU reads memory in another way. */
export function readingsOf(vendor: Vendor, setting: Setting): readonly Reading[] {
  return entriesOf(vendor, setting).flatMap(({ id, slip }) =>
    slip.kind === "reading" ? [{ id, ...slip }] : [],
  )
}

function entriesOf(vendor: Vendor, setting: Setting | null): LedgerEntry[] {
  const release = setting?.world.release
  return LEDGER.filter(
    entry =>
      entry.vendor === vendor &&
      (release === undefined || !RELEASES.has(release) || entry.versions.includes(release)),
  )
}

function sameWords(a: readonly bigint[], b: readonly bigint[]): boolean {
  return a.length === b.length && a.every((word, index) => word === b[index])
}
