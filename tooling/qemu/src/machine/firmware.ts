/** Firmware that puts the CPU to sleep at once: the machine is there for its devices. */
import { writeFileSync } from "node:fs"
import type { QemuTarget } from "../binary/qemu-binary.ts"

const BYTES = 0x1_0000
const X86_NOP = 0x90
/** Where an x86 CPU starts, from the start of 64 KiB that end at 4 GiB. */
const X86_RESET = 0xfff0
/** cli; hlt; jmp to the hlt. */
const X86_SLEEP = [0xfa, 0xf4, 0xeb, 0xfd]
/** wfi; b to the wfi. */
const ARM_SLEEP = [0x7f, 0x20, 0x03, 0xd5, 0xff, 0xff, 0xff, 0x17]

/** Writes the firmware for a target. */
export function writeFirmware(path: string, target: QemuTarget): void {
  const image = new Uint8Array(BYTES)
  if (target === "x86_64") {
    image.fill(X86_NOP)
    image.set(X86_SLEEP, X86_RESET)
  } else {
    image.set(ARM_SLEEP)
  }
  writeFileSync(path, image)
}
