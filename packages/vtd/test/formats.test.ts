import { formatSuite } from "../../pagetable/test/format-suite.ts"
import { firstStageFormat } from "../src/formats/stage1.ts"
import { secondStageFormat } from "../src/formats/stage2.ts"

formatSuite([
  { format: secondStageFormat, levels: 3, inputBits: 39, outputBits: 39 },
  { format: secondStageFormat, levels: 4, inputBits: 48, outputBits: 46 },
  { format: secondStageFormat, levels: 5, inputBits: 57, outputBits: 52 },
  { format: secondStageFormat, levels: 4, inputBits: 36, outputBits: 46 },
  { format: secondStageFormat, levels: 4, inputBits: 48, outputBits: 48, pageSizes: 0x1000n },
  { format: firstStageFormat, levels: 4, inputBits: 47, outputBits: 46 },
  { format: firstStageFormat, levels: 5, inputBits: 56, outputBits: 52 },
])
