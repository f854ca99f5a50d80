/** What the book and Linux say of virtual SMMUs. Arm IHI 0070 G.b §4.3, §7.3; guest tables are typed by hand. */
import type { ViommuContract } from "@iommu/conformance"
import { HwptDataType, HwptInvalidateDataType, ViommuType } from "@iommu/core"

const CMD_CFGI_STE = 0x03n
const CMD_CFGI_CD_ALL = 0x06n
/** Bits 63:32 of a record: StreamID. */
const STREAM_ID_BYTE = 4
/** Beyond all that the parent maps. */
const NOWHERE = 0x80_0000n

export const viommuContract: ViommuContract = {
  type: ViommuType.ARM_SMMUV3,
  virtualIdBits: 32,
  naming: virtualId => ({
    type: HwptInvalidateDataType.ARM_SMMUV3,
    entries: [{ cmd: [CMD_CFGI_CD_ALL | (BigInt(virtualId) << 32n), 0n] }],
  }),
  forbidden: { type: HwptInvalidateDataType.ARM_SMMUV3, entries: [{ cmd: [CMD_CFGI_STE, 0n] }] },
  guestTables: ({ memory }, base) => {
    const put = (offset: bigint, ...words: bigint[]): void =>
      words.forEach((word, i) => {
        memory?.write64(base + offset + BigInt(i * 8), word)
      })
    // CD as in captures/smmuv3-nested-4k: T0SZ 16, 4 KiB, IPS 4; then tables of levels 0 to 3.
    put(0x1000n, 0x4e204c0003510n, base + 0x2000n, 0n, 0xfffffffff404ff44n)
    put(0x2000n, (base + 0x3000n) | 3n)
    put(0x3000n, (base + 0x4000n) | 3n)
    put(0x4000n, (base + 0x5000n) | 3n)
    put(0x5018n, NOWHERE | 0xf47n)
    return {
      data: { type: HwptDataType.ARM_SMMUV3, ste: [(base + 0x1000n) | 0xbn, 0xd6n] },
      refusedByGuest: 0x2000n,
      refusedByHost: 0x3000n,
    }
  },
  deviceIn: event => new DataView(event.buffer).getUint32(STREAM_ID_BYTE, true),
}
