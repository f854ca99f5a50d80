import { IOMMUFD_VEVENT_HEADER, VEVENTQ_FLAG_LOST_EVENTS } from "@iommu/iommufd"
import type { GuestEvents } from "./calls.ts"

/** Sequence numbers run from 0 to this, and then from 0 again. */
const SEQUENCES = 2 ** 31

/** Reads the records of one event queue; a gap in their numbers tells how many events were lost. */
export class EventStream {
  #next = 0

  decode(bytes: Uint8Array, eventBytes: number): GuestEvents {
    const events: Uint8Array[] = []
    let lost = 0
    for (let at = 0; at < bytes.length; ) {
      const header = IOMMUFD_VEVENT_HEADER.decode(bytes.subarray(at, at + IOMMUFD_VEVENT_HEADER.size))
      at += IOMMUFD_VEVENT_HEADER.size
      const isLoss = (header.flags & VEVENTQ_FLAG_LOST_EVENTS) !== 0
      lost += (header.sequence - this.#next + SEQUENCES) % SEQUENCES
      this.#next = (header.sequence + 1) % SEQUENCES
      if (isLoss) {
        lost++
        continue
      }
      events.push(bytes.slice(at, at + eventBytes))
      at += eventBytes
    }
    return { lost, events }
  }
}
