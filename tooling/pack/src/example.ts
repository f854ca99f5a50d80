/** The runnable example of a README: its first block of TypeScript. */

const MAX_LINES = 15

/** @throws Error when there is none, or when it is too long to be read at a glance */
export function readmeExample(readme: string): string {
  const code = /```ts\n([\s\S]*?)```/.exec(readme)?.[1]
  if (code === undefined) throw new Error("the README has no ```ts block")
  const lines = code.trimEnd().split("\n").length
  if (lines > MAX_LINES)
    throw new Error(`the README's example has ${lines} lines, at most ${MAX_LINES} are allowed`)
  return code
}
