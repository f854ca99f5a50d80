import { formatSuite } from "../../pagetable/test/format-suite.ts"
import { stage1Format } from "../src/formats/stage1.ts"
import { stage2Format } from "../src/formats/stage2.ts"

const plain = { lpa2: false, dirty: false }
const dirty = { lpa2: false, dirty: true }
const lpa2 = { lpa2: true, dirty: false }
const runs = (granuleLg2: number) => stage1Format(granuleLg2, plain).pageSizes

formatSuite([
  { format: stage1Format(12, plain), levels: 4, inputBits: 48, outputBits: 48 },
  { format: stage1Format(12, dirty), levels: 3, inputBits: 39, outputBits: 40 },
  { format: stage1Format(12, lpa2), levels: 5, inputBits: 52, outputBits: 52 },
  { format: stage1Format(12, plain), levels: 4, inputBits: 48, outputBits: 44, pageSizes: runs(12) },
  { format: stage1Format(14, plain), levels: 4, inputBits: 48, outputBits: 48 },
  { format: stage1Format(14, lpa2), levels: 4, inputBits: 52, outputBits: 52 },
  { format: stage1Format(14, plain), levels: 3, inputBits: 47, outputBits: 48, pageSizes: runs(14) },
  { format: stage1Format(16, plain), levels: 3, inputBits: 48, outputBits: 48 },
  { format: stage1Format(16, plain), levels: 3, inputBits: 52, outputBits: 52 },
  { format: stage1Format(16, dirty), levels: 2, inputBits: 42, outputBits: 42, pageSizes: runs(16) },
  { format: stage2Format(12, plain), levels: 4, inputBits: 48, outputBits: 48 },
  { format: stage2Format(12, dirty), levels: 3, inputBits: 40, outputBits: 40 },
  { format: stage2Format(12, plain), levels: 3, inputBits: 43, outputBits: 44 },
  { format: stage2Format(12, lpa2), levels: 4, inputBits: 52, outputBits: 52 },
  { format: stage2Format(14, plain), levels: 3, inputBits: 48, outputBits: 48 },
  { format: stage2Format(16, plain), levels: 2, inputBits: 46, outputBits: 48 },
  { format: stage2Format(16, plain), levels: 3, inputBits: 52, outputBits: 52, pageSizes: runs(16) },
])
