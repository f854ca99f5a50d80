/** Words of Linux's log for event records, as releases since 6.16 have them: `event_str`, `event_class_str`. */
import { EVENTS, type EventName } from "../spec/events.ts"
import type { SmmuV3FaultClass } from "./record.ts"

/** Events that Linux knows by name; the others are UNKNOWN to it. */
const NAMED: ReadonlySet<EventName> = new Set<EventName>([
  "C_BAD_STREAMID",
  "F_STE_FETCH",
  "C_BAD_STE",
  "F_STREAM_DISABLED",
  "C_BAD_SUBSTREAMID",
  "F_CD_FETCH",
  "C_BAD_CD",
  "F_TRANSLATION",
  "F_ADDR_SIZE",
  "F_ACCESS",
  "F_PERMISSION",
  "F_VMS_FETCH",
])
const TEXTS: ReadonlyMap<number, string> = new Map([...NAMED].map(name => [EVENTS[name], name]))

export function eventText(event: number): string {
  return TEXTS.get(event) ?? "UNKNOWN"
}

export const CLASS_TEXTS: { readonly [C in SmmuV3FaultClass]: string } = {
  "CD fetch": "CD fetch",
  "stage 1 table fetch": "Stage 1 translation table fetch",
  "input address": "Input address caused fault",
  reserved: "Reserved",
}
