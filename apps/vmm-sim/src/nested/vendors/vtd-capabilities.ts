import { registers } from "@iommu/vtd"

const [cap] = registers.CAP.encode({
  ND: 6n,
  CM: 1n,
  SAGAW: 0b00100n,
  MGAW: 47n,
  FRO: 0x22n,
  SSLPS: 3n,
  PSI: 1n,
  MAMV: 18n,
  FS1GP: 1n,
}) as [bigint]
const [ecap] = registers.ECAP.encode({
  C: 1n,
  QI: 1n,
  PT: 1n,
  IRO: 0xfn,
  PSS: 19n,
  PASID: 1n,
  SMTS: 1n,
  SSTS: 1n,
  FSTS: 1n,
}) as [bigint]

/**
 * What the guest sees: first stage in scalable mode, no nesting, and Caching Mode (VT-d 5.10 §6.1), which makes
 * the guest invalidate when it fills an entry too, so that the VMM learns of it.
 */
export const GUEST_CAPABILITIES: { readonly ver: bigint; readonly cap: bigint; readonly ecap: bigint } = {
  ver: 0x50n,
  cap,
  ecap,
}
