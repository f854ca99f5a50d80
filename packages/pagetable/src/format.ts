/** Draft: the page-table engineer replaces this with the record of numbers that a format is. */
export interface PageTableFormat {
  readonly name: string
}
