import type { FormatSubject } from "../../pagetable/bench/subject.ts"
import { stage1Format } from "../src/formats/stage1.ts"
import { stage2Format } from "../src/formats/stage2.ts"

const plain = { lpa2: false, dirty: false }

export const formatSubjects: readonly FormatSubject[] = [
  { subject: "Arm stage 1, 4K", format: stage1Format(12, plain), levels: 4, inputBits: 48, outputBits: 48 },
  { subject: "Arm stage 2, 4K", format: stage2Format(12, plain), levels: 4, inputBits: 48, outputBits: 48 },
  { subject: "Arm stage 1, 64K", format: stage1Format(16, plain), levels: 3, inputBits: 48, outputBits: 48 },
]
