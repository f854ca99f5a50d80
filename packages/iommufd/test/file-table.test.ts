import { FileTable } from "@iommu/iommufd"
import { describe, expect, it } from "vitest"

describe("file table", () => {
  it("gives the lowest free descriptor, up to the limit: EMFILE", () => {
    const files = new FileTable(3)
    const file = { kind: "memfd" }
    expect([files.install(file), files.install(file), files.install(file)]).toEqual([0, 1, 2])
    expect(() => files.install(file)).toThrow(/EMFILE.*3/)
    files.close(1)
    expect(files.descriptors).toEqual([0, 2])
    expect(files.install(file)).toBe(1)
  })

  it("closes a file with its last descriptor", () => {
    const files = new FileTable()
    let closed = 0
    const file = { kind: "memfd", close: () => closed++ }
    const [one, two] = [files.install(file), files.install(file)]
    files.close(one)
    expect(closed).toBe(0)
    files.close(two)
    expect(closed).toBe(1)
    expect(() => files.close(two)).toThrow(/EBADF/)
    expect(() => files.get(one)).toThrow(/EBADF/)
    expect(() => files.get(-1)).toThrow(/EBADF/)
  })
})
