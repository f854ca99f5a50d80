import { describe, expect, test } from "vitest"
import { discoverQemu, FIRST_LINK, type QemuBinary, startQemu, startSession } from "../src/index.ts"

const { binaries, unusable } = discoverQemu()

const machineOf = (binary: QemuBinary): string => (binary.target === "x86_64" ? "q35" : "virt")
const BARE = ["-nodefaults", "-display", "none", "-S"]

test("every QEMU that was found runs", () => {
  expect(unusable).toEqual([])
})

describe.skipIf(binaries.length === 0)("a session (skipped without QEMU)", () => {
  test.each(binaries.map(binary => ({ binary, name: `${binary.version} ${binary.target}` })))(
    "of $name answers qtest and QMP, and leaves nothing running",
    async ({ binary }) => {
      const session = await startSession(binary, () => ["-machine", machineOf(binary), "-m", "16", ...BARE])
      const ram = binary.target === "x86_64" ? 0 : 0x4000_0000
      const { qtest, qmp, process: qemu } = session
      const wide = qtest.writeq(ram, 0x1122_3344_5566_7788n)
      const [narrow, word, bytes] = await Promise.all([
        qtest.readb(ram + 1),
        qtest.readl(ram + 4),
        qtest.read(ram + 2, 4),
        wide,
      ])
      expect(narrow).toBe(0x77)
      expect(word).toBe(0x1122_3344)
      expect([...bytes]).toEqual([0x66, 0x55, 0x44, 0x33])
      const [major, minor, micro] = binary.version.split(".").map(Number)
      expect(await qmp.execute("query-version")).toMatchObject({ qemu: { major, minor, micro } })
      await expect(qmp.execute("no-such-command")).rejects.toThrow("no-such-command")
      await expect(qtest.command("abacus")).rejects.toThrow("qtest: abacus: FAIL")
      await session.close()
      expect(() => process.kill(qemu.pid, 0)).toThrow()
    },
  )

  test("that cannot start says what QEMU said", async () => {
    await expect(startSession(binaries[0], () => ["-machine", "abacus"])).rejects.toThrow(
      /ended with 1: .*unsupported machine type/,
    )
  })

  test("hands QEMU connected sockets", async () => {
    const binary = binaries[0]
    const monitor = ["-chardev", `socket,id=link,fd=${FIRST_LINK}`, "-mon", "chardev=link,mode=control"]
    const started = await startQemu(binary, ["-machine", machineOf(binary), ...BARE, ...monitor], {
      links: 1,
    })
    const [link] = started.links
    const greeting = await new Promise(resolve => link.once("data", resolve))
    expect(JSON.parse(String(greeting))).toHaveProperty("QMP.version")
    await started.stop()
  })

  test("that runs too long is killed", async () => {
    const binary = binaries[0]
    const started = await startQemu(binary, ["-machine", machineOf(binary), ...BARE], { timeoutMs: 300 })
    expect(await started.ended).toEqual({ code: null, signal: "SIGKILL" })
  })
})
