/** Where the structures of a VT-d case lie, from the start of the structures: a page each. */
export const ROOT_TABLE = 0
export const CONTEXT_TABLE = 0x1000
export const UPPER_CONTEXT_TABLE = 0x2000
export const PASID_DIRECTORY = 0x3000
export const PASID_TABLE = 0x4000
export const QUEUE = 0x5000
export const STATUS = 0x6000
/** The queue of a case of commands. */
export const RING = 0x7000
export const PAGE_BYTES = 4096
/** Of all of them. */
export const STRUCTURES_BYTES = 0x8000
