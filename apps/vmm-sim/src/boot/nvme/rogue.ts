/**
 * A device that misbehaves on command: registers in configuration space, which a shell in the guest can write, that
 * send four bytes of DMA to any address. A vendor-specific capability, PCI Local Bus 3.0 appendix H.
 *
 * | Offset | Register |
 * |---|---|
 * | 0 | 0x09, next capability, length |
 * | 4 | address, bits 31:0 |
 * | 8 | address, bits 63:32 |
 * | 12 | 1 reads, 2 writes, when written |
 * | 16 | outcome of the last one: 1 done, 2 refused |
 */
import { fromHalves } from "@iommu/core"
import type { ConfigSpace } from "../pci/config-space.ts"
import type { Dma } from "../pci/dma.ts"

const ID = 0x09
const LENGTH = 20
const ADDRESS_LO = 4
const ADDRESS_HI = 8
const COMMAND = 12
const OUTCOME = 16
const READ = 1
const WRITE = 2
const PATTERN = Uint8Array.of(0x52, 0x4f, 0x47, 0x55)

/** @returns offset of the capability */
export function addRogueRegisters(config: ConfigSpace): number {
  const body = Uint8Array.of(LENGTH, 0, ...new Array(LENGTH - 4).fill(0))
  const writable = Uint8Array.of(0, 0, ...new Array(12).fill(0xff), 0, 0, 0, 0)
  return config.addCapability(ID, body, writable)
}

/** A write to configuration space: when it was to the command register, the DMA is sent. */
export function rogueWrite(config: ConfigSpace, at: number, offset: number, dma: Dma): void {
  if (offset !== at + COMMAND) return
  const address = fromHalves(config.read(at + ADDRESS_HI, 4), config.read(at + ADDRESS_LO, 4))
  const command = config.read(at + COMMAND, 4)
  if (command !== READ && command !== WRITE) return
  const isDone = command === READ ? dma.read(address, new Uint8Array(4)) : dma.write(address, PATTERN)
  config.put32(at + OUTCOME, isDone ? 1 : 2)
}
