/** What the book says of a guest's commands and events. AMD 48882 §2.2.6, §2.4, §2.5.3; guest tables are typed by hand. */
import type { ViommuContract } from "@iommu/conformance"
import { HwptDataType, HwptInvalidateDataType, ViommuType } from "@iommu/core"
import { guestDte } from "./driver-machine.ts"

const COMPLETION_WAIT = 1n << 60n
const INVALIDATE_DEVTAB_ENTRY = 2n << 60n
/** Beyond all that the parent maps. */
const NOWHERE = 0x80_0000n

export const viommuContract: ViommuContract = {
  type: ViommuType.AMD,
  virtualIdBits: 16,
  naming: virtualId => ({
    type: HwptInvalidateDataType.AMD_GUEST,
    entries: [{ cmd: [INVALIDATE_DEVTAB_ENTRY | BigInt(virtualId), 0n] }],
  }),
  forbidden: { type: HwptInvalidateDataType.AMD_GUEST, entries: [{ cmd: [COMPLETION_WAIT, 0n] }] },
  guestTables: ({ memory }, base) => {
    const put = (offset: bigint, value: bigint): void => memory?.write64(base + offset, value)
    // GCR3 table, then tables of levels 4 to 1.
    put(0x1000n, (base + 0x2000n) | 1n)
    put(0x2000n, (base + 0x3000n) | 7n)
    put(0x3000n, (base + 0x4000n) | 7n)
    put(0x4000n, (base + 0x5000n) | 7n)
    put(0x5018n, NOWHERE | 7n)
    return {
      data: { type: HwptDataType.AMD_GUEST, dte: guestDte(base + 0x1000n, 0x77n) },
      refusedByGuest: 0x2000n,
      refusedByHost: 0x3000n,
    }
  },
  deviceIn: event => new DataView(event.buffer).getUint16(0, true),
}
