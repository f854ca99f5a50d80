#!/usr/bin/env node
import { enableCompileCache } from "node:module"

// Types are stripped and modules compiled once, not at each start: 0.5 instead of 1.2 s. What is imported above this
// line is compiled before it runs.
enableCompileCache()
await import("./program.ts")
