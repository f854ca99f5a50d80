/** Where the structures of an AMD-Vi case lie, from the start of the structures. */
/** One page of device table: DeviceIDs below 128 times its size. */
export const DEVICE_TABLE = 0
export const COMMAND_BUFFER = 0x2000
export const EVENT_LOG = 0x4000
/** The buffer of a case of commands, and what its waits store to. */
export const COMMAND_RING = 0x6000
export const STORED = 0x8000
/** Commands in a page: a buffer of the smallest size. */
export const PAGE_ENTRIES = 256
