/** Differences in words. */
import type { Difference, Side } from "./compare.ts"

export function describeDifference(difference: Difference): string {
  switch (difference.kind) {
    case "access": {
      const { access, ours, theirs, fault, round } = difference
      const what = `${access.write ? "write" : "read"} of device ${access.device} at ${hex(access.iova)}, round ${round}`
      const why = fault === null ? "" : ` (${fault.reason}: ${fault.detail})`
      return `${what}: model ${describeSide(ours)}${why}; QEMU ${describeSide(theirs)}`
    }
    case "register":
      return `${difference.name} after round ${difference.round}: model ${hex(difference.ours)}, QEMU ${hex(difference.theirs)}`
    case "table": {
      const { address, before, ours, theirs } = difference
      return `word at ${hex(BigInt(address))}, ${hex(before)} before: model ${changed(ours)}, QEMU ${changed(theirs)}`
    }
    case "event":
      return `event ${difference.index}: model ${event(difference.ours)}, QEMU ${event(difference.theirs)}`
    case "died":
      return `QEMU ended: ${difference.words}`
  }
}

function describeSide({ answer, records }: Side): string {
  const words = records.map(record => `[${record.map(hex).join(" ")}]`).join(" ")
  return `${describeAnswer(answer)}, ${words === "" ? "no record" : `record ${words}`}`
}

function describeAnswer(answer: Side["answer"]): string {
  switch (answer.kind) {
    case "refused":
      return "refuses"
    case "passed":
      return "allows"
    case "outside":
      return "allows, to where there is no RAM"
    case "landed":
      return `allows, to ${hex(BigInt(answer.address))}`
    case "elsewhere":
      return `allows, and finds ${hex(BigInt(answer.value))}`
  }
}

function event(words: readonly bigint[] | null): string {
  return words === null ? "none" : `[${words.map(hex).join(" ")}]`
}

function changed(value: bigint | null): string {
  return value === null ? "leaves it" : hex(value)
}

function hex(value: bigint): string {
  return `0x${value.toString(16)}`
}
