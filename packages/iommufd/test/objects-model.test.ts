/** Random sequences of calls on an iommufd and on the naive model: the same answers, the same objects, nothing left. */
import { type IommuDevice, isIommuError, MemoryAccount } from "@iommu/core"
import { type BoundDevice, type Iommufd, IommuGroup, openIommufd } from "@iommu/iommufd"
import {
  HWPT_DATA_SELFTEST,
  HWPT_SELFTEST,
  mockDevice,
  mockIommu,
  testMachine,
  VIOMMU_TYPE_SELFTEST,
} from "@iommu/iommufd/testing"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { type Answer, NaiveObjects } from "./model/naive-objects.ts"

const SEQUENCES = 100_000
const DEVICES = 3
const machine = testMachine({ ramBytes: 0x1000n })
const DATA = { type: HWPT_DATA_SELFTEST, bytes: HWPT_SELFTEST.encode({ iotlb: 1, pagetableType: 0 }) }

/** One call on both worlds. */
type Run = (real: RealObjects, model: NaiveObjects) => readonly [real: Answer, model: Answer]
interface Step {
  readonly run: Run
}

/** A step that shows its call in a counterexample. */
function step(name: string, given: object, run: Run): Step {
  const show = (): string => `${name}(${JSON.stringify(given)})`
  return Object.defineProperty({ run }, fc.toStringMethod, { value: show })
}

class RealObjects {
  readonly iommufd: Iommufd
  readonly bound: BoundDevice[] = []
  readonly account = new MemoryAccount("owner")
  readonly #mock = mockIommu()
  readonly #devices: readonly IommuDevice[]
  readonly #groups: readonly IommuGroup[]

  constructor(model: NaiveObjects) {
    const process = machine.process({ account: this.account })
    this.iommufd = openIommufd(process)
    const host = new MemoryAccount("host")
    this.#devices = [
      mockDevice({ id: 0, account: host, pasid: true }),
      mockDevice({ id: 1, account: host }),
      mockDevice({ id: 2, account: host, pasid: true, noDirty: true }),
    ]
    for (const device of this.#devices) this.#mock.probeDevice(device)
    const [one, two, three] = this.#devices as [IommuDevice, IommuDevice, IommuDevice]
    this.#groups = [new IommuGroup(this.#mock, [one, two]), new IommuGroup(this.#mock, [three])]
    for (let index = 0; index < DEVICES; index++) {
      this.bind(index)
      model.bind(index, index < 2 ? 0 : 1, index !== 1, index === 2)
    }
  }

  bind(index: number): number {
    const device = this.#devices[index] as IommuDevice
    const group = this.#groups[index < 2 ? 0 : 1] as IommuGroup
    this.bound[index] = this.iommufd.bindDevice({ ops: this.#mock, device, group })
    return this.device(index).id
  }

  device(index: number): BoundDevice {
    return this.bound[index] as BoundDevice
  }

  answer(call: () => Answer | undefined): Answer {
    try {
      return call() ?? "done"
    } catch (error) {
      if (isIommuError(error)) return error.code
      throw error
    }
  }

  get listing(): string[] {
    return this.iommufd.context.objects.objects.map(({ id, kind, users }) => `${id} ${kind} ${users}`)
  }

  closeFile(id: number): void {
    const object = this.iommufd.context.objects.find(id)
    if (object.kind !== "fault" && object.kind !== "veventq") throw new Error("no queue")
    const { files } = this.iommufd.process
    const fd = files.descriptors.find(descriptor => files.get(descriptor) === object.file)
    files.close(fd ?? -1)
  }

  finish(): void {
    for (const device of this.bound) {
      device.detach()
      for (const pasid of [1, 2]) device.detachPasid(pasid)
    }
    for (const device of this.bound) device.unbind()
    const { files } = this.iommufd.process
    for (const fd of files.descriptors) files.close(fd)
    expect([this.account.objectBytes, this.account.usagePages]).toEqual([0, 0])
  }
}

const choice = fc.nat({ max: 599 })
const device = fc.integer({ min: 0, max: DEVICES - 1 })
const pasid = fc.constantFrom(0, 0, 1, 2)
const flags = fc.constantFrom(0, 1, 1, 1, 2, 8, 8, 9)
const PAGE_TABLES = ["hwpt-paging", "hwpt-nested", "ioas"]

const ioasAlloc = fc.constant(
  step("ioasAlloc", {}, (real, model) => [real.iommufd.ioasAlloc(), model.ioasAlloc()]),
)
const faultAlloc = fc.constant(
  step("faultAlloc", {}, (real, model) => [real.iommufd.faultQueueAlloc().id, model.faultAlloc()]),
)

const hwptAlloc = fc
  .record({ device, choice, flags, hasData: fc.boolean(), fault: fc.option(choice, { freq: 4 }) })
  .map(({ device, choice, flags, hasData, fault }) =>
    step("hwptAlloc", { device, choice, flags, hasData, fault }, (real, model) => {
      const parentId = model.pick(["ioas", "hwpt-paging", "viommu"], choice)
      const faultId = fault === null ? null : model.pick(["fault"], fault)
      const data = hasData ? { data: DATA } : {}
      const withFault = faultId === null ? {} : { faultId }
      return [
        real.answer(() => {
          const deviceId = real.device(device).id
          return real.iommufd.hwptAlloc({ deviceId, parentId, flags, ...data, ...withFault })
        }),
        model.answer(() => model.hwptAlloc(device, parentId, flags, hasData, faultId)),
      ]
    }),
  )

const viommuAlloc = fc.record({ device, choice }).map(({ device, choice }) =>
  step("viommuAlloc", { device, choice }, (real, model) => {
    const hwptId = model.pick(["hwpt-paging"], choice)
    const request = { deviceId: real.device(device).id, hwptId, type: VIOMMU_TYPE_SELFTEST }
    return [
      real.answer(() => real.iommufd.viommuAlloc(request).id),
      model.answer(() => model.viommuAlloc(hwptId)),
    ]
  }),
)

const vdeviceAlloc = fc
  .record({ device, choice, virtualId: fc.integer({ min: 0, max: 1 }) })
  .map(({ device, choice, virtualId }) =>
    step("vdeviceAlloc", { device, choice, virtualId }, (real, model) => {
      const viommuId = model.pick(["viommu"], choice)
      const request = { viommuId, deviceId: real.device(device).id, virtualId }
      return [
        real.answer(() => real.iommufd.vdeviceAlloc(request)),
        model.answer(() => model.vdeviceAlloc(viommuId, device, virtualId)),
      ]
    }),
  )

const veventqAlloc = fc.record({ choice, type: fc.integer({ min: 1, max: 2 }) }).map(({ choice, type }) =>
  step("veventqAlloc", { choice, type }, (real, model) => {
    const viommuId = model.pick(["viommu"], choice)
    return [
      real.answer(() => real.iommufd.veventqAlloc({ viommuId, type, depth: 2 }).id),
      model.answer(() => model.veventqAlloc(viommuId, type)),
    ]
  }),
)

const closeFile = choice.map(choice =>
  step("closeFile", { choice }, (real, model) => {
    const id = model.pick(["fault", "veventq"], choice)
    if (model.closeFile(id)) real.closeFile(id)
    return ["done", "done"]
  }),
)

const destroy = choice.map(choice =>
  step("destroy", { choice }, (real, model) => {
    const id = model.pick(["ioas", "hwpt-nested", "vdevice", "viommu", "veventq", "fault"], choice)
    return [
      real.answer(() => {
        real.iommufd.destroy(id)
        return undefined
      }),
      model.answer(() => model.destroy(id)),
    ]
  }),
)

const attach = fc.record({ device, pasid, choice }).map(({ device, pasid, choice }) =>
  step("attach", { device, pasid, choice }, (real, model) => {
    const id = model.pick(PAGE_TABLES, choice)
    const bound = real.device(device)
    return [
      real.answer(() => (pasid === 0 ? bound.attach(id) : bound.attachPasid(pasid, id))),
      model.answer(() => model.attach(device, pasid, id)),
    ]
  }),
)

const replace = fc.record({ device, pasid, choice }).map(({ device, pasid, choice }) =>
  step("replace", { device, pasid, choice }, (real, model) => {
    const id = model.pick(PAGE_TABLES, choice)
    const bound = real.device(device)
    return [
      real.answer(() => (pasid === 0 ? bound.replace(id) : bound.replacePasid(pasid, id))),
      model.answer(() => model.replace(device, pasid, id)),
    ]
  }),
)

const detach = fc.record({ device, pasid }).map(({ device, pasid }) =>
  step("detach", { device, pasid }, (real, model) => [
    real.answer(() => {
      if (pasid === 0) real.device(device).detach()
      else real.device(device).detachPasid(pasid)
      return undefined
    }),
    model.answer(() => model.detach(device, pasid)),
  ]),
)

const rebind = device.map(device =>
  step("rebind", { device }, (real, model) => [
    real.answer(() => {
      real.device(device).unbind()
      return real.bind(device)
    }),
    model.answer(() => model.rebind(device)),
  ]),
)

const steps: fc.Arbitrary<Step> = fc.oneof(
  { weight: 1, arbitrary: ioasAlloc },
  { weight: 1, arbitrary: faultAlloc },
  { weight: 7, arbitrary: hwptAlloc },
  { weight: 2, arbitrary: viommuAlloc },
  { weight: 4, arbitrary: vdeviceAlloc },
  { weight: 1, arbitrary: veventqAlloc },
  { weight: 1, arbitrary: closeFile },
  { weight: 3, arbitrary: destroy },
  { weight: 6, arbitrary: attach },
  { weight: 4, arbitrary: replace },
  { weight: 2, arbitrary: detach },
  { weight: 1, arbitrary: rebind },
)

/** What most sequences need to get anywhere: an address space, a nest parent, a vIOMMU. */
const prelude: readonly Run[] = [
  (real, model) => [real.iommufd.ioasAlloc(), model.ioasAlloc()],
  (real, model) => {
    const parentId = model.pick(["ioas"], 1)
    const request = { deviceId: real.device(0).id, parentId, flags: 1 }
    return [real.iommufd.hwptAlloc(request), model.hwptAlloc(0, parentId, 1, false, null)]
  },
  (real, model) => {
    const hwptId = model.pick(["hwpt-paging"], 1)
    const request = { deviceId: real.device(0).id, hwptId, type: VIOMMU_TYPE_SELFTEST }
    return [real.iommufd.viommuAlloc(request).id, model.viommuAlloc(hwptId)]
  },
]

describe("objects", () => {
  it(`do in ${SEQUENCES} sequences of calls what the naive model does`, () => {
    const answers = new Map<Answer, number>()
    // Most answers are errors, and nobody looks at their stacks.
    Error.stackTraceLimit = 0
    fc.assert(
      fc.property(fc.array(steps, { minLength: 1, maxLength: 16, size: "max" }), sequence => {
        const model = new NaiveObjects()
        const real = new RealObjects(model)
        for (const run of [...prelude, ...sequence.map(({ run }) => run)]) {
          const [got, expected] = run(real, model)
          const kind = typeof got === "number" ? "id" : got
          answers.set(kind, (answers.get(kind) ?? 0) + 1)
          if (got !== expected) throw new Error(`${got} instead of ${expected}`)
          const [listing, modelListing] = [real.listing.join(), model.listing.join()]
          if (listing !== modelListing) throw new Error(`${listing} instead of ${modelListing}`)
        }
        real.finish()
      }),
      { numRuns: SEQUENCES, seed: 4 },
    )
    expect([...answers.keys()].sort()).toEqual([
      "EBUSY",
      "EEXIST",
      "EINVAL",
      "ENOENT",
      "EOPNOTSUPP",
      "done",
      "id",
    ])
  })
})
