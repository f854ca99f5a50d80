/** A guest that writes anything, anywhere: registers of any width, and tables, queues and records of random bytes. */
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { createHardware, type Hardware } from "../../src/boot/machine/hardware.ts"
import type { RamFile } from "../../src/boot/machine/ram-file.ts"
import type { BootPlatform } from "../../src/boot/platform.ts"
import { PLATFORMS } from "../../src/boot/platforms.ts"

const BYTES = 1 << 20
const DEVICE = 0x18
const PATTERN = Uint8Array.from({ length: BYTES }, (_, n) => (n % 251) ^ (n >> 12))

function ramOf(bytes: Uint8Array): RamFile {
  return {
    path: "",
    load: (offset, into) => into.set(bytes.subarray(offset, offset + into.length)),
    store: (offset, from) => bytes.set(from, offset),
    close: () => undefined,
  }
}

function boardOf(platform: BootPlatform, ram: RamFile, caches: "exact" | "hoard"): Hardware {
  const mode = Object.values(platform.modes)[0]
  if (mode === undefined) throw new Error("no mode")
  return createHardware({
    platform,
    createModel: mode.createModel,
    caches,
    ram,
    ramBytes: BYTES,
    device: DEVICE,
    onMessage: () => undefined,
  })
}

/** Registers that hold addresses, given addresses of RAM now and then, so that enables find something to read. */
function valueFor(platform: BootPlatform): fc.Arbitrary<bigint> {
  const page = fc.nat({ max: BYTES / 4096 - 1 }).map(n => BigInt(platform.board.ramBase + n * 4096))
  const flags = fc.bigInt({ min: 0n, max: 0xfffn })
  return fc.oneof(
    fc.tuple(page, flags).map(([address, low]) => address | low),
    flags,
    fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
    fc.nat({ max: 63 }).map(bit => 1n << BigInt(bit)),
  )
}

describe.each(Object.entries(PLATFORMS))("a hostile guest on %s", (_name, platform) => {
  const offsets = Object.values(platform.registers.specs).map(([offset]) => offset)
  const access = fc.record({
    offset: fc.oneof(fc.constantFrom(...offsets), fc.nat({ max: platform.registers.bytes - 1 })),
    bytes: fc.constantFrom(1, 2, 4, 8),
    value: valueFor(platform),
    iova: fc.bigInt({ min: 0n, max: (1n << 48n) - 1n }),
  })

  it.each(["exact", "hoard"] as const)("ends no process and no loop, caches %s", caches => {
    fc.assert(
      fc.property(fc.array(access, { maxLength: 60 }), fc.uint8Array({ maxLength: 512 }), (steps, noise) => {
        const bytes = PATTERN.slice()
        noise.forEach((byte, n) => {
          bytes[(n * 8 * 257) % BYTES] = byte
        })
        const { trap, nvme, port, transcript } = boardOf(platform, ramOf(bytes), caches)
        for (const { offset, bytes: width, value, iova } of steps) {
          trap.writeBar(offset, width, value)
          expect(trap.readBar(offset, width)).toBeTypeOf("bigint")
          nvme.writeBar(offset & 0x3fff, width, value)
          nvme.writeConfig(offset & 0xff, width === 8 ? 4 : width, Number(value & 0xffff_ffffn))
          port.write(iova, Uint8Array.of(1, 2, 3, 4))
          port.message(iova, 1)
        }
        expect(transcript.lastAccesses.length).toBeLessThanOrEqual(24)
      }),
      { seed: 20_26, numRuns: 25 },
    )
  })
})
