/** The machines that QEMU emulates around our functions. */
import type { QemuTarget, Qtest } from "@iommu/qemu"

export interface Board {
  readonly target: QemuTarget
  /** The kernel's name for the serial port. */
  readonly console: string
  /** For the kernel's command line. */
  readonly append: string
  /** Physical address of RAM. */
  readonly ramBase: number
  /** Of `-machine`, without memory. */
  readonly machine: string
  readonly processor: readonly string[]
  /** Gives a function on bus 0 its BAR 0, as firmware does. */
  placeBar(qtest: Qtest, slot: number, address: number): Promise<void>
}

const COMMAND = 0x04
const COMMAND_MEMORY = 2
const BAR0 = 0x10
/** PCI configuration mechanism 1: two ports. */
const CONFIG_ADDRESS = 0xcf8
const CONFIG_DATA = 0xcfc
/** Where `virt` with 32-bit addresses has the configuration spaces of its PCI bus, 4 KiB for each function. */
const VIRT_ECAM = 0x3f00_0000

export const Q35: Board = {
  target: "x86_64",
  console: "ttyS0",
  // The kernel compares the timer's interrupts with the CPU's speed, and stops itself (panic) when an emulated one is
  // too slow for them, as on a busy machine.
  append: "no_timer_check",
  ramBase: 0,
  machine: "q35",
  processor: [],
  placeBar: async (qtest, slot, address) => {
    for (const [register, value] of placement(address)) {
      await qtest.outl(CONFIG_ADDRESS, 0x8000_0000 + slot * 2048 + register)
      await qtest.outl(CONFIG_DATA, value)
    }
  },
}

/** GICv2, whose message frame takes an interrupt's number alone: a message from here carries no requester. */
export const VIRT: Board = {
  target: "aarch64",
  console: "ttyAMA0",
  append: "",
  ramBase: 0x4000_0000,
  machine: "virt,gic-version=2,highmem=off",
  processor: ["-cpu", "cortex-a57"],
  placeBar: async (qtest, slot, address) => {
    for (const [register, value] of placement(address)) {
      await qtest.writel(VIRT_ECAM + slot * 8 * 4096 + register, value)
    }
  },
}

function placement(address: number): (readonly [register: number, value: number])[] {
  return [
    [BAR0, address],
    [COMMAND, COMMAND_MEMORY],
  ]
}
