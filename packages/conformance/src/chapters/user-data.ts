import {
  type DomainUserData,
  type IommuDevice,
  type PagingDomain,
  userDataFromBytes,
  userDataToBytes,
} from "@iommu/core"
import { assertEqual, assertErrno, assertTrue } from "../assert.ts"
import { allocUser, type TestBench, testBench } from "../bench.ts"
import type { ConformanceTarget, RefusedUserData, TestRunner, UserDataContract } from "../target.ts"

/** Numbers that no driver serves: 0 is NONE, the others lie far from all that Linux has given out. */
const UNKNOWN_TYPES = [0, 4, 0x7fff_ffff, 0xffff_ffff]

export function userDataChapter({ describe, it }: TestRunner, target: ConformanceTarget): void {
  it("answers EOPNOTSUPP to a type that it does not serve", () => {
    const { ops } = testBench(target)
    for (const type of UNKNOWN_TYPES) {
      assertErrno("EOPNOTSUPP", `length of type ${type}`, () => dataLen(ops)(type))
    }
  })

  it("has a contract in this suite for each type of its manifest", () => {
    const { ops } = testBench(target)
    const served = [...ops.capabilities.userDataTypes].sort().join()
    assertEqual(
      target.userData
        .map(contract => contract.type)
        .sort()
        .join(),
      served,
      "types",
    )
  })

  for (const contract of target.userData) {
    describe(`type 0x${contract.type.toString(16)}`, () => contractTests(it, target, contract))
  }
}

function contractTests(it: TestRunner["it"], target: ConformanceTarget, contract: UserDataContract): void {
  it("is accepted when it is right, from its bytes", () => {
    const { bench, device, parent } = setUp(target, contract)
    const bytes = userDataToBytes(contract.valid(bench.machine, parent))
    assertEqual(bytes.length, dataLen(bench.ops)(contract.type), "bytes of the struct")
    const domain = alloc(bench, device, parent, userDataFromBytes(bench.ops, contract.type, bytes))
    assertEqual(domain.type, parent ? "nested" : "paging", "type of domain")
    domain.attachDev(device)
  })

  it("is refused with every wrong length: EINVAL", () => {
    const { bench, parent } = setUp(target, contract)
    const right = userDataToBytes(contract.valid(bench.machine, parent))
    for (let length = 0; length <= right.length + 8; length++) {
      if (length === right.length) continue
      const bytes = new Uint8Array(length)
      bytes.set(right.subarray(0, length))
      assertErrno("EINVAL", `${length} bytes`, () => userDataFromBytes(bench.ops, contract.type, bytes))
    }
  })

  it("is refused with any reserved bit set", () => {
    const { bench, device, parent } = setUp(target, contract)
    const right = userDataToBytes(contract.valid(bench.machine, parent))
    for (const bit of contract.reservedBits) {
      const bytes = right.slice()
      bytes[bit >> 3] = (bytes[bit >> 3] as number) | (1 << (bit & 7))
      const refused: RefusedUserData = {
        rule: `reserved bit ${bit}`,
        data: userDataFromBytes(bench.ops, contract.type, bytes),
        errno: contract.reservedErrno,
        at: contract.reservedAt,
      }
      assertRefused(bench, device, parent, refused)
    }
  })

  it("is refused in each wrong variant, with nothing left behind", () => {
    const { bench, device, parent } = setUp(target, contract)
    const variants = contract.refused(bench.machine)
    assertTrue(variants.length > 0, "the contract has wrong variants")
    for (const refused of variants) assertRefused(bench, device, parent, refused)
  })

  it("is refused with the wrong parent", () => {
    const { bench, device, parent } = setUp(target, contract)
    const data = contract.valid(bench.machine, parent)
    if (parent === null) {
      const plain = bench.paging(device)
      assertErrno("EOPNOTSUPP", "paging data with a parent", () => allocUser(bench.ops)(device, plain, data))
      return
    }
    assertErrno("EOPNOTSUPP", "nested data without a parent", () => allocUser(bench.ops)(device, null, data))
    assertErrno("EOPNOTSUPP", "a parent without data", () => allocUser(bench.ops)(device, parent, null))
    const plain = bench.paging(device)
    assertErrno("EINVAL", "a parent that is no nest parent", () => alloc(bench, device, plain, data))
    const nested = alloc(bench, device, parent, data)
    assertErrno("EINVAL", "a parent that is nested itself", () => allocUser(bench.ops)(device, nested, data))
    const elsewhere = testBench(target)
    const foreign = elsewhere.nestParent(elsewhere.probed(0))
    assertErrno("EINVAL", "a parent of another instance", () => alloc(bench, device, foreign, data))
  })

  it("is refused with a device that was not probed: ENODEV", () => {
    const { bench, parent } = setUp(target, contract)
    const stranger = bench.machine.device(3, bench.account)
    const data = contract.valid(bench.machine, parent)
    assertErrno("ENODEV", "a device not probed", () => alloc(bench, stranger, parent, data))
  })
}

function setUp(
  target: ConformanceTarget,
  contract: UserDataContract,
): { bench: TestBench; device: IommuDevice; parent: PagingDomain | null } {
  const bench = testBench(target)
  const device = bench.probed(0)
  return { bench, device, parent: contract.parent === "none" ? null : bench.nestParent(device) }
}

function alloc(bench: TestBench, device: IommuDevice, parent: PagingDomain | null, data: DomainUserData) {
  return allocUser(bench.ops)(device, parent, data)
}

function assertRefused(
  bench: TestBench,
  device: IommuDevice,
  parent: PagingDomain | null,
  refused: RefusedUserData,
): void {
  const before = bench.account.usagePages
  if (refused.at === "alloc") {
    assertErrno(refused.errno, refused.rule, () => alloc(bench, device, parent, refused.data))
  } else {
    const domain = alloc(bench, device, parent, refused.data)
    assertErrno(refused.errno, refused.rule, () => domain.attachDev(device))
    domain.free()
  }
  assertEqual(bench.account.usagePages, before, `pages charged after "${refused.rule}"`)
}

function dataLen(ops: TestBench["ops"]): (type: number) => number {
  assertTrue(ops.domainAllocUserDataLen !== undefined, "the driver has domainAllocUserDataLen")
  return ops.domainAllocUserDataLen.bind(ops)
}
