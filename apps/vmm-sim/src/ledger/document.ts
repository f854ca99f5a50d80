/** `docs/ledger.md`, from the ledger. */
import { LEDGER } from "./index.ts"

const HEAD = `# Ledger: where QEMU and the books differ

Captures hold QEMU's answers; the models follow the books. \`vmm-sim verify\` counts a difference as explained when
one or more of these entries, and nothing else, make it. Any other difference fails. An entry recognises its
difference in the row and in the model's answer, never by the name of a capture.

Generated from \`apps/vmm-sim/src/ledger/\`; \`vitest run apps/vmm-sim -u\` writes it anew.
`

export function ledgerDocument(): string {
  const entries = LEDGER.map(
    ({ id, qemu, book, section }) =>
      `## ${id}\n\n- QEMU: ${qemu}\n- Book: ${book}\n- Decided by: ${section}\n`,
  )
  return [HEAD, ...entries].join("\n")
}
