/** The event log of AMD-Vi as it lies in memory. AMD 48882 rev 3.10 §2.5. */
const EVENT_BYTES = 16

/** Events in two 64-bit words each, oldest first. @param tail in bytes from the log's start */
export function eventsOf(log: Uint8Array, tail: number): (readonly bigint[])[] {
  const view = new DataView(log.buffer, log.byteOffset, log.length)
  return Array.from({ length: tail / EVENT_BYTES }, (_, index) => [
    view.getBigUint64(index * EVENT_BYTES, true),
    view.getBigUint64(index * EVENT_BYTES + 8, true),
  ])
}
