/** `docs/ledger.md`, from the ledger. */
import { LEDGER } from "./explain.ts"

const HEAD = `# Ledger: where QEMU and the books differ

The models follow the books; captures and comparisons show what QEMU does. \`vmm-sim verify\` and \`iommu-diff\` count a
difference as explained when one or more of these entries, and nothing else, make it. Any other difference fails. An
entry recognises its difference in the access and in both answers, never by the name of a capture or a case.
Versions are those that were looked at: 7.2.22, 10.0.2, 11.1.3.

Generated from \`tooling/qemu/src/ledger/\`; \`vitest run tooling/qemu -u\` writes it anew.
`

export function ledgerDocument(): string {
  const entries = LEDGER.map(
    ({ id, versions, qemu, book, section, recognised, seldom }) =>
      `## ${id}\n\n- QEMU ${versions.join(", ")}: ${qemu}\n- Book: ${book}\n- Decided by: ${section}\n- Recognised by: ${recognised}.\n${seldom === undefined ? "" : `- Seldom seen: ${seldom}.\n`}`,
  )
  return [HEAD, ...entries].join("\n")
}
