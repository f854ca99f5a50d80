/** QEMU's slips in AMD-Vi. Book: AMD 48882 rev 3.10. */
import type { LedgerEntry } from "./entry.ts"

export const AMD_SLIPS: readonly LedgerEntry[] = []
