import type { FormatSubject } from "../../pagetable/bench/subject.ts"
import { AMD_V2 } from "../src/formats/stage1.ts"
import { AMD_V1 } from "../src/formats/stage2.ts"

export const formatSubjects: readonly FormatSubject[] = [
  { subject: "AMD v1", format: AMD_V1, levels: 4, inputBits: 48, outputBits: 48 },
  { subject: "AMD v2", format: AMD_V2, levels: 4, inputBits: 47, outputBits: 48 },
]
