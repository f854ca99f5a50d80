/**
 * Addresses by the space they live in. The brand is optional, so a plain bigint is accepted anywhere, but an
 * address of one space is refused where another is asked for.
 */
declare const space: unique symbol

type AddressOf<Space extends string> = bigint & { readonly [space]?: Space }

/** What a device puts on the bus before any translation. */
export type Iova = AddressOf<"iova">
/** What stage 1 gives and stage 2 takes: Arm's IPA, Intel's and AMD's guest physical address. */
export type Gpa = AddressOf<"gpa">
/** What reaches memory. */
export type Hpa = AddressOf<"hpa">

export const PAGE_SHIFT = 12
/** Bytes of the accounting and allocation unit of this project. */
export const PAGE_SIZE = 4096
