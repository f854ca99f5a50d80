/** Branch coverage of each file of the hardware models and of what they share with the drivers, by the models' own tests. */
import { defineConfig } from "vitest/config"

const VENDORS = ["vtd", "smmuv3", "amd"]
const LEAST_BRANCHES = 98

export default defineConfig({
  test: {
    root: `${import.meta.dirname}/../..`,
    include: VENDORS.map(vendor => `packages/${vendor}/test/**/*.test.ts`),
    // Tests of drivers and formats say nothing of a model that its own tests should not.
    exclude: ["attach", "conformance", "driver*", "formats*", "invalidate", "user-data"].map(
      name => `packages/*/test/${name}.test.ts`,
    ),
    testTimeout: 120_000,
    // Coverage needs no million: a branch that this many random cases do not reach deserves a test of its own.
    env: { FUZZ_STEPS: "50000", METAMORPHIC_CASES: "10000" },
    coverage: {
      provider: "v8",
      include: VENDORS.map(vendor => `packages/${vendor}/src/{model,spec}/**/*.ts`),
      reporter: ["text"],
      thresholds: { perFile: true, branches: LEAST_BRANCHES },
    },
  },
})
