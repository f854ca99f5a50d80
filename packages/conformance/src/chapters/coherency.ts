import { assertEqual } from "../assert.ts"
import { testBench } from "../bench.ts"
import type { ConformanceTarget, TestRunner } from "../target.ts"

export function coherencyChapter({ it }: TestRunner, target: ConformanceTarget): void {
  it("is enforced on any fresh domain when the driver is capable of it, again and again", () => {
    const bench = testBench(target)
    const device = bench.probed(0)
    const { nesting } = bench.ops.capabilities
    if (!bench.ops.capable(device, "ENFORCE_CACHE_COHERENCY")) {
      const answer = bench.paging(device).enforceCacheCoherency?.() ?? false
      assertEqual(typeof answer, "boolean", "an answer")
      return
    }
    const domains = [bench.paging(device), ...(nesting ? [bench.nestParent(device)] : [])]
    for (const domain of domains) {
      assertEqual(domain.enforceCacheCoherency?.(), true, "the first time")
      assertEqual(domain.enforceCacheCoherency?.(), true, "the second time")
    }
  })
}
