/** A PCI function that lives in this process and is reached from a machine in another, by whatever transport. */
export interface PciFunction {
  readonly name: string
  /** Bytes of BAR 0, zero for a function without registers. */
  readonly barBytes: number
  /** @param bytes 1, 2 or 4 */
  readConfig(offset: number, bytes: number): number
  writeConfig(offset: number, bytes: number, value: number): void
  /** @param bytes 1, 2, 4 or 8; any offset within the BAR, aligned or not */
  readBar(offset: number, bytes: number): bigint
  writeBar(offset: number, bytes: number, value: bigint): void
  /** The bus was reset. */
  reset(): void
}
