/** Where the structures of an SMMUv3 case lie, from the start of the structures. */
export const STREAM_TABLE = 0
export const L1_STREAM_TABLE = 0x4_0000
export const CD_AT = 0x5_0000
export const COMMAND_QUEUE = 0x6_0000
export const EVENT_QUEUE = 0x7_0000
