import { formatSuite } from "../../pagetable/test/format-suite.ts"
import { AMD_V2 } from "../src/formats/stage1.ts"
import { AMD_V1 } from "../src/formats/stage2.ts"

formatSuite([
  ...[1, 2, 3, 4, 5, 6].map(levels => ({ format: AMD_V1, levels, inputBits: 64, outputBits: 52 })),
  { format: AMD_V1, levels: 3, inputBits: 48, outputBits: 48, pageSizes: 0x1000n },
  { format: AMD_V1, levels: 2, inputBits: 32, outputBits: 40 },
  { format: AMD_V2, levels: 4, inputBits: 47, outputBits: 48 },
  { format: AMD_V2, levels: 5, inputBits: 57, outputBits: 52 },
])
