/** What a guest prints, a hostile one included. */
import { describe, expect, it } from "vitest"
import { GuestConsole } from "../../src/boot/guest/console.ts"
import { initScript } from "../../src/boot/guest/init-script.ts"

describe("the guest's console", () => {
  it("tells the kernel's lines from the script's, in whatever pieces they come", () => {
    const seen: string[] = []
    const console = new GuestConsole(line => seen.push(line))
    for (const piece of [
      "[    1.0] DMAR: ",
      "one\r\r\nvmm-sim: sum large",
      " aa bb\r\n[    2.0] DMAR: two\n",
      "rest",
    ]) {
      console.push(piece)
    }
    expect(seen).toEqual(["[    1.0] DMAR: one", "vmm-sim: sum large aa bb", "[    2.0] DMAR: two"])
    expect(console.mark("sum")).toEqual(["large", "aa", "bb"])
    expect(console.kernelLines(/^DMAR/)).toEqual(["DMAR: one", "DMAR: two"])
    expect(console.kernelLines(/^DMAR/, console.bootLines)).toEqual(["DMAR: one"])
  })

  it("keeps no more than a boot prints", () => {
    const console = new GuestConsole(() => undefined)
    console.push(`${"x".repeat(100_000)}\n`)
    for (let n = 0; n < 30_000; n++) console.push("line\n")
    expect(console.lines[0]?.length).toBe(2000)
    expect(console.lines.length + console.linesDropped).toBe(30_001)
    expect(console.lines.length).toBeLessThanOrEqual(20_000)
  })

  it("loses the escapes that a terminal would obey", () => {
    const console = new GuestConsole(() => undefined)
    console.push("\x1b[2J\x1b[1mred\n")
    expect(console.lines).toEqual(["red"])
  })
})

describe("the guest's script", () => {
  it("writes an address in words of four bytes, low one first", () => {
    const rogue = { registers: 0x50, address: 0x2_3456_7000n, access: "write" } as const
    const script = initScript({ modules: [], rogue: [rogue] })
    const writes = [...script.matchAll(/printf '(\S+)' .* seek=(\d+) /g)].map(([, text, seek]) => [
      text,
      seek,
    ])
    expect(writes).toEqual([
      ["\\000\\160\\126\\064", "21"],
      ["\\002\\000\\000\\000", "22"],
      ["\\002\\000\\000\\000", "23"],
    ])
  })
})
