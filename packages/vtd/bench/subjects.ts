import type { FormatSubject } from "../../pagetable/bench/subject.ts"
import { firstStageFormat } from "../src/formats/stage1.ts"
import { secondStageFormat } from "../src/formats/stage2.ts"

export const formatSubjects: readonly FormatSubject[] = [
  { subject: "VT-d second stage", format: secondStageFormat, levels: 4, inputBits: 48, outputBits: 46 },
  { subject: "x86-64 first stage", format: firstStageFormat, levels: 4, inputBits: 47, outputBits: 46 },
]
