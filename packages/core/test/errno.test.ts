import { execFileSync } from "node:child_process"
import { ERRNO, errnoError, IommuError, isIommuError } from "@iommu/core"
import { describe, expect, it } from "vitest"
import { compiler } from "./c-compiler.ts"

describe("errno", () => {
  it.skipIf(compiler === null)("has the numbers of the C library's errno.h", () => {
    const names = Object.keys(ERRNO)
    const source = `#include <errno.h>\n${names.map(name => `"${name}" ${name}`).join("\n")}\n`
    const text = execFileSync(compiler as string, ["-E", "-P", "-x", "c", "-"], {
      input: source,
      encoding: "utf8",
    })
    const numbers = Object.fromEntries(
      [...text.matchAll(/"(E\w+)"\s+(\d+)/g)].map(([, name, number]) => [name, Number(number)]),
    )
    expect(numbers).toEqual(ERRNO)
  })

  it("is carried by name, by number and in the sentence", () => {
    const error = new IommuError("EOPNOTSUPP", "the driver serves no such type")
    expect(error).toMatchObject({ code: "EOPNOTSUPP", errno: 95, name: "IommuError" })
    expect(error.message).toBe("EOPNOTSUPP: the driver serves no such type")
  })

  it("is made of a number that a call in halves answered", () => {
    expect(errnoError(12, "no page is left")).toMatchObject({ code: "ENOMEM", errno: 12 })
    expect(() => errnoError(0, "nothing is wrong")).toThrow(/bug/)
  })

  it("is recognised without the class, as from a second copy of the package", () => {
    const foreign = Object.assign(new Error("EIO: x"), { name: "IommuError", code: "EIO", errno: 5 })
    expect(isIommuError(foreign)).toBe(true)
    expect(isIommuError(new Error("EIO"))).toBe(false)
    expect(isIommuError("EIO")).toBe(false)
  })
})
