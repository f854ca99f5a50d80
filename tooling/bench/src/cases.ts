/** All packages' cases. A new vendor adds one line to each list. */
import { formatSubjects as amdFormats } from "../../../packages/amd/bench/subjects.ts"
import { pagetableBenchCases } from "../../../packages/pagetable/bench/cases.ts"
import type { FormatSubject } from "../../../packages/pagetable/bench/subject.ts"
import { formatSubjects as smmuv3Formats } from "../../../packages/smmuv3/bench/subjects.ts"
import { formatSubjects as vtdFormats } from "../../../packages/vtd/bench/subjects.ts"
import { addressSpaceQuantities } from "./address-spaces.ts"
import type { BenchCase } from "./bench-case.ts"
import { coldStartQuantities } from "./cold-start.ts"
import { ioctlQuantities } from "./ioctls.ts"
import { domainQuantities, tableQuantities } from "./memory.ts"
import { modelBenchCases } from "./model-cases.ts"
import { modelMemoryQuantities } from "./model-memory.ts"
import type { QuantityCase } from "./quantity.ts"
import { queueQuantities } from "./queue.ts"

const formatSubjects: readonly FormatSubject[] = [...vtdFormats, ...amdFormats, ...smmuv3Formats]

export function allCases(): BenchCase[] {
  return [...pagetableBenchCases(formatSubjects), ...modelBenchCases()]
}

export function allQuantities(): QuantityCase[] {
  return [
    ...modelMemoryQuantities(),
    ...coldStartQuantities(),
    ...queueQuantities(),
    ...domainQuantities(),
    ...formatSubjects.flatMap(tableQuantities),
    ...addressSpaceQuantities(),
    ...ioctlQuantities(),
  ]
}
