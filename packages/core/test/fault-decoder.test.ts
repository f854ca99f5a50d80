import { describe, expect, it } from "vitest"
import { linuxReleaseOf, requesterId, requesterName } from "../src/index.ts"

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

describe("kernels that print the same", () => {
  it.each([
    ["6.1", "6.1"],
    ["6.1.0-50-cloud-amd64", "6.1"],
    ["6.8.0-90-generic", "6.1"],
    ["6.12.117+deb13-cloud-arm64", "6.12"],
    ["6.16.3", "6.18"],
    ["7.1.13+deb13-cloud-amd64", "6.18"],
    ["7.3.4", "7.2"],
    ["6.13", null],
    ["6.15.2", null],
    ["5.15", null],
    ["6", null],
    ["6.123", null],
    ["hello", null],
  ])("%s as %s", (version, release) => {
    expect(linuxReleaseOf(version)).toBe(release)
  })
})
