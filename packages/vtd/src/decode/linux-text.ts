/** Words of Linux's log for fault reasons, as `dmar_get_fault_reason` has them from 6.1 to 7.3. */

/** From a first reason on, one after the other. */
const TEXTS: readonly (readonly [first: number, texts: readonly string[]])[] = [
  [
    0x00,
    [
      "Software",
      "Present bit in root entry is clear",
      "Present bit in context entry is clear",
      "Invalid context entry",
      "Access beyond MGAW",
      "PTE Write access is not set",
      "PTE Read access is not set",
      "Next page table ptr is invalid",
      "Root table address invalid",
      "Context table ptr is invalid",
      "non-zero reserved fields in RTP",
      "non-zero reserved fields in CTP",
      "non-zero reserved fields in PTE",
      "PCE for translation request specifies blocking",
    ],
  ],
  [
    0x20,
    [
      "Detected reserved fields in the decoded interrupt-remapped request",
      "Interrupt index exceeded the interrupt-remapping table size",
      "Present field in the IRTE entry is clear",
      "Error accessing interrupt-remapping table pointed by IRTA_REG",
      "Detected reserved fields in the IRTE entry",
      "Blocked a compatibility format interrupt request",
      "Blocked an interrupt request due to source-id verification failure",
    ],
  ],
  [
    0x30,
    [
      "SM: Invalid Root Table Address",
      "SM: TTM 0 for request with PASID",
      "SM: TTM 0 for page group request",
    ],
  ],
  [
    0x38,
    [
      "SM: Error attempting to access Root Entry",
      "SM: Present bit in Root Entry is clear",
      "SM: Non-zero reserved field set in Root Entry",
    ],
  ],
  [
    0x40,
    [
      "SM: Error attempting to access Context Entry",
      "SM: Present bit in Context Entry is clear",
      "SM: Non-zero reserved field set in the Context Entry",
      "SM: Invalid Context Entry",
      "SM: DTE field in Context Entry is clear",
      "SM: PASID Enable field in Context Entry is clear",
      "SM: PASID is larger than the max in Context Entry",
      "SM: PRE field in Context-Entry is clear",
      "SM: RID_PASID field error in Context-Entry",
    ],
  ],
  [
    0x50,
    [
      "SM: Error attempting to access the PASID Directory Entry",
      "SM: Present bit in Directory Entry is clear",
      "SM: Non-zero reserved field set in PASID Directory Entry",
    ],
  ],
  [
    0x58,
    [
      "SM: Error attempting to access PASID Table Entry",
      "SM: Present bit in PASID Table Entry is clear",
      "SM: Non-zero reserved field set in PASID Table Entry",
      "SM: Invalid Scalable-Mode PASID Table Entry",
      "SM: ERE field is clear in PASID Table Entry",
      "SM: SRE field is clear in PASID Table Entry",
    ],
  ],
  [
    0x70,
    [
      "SM: Error attempting to access first-level paging entry",
      "SM: Present bit in first-level paging entry is clear",
      "SM: Non-zero reserved field set in first-level paging entry",
      "SM: Error attempting to access FL-PML4 entry",
      "SM: First-level entry address beyond MGAW in Nested translation",
      "SM: Read permission error in FL-PML4 entry in Nested translation",
      "SM: Read permission error in first-level paging entry in Nested translation",
      "SM: Write permission error in first-level paging entry in Nested translation",
      "SM: Error attempting to access second-level paging entry",
      "SM: Read/Write permission error in second-level paging entry",
      "SM: Non-zero reserved field set in second-level paging entry",
      "SM: Invalid second-level page table pointer",
      "SM: A/D bit update needed in second-level entry when set up in no snoop",
    ],
  ],
  [
    0x80,
    [
      "SM: Address in first-level translation is not canonical",
      "SM: U/S set 0 for first-level translation with user privilege",
      "SM: No execute permission for request with PASID and ER=1",
      "SM: Address beyond the DMA hardware max",
      "SM: Second-level entry address beyond the max",
      "SM: No write permission for Write/AtomicOp request",
      "SM: No read permission for Read/AtomicOp request",
      "SM: Invalid address-interrupt address",
    ],
  ],
  [0x90, ["SM: A/D bit update needed in first-level entry when set up in no snoop"]],
]

/** Whether Linux takes the reason for one of remapped interrupts, and prints another line: fewer than the book has. */
export function isInterruptLine(reason: number): boolean {
  return reason >= 0x20 && reason <= 0x26
}

export function reasonText(reason: number): string {
  for (const [first, texts] of TEXTS) {
    const text = texts[reason - first]
    if (text !== undefined) return text
  }
  return "Unknown"
}
