import { describe, expect, it } from "vitest"
import { requesterId, requesterName } from "../src/index.ts"

describe("requester ids", () => {
  it.each([
    [0x18, "00:03.0"],
    [0x6a08, "6a:01.0"],
    [0xffff, "ff:1f.7"],
  ])("%i is %s", (id, name) => {
    expect(requesterName(id)).toBe(name)
    expect(requesterId(name)).toBe(id)
  })

  it.each([
    ["0000:00:03.0", 0x18],
    ["0x00:0x02.0", 0x10],
    ["00:20.0", null],
    ["00:1f.8", null],
    ["00:03", null],
    ["", null],
  ])("%s is %s", (name, id) => {
    expect(requesterId(name)).toBe(id)
  })
})
