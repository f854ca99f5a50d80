/** Two lists of lines side by side: the longest common subsequence, and what only one side has. */

export interface DifferenceLine {
  readonly side: "both" | "first" | "second"
  readonly text: string
}

export function difference(first: readonly string[], second: readonly string[]): DifferenceLine[] {
  const length = commonLengths(first, second)
  const lines: DifferenceLine[] = []
  let a = 0
  let b = 0
  const at = (i: number, j: number): number => length[i]?.[j] ?? 0
  while (a < first.length || b < second.length) {
    const [textA, textB] = [first[a], second[b]]
    if (textA !== undefined && textA === textB) {
      lines.push({ side: "both", text: textA })
      a++
      b++
    } else if (textA !== undefined && (textB === undefined || at(a + 1, b) >= at(a, b + 1))) {
      lines.push({ side: "first", text: textA })
      a++
    } else {
      lines.push({ side: "second", text: textB as string })
      b++
    }
  }
  return lines
}

/** `[i][j]`: how many lines `first` from i on and `second` from j on have in common, in order. */
function commonLengths(first: readonly string[], second: readonly string[]): number[][] {
  const length = Array.from({ length: first.length + 1 }, () => new Array<number>(second.length + 1).fill(0))
  for (let i = first.length - 1; i >= 0; i--) {
    for (let j = second.length - 1; j >= 0; j--) {
      const [row, below] = [length[i] as number[], length[i + 1] as number[]]
      row[j] =
        first[i] === second[j]
          ? 1 + (below[j + 1] as number)
          : Math.max(below[j] as number, row[j + 1] as number)
    }
  }
  return length
}
