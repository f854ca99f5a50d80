import { HWPT_AMD_GUEST, PAGING_PASID, PageTableFormatId, pagingParameters } from "@iommu/core"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import type { Features } from "../src/driver/features.ts"
import { guestCommand } from "../src/driver/guest-commands.ts"
import { nestedPlan, pagingPlan, userDataLen } from "../src/driver/user-data.ts"
import { DTE_GV, DTE_IRW, DTE_TV, DTE_V, expectErrno, guestDte } from "./driver-machine.ts"

const everything: Features = {
  efr: 0n,
  efr2: 0n,
  pageRequests: true,
  MsiCapMmioSup: true,
  GTSup: true,
  GIoSup: true,
  IASup: true,
  HDSup: true,
  GCR3TRPModeSup: true,
  hostLevels: 6,
  guestLevels: 5,
  GLXSup: 2,
  pasidBits: 20,
}
const { AMD_V1, AMD_V2 } = PageTableFormatId

describe("userDataLen", () => {
  it("has the sizes of the ABI structs", () => {
    expect(userDataLen(3)).toBe(32)
    expect(userDataLen(0x8000_0001)).toBe(32)
    for (const type of [0, 1, 2, 4, 0xdead]) expectErrno("EOPNOTSUPP", () => userDataLen(type))
  })
})

describe("pagingPlan", () => {
  it("starts v1 with three levels, to grow as far as the hardware walks", () => {
    expect(pagingPlan(everything, null)).toMatchObject({
      format: AMD_V1,
      levels: 3,
      inputBits: 64,
      outputBits: 52,
    })
    expect(pagingPlan({ ...everything, hostLevels: 4 }, null)).toMatchObject({ levels: 3, inputBits: 48 })
  })

  it("gives a domain for PASIDs v2 tables of the hardware's levels, canonical addresses only", () => {
    const request = pagingParameters({ flags: PAGING_PASID })
    expect(pagingPlan(everything, request)).toMatchObject({ format: AMD_V2, levels: 5, inputBits: 56 })
    expect(pagingPlan({ ...everything, guestLevels: 4 }, request)).toMatchObject({ levels: 4, inputBits: 47 })
  })

  it("takes v2 when there is nothing else", () => {
    expect(pagingPlan({ ...everything, hostLevels: 0 }, null).format).toBe(AMD_V2)
    expectErrno("EOPNOTSUPP", () => pagingPlan({ ...everything, hostLevels: 0, GTSup: false }, null))
  })

  it("takes the fewest levels that reach the given width", () => {
    for (const [inputBits, levels] of [
      [13, 1],
      [21, 1],
      [22, 2],
      [39, 3],
      [40, 4],
      [57, 5],
      [58, 6],
      [64, 6],
    ] as const) {
      expect(pagingPlan(everything, pagingParameters({ inputBits }))).toMatchObject({ levels, inputBits })
    }
    const v2 = { format: AMD_V2 }
    expect(pagingPlan(everything, pagingParameters({ ...v2, inputBits: 47 })).levels).toBe(4)
    expect(pagingPlan(everything, pagingParameters({ ...v2, inputBits: 48 })).levels).toBe(5)
  })

  it("tells what the format lacks from what this hardware lacks", () => {
    const small = { ...everything, hostLevels: 4, guestLevels: 4 }
    expectErrno("EOPNOTSUPP", () => pagingPlan(small, pagingParameters({ levels: 5 })))
    expectErrno("EOPNOTSUPP", () => pagingPlan(small, pagingParameters({ inputBits: 49 })))
    expectErrno("EOPNOTSUPP", () => pagingPlan(small, pagingParameters({ format: AMD_V2, levels: 5 })))
    expectErrno("EINVAL", () => pagingPlan(small, pagingParameters({ levels: 7 })))
  })

  it("needs the features that each flag stands on", () => {
    for (const missing of [{ GTSup: false }, { GIoSup: false }, { GCR3TRPModeSup: false }]) {
      expectErrno("EOPNOTSUPP", () =>
        pagingPlan({ ...everything, ...missing }, pagingParameters({ flags: 1 })),
      )
    }
    expectErrno("EOPNOTSUPP", () =>
      pagingPlan({ ...everything, HDSup: false }, pagingParameters({ flags: 2 })),
    )
    expectErrno("EOPNOTSUPP", () =>
      pagingPlan({ ...everything, GIoSup: false }, pagingParameters({ flags: 8 })),
    )
  })

  it("answers every combination of members with a plan that the hardware can walk, or an errno", () => {
    const member = fc.integer({ min: 0, max: 255 })
    const request = fc.record({
      flags: fc.integer({ min: 0, max: 15 }),
      format: fc.integer({ min: 0, max: 7 }),
      levels: fc.integer({ min: 0, max: 8 }),
      granuleLg2: fc.constantFrom(0, 12, 13, 14, 16),
      inputBits: member,
      outputBits: member,
      apertureStart: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
      apertureLast: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }),
    })
    fc.assert(
      fc.property(request, given => {
        let plan: ReturnType<typeof pagingPlan>
        try {
          plan = pagingPlan(everything, pagingParameters(given))
        } catch (error) {
          expect(String(error)).toMatch(/E(OPNOTSUPP|INVAL): .{12}/)
          return
        }
        expect(plan.inputBits).toBeLessThanOrEqual(Math.min(12 + 9 * 6, 64))
        expect(plan.apertureLast).toBeLessThan(1n << BigInt(plan.inputBits))
        expect(plan.apertureStart).toBeLessThanOrEqual(plan.apertureLast)
      }),
      { seed: 1, numRuns: 2000 },
    )
  })
})

describe("nestedPlan", () => {
  const plan = (...dte: [bigint, bigint, bigint, bigint]) => nestedPlan(everything, { dte })

  it("passes guest physical addresses on for V = 0, whatever else the entry says", () => {
    const pass = { word0: DTE_IRW, word1: 0n, word2: 0n }
    expect(plan(0n, 0n, 0n, 0n)).toEqual({ gDomID: 0, ...pass })
    expect(plan(DTE_GV | DTE_TV, 9n, 0n, 0n)).toEqual({ gDomID: 9, ...pass })
  })

  it("refuses for V = 1 and TV = 0, by neither IR nor IW", () => {
    expect(plan(DTE_V | DTE_GV | DTE_IRW | (1n << 58n), 0n, 0n, 0n).word0).toBe(0n)
  })

  it("takes a guest's IR and IW at their word", () => {
    expect(plan(DTE_V | DTE_TV, 0n, 0n, 0n).word0).toBe(0n)
    expect(plan(DTE_V | DTE_TV | (1n << 61n), 0n, 0n, 0n).word0).toBe(1n << 61n)
  })

  it("takes over GV, GIOV, GLX, PPR, the GCR3 pointer and GuestPagingMode, and nothing else", () => {
    const all = (1n << 64n) - 1n
    const hostOwned = (1n << 52n) - 4n // Mode, root and what lies below
    const word0 = (all & ~hostOwned & ~(3n << 56n)) | (1n << 56n)
    const { gDomID, ...words } = nestedPlan(everything, { dte: [word0, all, all & ~(1n << 55n), all] })
    expect(gDomID).toBe(0xffff)
    expect(words).toEqual({
      // PPR 52, GIOV 54, GV 55, GLX 56, GCR3 58 to 60, IR 61, IW 62.
      word0: (1n << 52n) | (1n << 54n) | (1n << 55n) | (1n << 56n) | (7n << 58n) | (3n << 61n),
      word1: (0xffffn << 16n) | (0x1f_ffffn << 43n),
      word2: 1n << 54n,
    })
  })

  it("checks in the order of the ABI's table", () => {
    expectErrno("EINVAL", () => plan(DTE_V | DTE_GV | (1n << 9n) | (3n << 56n), 0n, 3n << 54n, 0n))
    expectErrno("EINVAL", () => plan(DTE_V | DTE_GV, 0n, 0n, 0n))
    expectErrno("EINVAL", () => plan(0n, 0n, 2n << 54n, 0n))
    expectErrno("EINVAL", () => plan(3n << 56n, 0n, 0n, 0n))
    const fourLevels = { ...everything, guestLevels: 4 }
    expectErrno("EOPNOTSUPP", () => nestedPlan(fourLevels, { dte: [0n, 0n, 1n << 54n, 0n] }))
    const oneLevelGcr3 = { ...everything, GLXSup: 0 }
    expectErrno("EOPNOTSUPP", () => nestedPlan(oneLevelGcr3, { dte: [1n << 56n, 0n, 0n, 0n] }))
    const noRequests = { ...everything, pageRequests: false }
    const asking = guestDte(0x1000n, 1n, 1n << 52n)
    expectErrno("EOPNOTSUPP", () => nestedPlan(noRequests, { dte: asking }))
    // What is not taken over is not asked for.
    expect(
      nestedPlan(noRequests, { dte: [asking[0] & ~DTE_GV, asking[1], 0n, 0n] }).word0 & (1n << 52n),
    ).toBe(0n)
  })

  it("answers any 32 bytes with a plan or an errno", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 32, maxLength: 32 }), bytes => {
        try {
          const { word1 } = nestedPlan(everything, HWPT_AMD_GUEST.decode(bytes))
          // Neither DomainID nor what lies between the pieces of the GCR3 pointer.
          expect(word1 & ((0x7ffn << 32n) | 0xffffn)).toBe(0n)
        } catch (error) {
          expect(String(error)).toMatch(/E(OPNOTSUPP|INVAL): .{12}/)
        }
      }),
      { seed: 2, numRuns: 1000 },
    )
  })

  it("knows a Linux guest's entry for v2 tables", () => {
    const dte = guestDte(0x1_2345_6000n, 0x21n)
    expect(nestedPlan(everything, { dte })).toEqual({
      gDomID: 0x21,
      word0: dte[0] & ~(DTE_V | DTE_TV),
      word1: dte[1] & ~0xffffn,
      word2: 0n,
    })
  })
})

describe("guestCommand", () => {
  const command = (low: bigint, high = 0n) => guestCommand({ cmd: [low, high] })

  it("understands INVALIDATE_IOMMU_PAGES", () => {
    expect(command((3n << 60n) | (5n << 32n) | 0x12345n, 0xabcd_7001n | (1n << 2n))).toEqual({
      kind: "pages",
      gDomID: 5,
      fields: { PASID: 0x12345n, S: 1n, PDE: 0n, GN: 1n, Address: 0xabcd7n },
    })
  })

  it("gathers the PASID of INVALIDATE_IOTLB_PAGES from its three places", () => {
    const pieces = (0x3n << 56n) | (0x45n << 48n) | (0x12n << 16n)
    expect(command((4n << 60n) | pieces | 0x88n, 0x1000n | (1n << 2n))).toEqual({
      kind: "iotlb",
      virtualId: 0x88,
      pasid: 0x31245,
      S: 0n,
      Address: 1n,
    })
  })

  it("understands INVALIDATE_DEVTAB_ENTRY and INVALIDATE_IOMMU_ALL", () => {
    expect(command((2n << 60n) | 0x42n)).toEqual({ kind: "devtab", virtualId: 0x42 })
    expect(command(8n << 60n)).toEqual({ kind: "all" })
  })

  it("does not forward what is the VMM's own: EIO", () => {
    for (const opcode of [0n, 1n, 5n, 6n, 7n, 9n, 10n, 15n]) expectErrno("EIO", () => command(opcode << 60n))
  })

  it("does not forward reserved bits, which would halt the host's queue: EIO", () => {
    expectErrno("EIO", () => command((2n << 60n) | (1n << 16n)))
    expectErrno("EIO", () => command((3n << 60n) | (1n << 20n)))
    expectErrno("EIO", () => command(8n << 60n, 1n))
  })
})
