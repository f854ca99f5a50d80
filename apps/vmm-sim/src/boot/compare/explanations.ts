/** Why Linux's driver and ours do not write the same, line by line. */
import type { DifferenceLine } from "./difference.ts"

export interface Explanation {
  /** Whose lines: Linux's alone, our own alone, or both. */
  readonly side: "first" | "second" | "either"
  readonly lines: RegExp
  readonly why: string
}

const VTD: readonly Explanation[] = [
  {
    side: "second",
    lines: /^FSTS = |^PRS = /,
    why: "Ours clears errors that a former owner may have left; Linux clears what it finds pending when an interrupt comes.",
  },
  {
    side: "either",
    lines: /^IQA = page \| 0x80|^PQA = page/,
    why: "Sizes of queues: Linux has an invalidation queue of 2 pages where descriptors have 256 bits, and a page request queue of 16; ours have one page each.",
  },
  {
    side: "first",
    lines: /^(FE|PE)(DATA|ADDR|UADDR|CTL) = /,
    why: "Linux routes the events to a CPU and unmasks them (twice: the kernel sets the affinity once more); whoever runs our driver tells it when to look.",
  },
  {
    side: "second",
    lines: /^(cc_inv|pc_inv)_dsc |^iotlb_inv_dsc G=0x1|^inv_wait_dsc SW=0x1$/,
    why: "CAP.ESRTPS says that a new root pointer invalidates by itself (VT-d 5.10 §11.4.2): Linux relies on it, ours invalidates all the same.",
  },
  {
    side: "either",
    lines: /^iotlb_inv_dsc G=0x3 /,
    why: "IH, the hint that only a leaf has changed: Linux 6.1 leaves it out for second-stage pages (and sets it for first-stage ones), ours sets it.",
  },
]

const AMD: readonly Explanation[] = [
  {
    side: "either",
    lines: /^CONTROL = /,
    why: "Linux switches features on one by one, interrupts last; ours with two writes, the second of which is IommuEn.",
  },
  {
    side: "either",
    lines: /^DEVTAB_BASE = |^CMDBUF_BASE = /,
    why: "Sizes: Linux's device table ends with the last device that firmware names, ours has all 65,536; its command buffer has 512 commands, ours 256.",
  },
  {
    side: "second",
    lines: /^STATUS = |^EXCL_/,
    why: "Ours clears status bits and an exclusion range that a former owner may have left; Linux programs the range only when firmware asks for one.",
  },
  {
    side: "first",
    lines: /^INVALIDATE_DEVTAB_ENTRY DeviceID=0xf[8ab]$/,
    why: "Linux puts every function of the bus on a domain, the machine's own among them; ours the one that it was asked to.",
  },
  {
    side: "either",
    lines: /^INVALIDATE_DEVTAB_ENTRY DeviceID=0x18$|^INVALIDATE_IOMMU_ALL$|^COMPLETION_WAIT S=0x1$/,
    why: "Ours writes the disk's entry when it is probed (blocked) and when it is attached; Linux once, and invalidates everything at the end of its start. Each waits where it needs to.",
  },
  {
    side: "first",
    lines: /^INVALIDATE_IOMMU_PAGES DomainID=some S=0x1 PDE=0x1 Address=all$/,
    why: "Linux drops all pages of a domain when a device joins it; ours when a device leaves it.",
  },
  {
    side: "either",
    lines: /^PPR_/,
    why: "The same registers at another time: Linux sets up the log of page requests after the IOMMU works.",
  },
  {
    side: "first",
    lines: /^XT_/,
    why: "Linux routes the IOMMU's interrupts; whoever runs our driver tells it when to look.",
  },
  {
    side: "either",
    lines: /^INVALIDATE_IOMMU_PAGES DomainID=some (PDE=0x1 )?Address=page$/,
    why: "PDE asks to drop entries of upper levels as well: Linux always sets it, ours when tables have gone.",
  },
]

const SMMUV3: readonly Explanation[] = [
  {
    side: "second",
    lines: /^IRQ_CTRL = 0x0$|^GERRORN = /,
    why: "Ours turns interrupts off and acknowledges errors before anything else; Linux at the time when it routes them.",
  },
  {
    side: "either",
    lines: /^(CMDQ|EVENTQ)_BASE = /,
    why: "Sizes of queues: Linux takes as many entries as the hardware allows, ours 256 commands and 128 events.",
  },
  {
    side: "either",
    lines: /^CMD_SYNC/,
    why: "Linux asks for a message (CS = 1) and watches the word that it writes; ours reads CMDQ_CONS.",
  },
  {
    side: "first",
    lines: /^(GERROR|EVENTQ)_IRQ_CFG|^IRQ_CTRL = /,
    why: "Linux routes the interrupts of errors and events; whoever runs our driver tells it when to look.",
  },
  {
    side: "either",
    lines: /^CR0 = |^PRIQ_/,
    why: "Ours serves page requests (PRIQEN); Debian's cloud kernel is built without them. The order of the other enables is the same.",
  },
  {
    side: "second",
    lines: /^CMD_CFGI_STE_RANGE Range=0x7$|^CMD_CFGI_CD /,
    why: "Ours invalidates the stream table entries of a second-level table, and context descriptors, that it has just made, in case hardware has read ahead; Linux trusts that there was nothing valid to read.",
  },
  {
    side: "first",
    lines: /^CMD_TLBI_NH_ASID /,
    why: "Linux drops what an ASID may have left when it takes it; ours drops translations when it takes their tables away.",
  },
]

const EXPLANATIONS: Readonly<Record<string, readonly Explanation[]>> = { vtd: VTD, amd: AMD, smmuv3: SMMUV3 }

export function explanationsOf(vendor: string): readonly Explanation[] {
  return EXPLANATIONS[vendor] ?? []
}

/** @returns null for a line that both say, and for a difference that nobody has explained */
export function explain(vendor: string, line: DifferenceLine): Explanation | null {
  if (line.side === "both") return null
  return (
    explanationsOf(vendor).find(
      ({ side, lines }) => (side === "either" || side === line.side) && lines.test(line.text),
    ) ?? null
  )
}
