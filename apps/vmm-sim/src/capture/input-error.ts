/** Where in a file something is wrong: a byte offset, or a line counted from 1. */
export type Place = { readonly offset: number } | { readonly line: number }

/** Input that cannot be used: which file, what is wrong with it, and where. */
export class InputError extends Error {
  readonly file: string
  readonly place: Place | null

  constructor(file: string, wrong: string, place: Place | null = null) {
    super(`${file}: ${wrong}${place === null ? "" : ` (${placeText(place)})`}`)
    this.name = "InputError"
    this.file = file
    this.place = place
  }
}

function placeText(place: Place): string {
  return "line" in place ? `line ${place.line}` : `offset ${place.offset}`
}
