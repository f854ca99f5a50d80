/** Where a case's structures, tables and data lie in each target's RAM. */
import type { QemuTarget } from "../binary/qemu-binary.ts"

const KIB = 1024
const MIB = 1024 ** 2
const GIB = 1024 ** 3

/** 64 KiB of data words, aligned to the size of the blocks that blocks of every granule can start at. */
export const FRAME_BYTES: number = 64 * KIB

export interface Places {
  /** Devices' words on their way to and from the test: one page each, where no case looks. */
  readonly tags: number
  readonly landing: number
  /** Configuration structures, queues and logs. */
  readonly structures: number
  /** Tables, below and above 4 GiB. */
  readonly tables: readonly number[]
  /** What translations lead to. */
  readonly frames: readonly number[]
  /** A physical address without RAM or device. */
  readonly nowhere: number
  /** Where a piece of RAM ends, and nothing follows. */
  readonly edge: number
}

export const PLACES: Readonly<Record<QemuTarget, Places>> = {
  x86_64: {
    tags: 7 * MIB - 8192,
    landing: 7 * MIB - 4096,
    structures: 4 * MIB,
    tables: [8 * MIB, 4 * GIB + 16 * MIB],
    frames: [16 * MIB, 16 * MIB + FRAME_BYTES, 4 * GIB],
    nowhere: 1 << 30,
    edge: 32 * MIB,
  },
  aarch64: {
    tags: GIB + 7 * MIB - 8192,
    landing: GIB + 7 * MIB - 4096,
    structures: GIB + 4 * MIB,
    // With bit 32 turned over, the second is an address where the machine has nothing.
    tables: [GIB + 32 * MIB, 4 * GIB + 240 * MIB],
    frames: [GIB + 64 * MIB, GIB + 64 * MIB + FRAME_BYTES, 4 * GIB],
    nowhere: 8 * GIB,
    edge: 4 * GIB + 256 * MIB,
  },
}
