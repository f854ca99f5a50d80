/** Where the structures of an SMMUv3 case lie, from the start of the structures. */
export const STREAM_TABLE = 0
export const L1_STREAM_TABLE = 0x4_0000
export const CD_AT = 0x5_0000
export const COMMAND_QUEUE = 0x6_0000
export const EVENT_QUEUE = 0x7_0000
/** The queue of a case of commands. */
export const COMMAND_RING = 0x8_0000
export const RING_LG2 = 4
export const RING_ENTRIES: number = 2 ** RING_LG2
/** Where stage 2 puts the machine: intermediate addresses are physical ones and this. */
export const IPA_OFFSET = 0x10_0000_0000
/** The tables of one stage lie in so many bytes from the start of one of the places for tables. */
export const TABLE_AREA_BYTES = 0x80_0000
