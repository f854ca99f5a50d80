import { defineConfig } from "vitest/config"

export default defineConfig({
  test: {
    include: ["packages/*/test/**/*.test.ts", "apps/*/test/**/*.test.ts", "tooling/*/test/**/*.test.ts"],
    testTimeout: 120_000,
    // Vitest leaves one core idle, which is half of a machine with two.
    maxWorkers: "100%",
  },
})
