// Tables without borders, for people. On a terminal a table fits it: times lose their milliseconds, columns that can be
// spared are left out and named below, names are cut and sentences wrapped. In a pipe or a file everything is there.

import { type Part, styled, Text } from './styled.ts'
import type { Terminal } from './terminal.ts'

export interface Column {
  readonly head: string
  readonly align?: 'left' | 'right'
  /**
   * What happens to a column that is too wide: `cut` ends it with an ellipsis, `wrap` breaks it between words, `seconds`
   * leaves out the milliseconds of a time. Without it the column keeps its width.
   */
  readonly narrow?: 'cut' | 'wrap' | 'seconds'
  /** Lines of a wrapped cell at most; 12 when left out. */
  readonly lines?: number
  /** Left out where the table is wider than the terminal: 1 first, then 2, and so on. */
  readonly spare?: number
}

const GAP = '  '
const INDENT = '  '
/** Widths that a column gets before others are left out for it, and the least when that was not enough. */
const COMFORTABLE = { cut: 16, wrap: 16 }
const LEAST = { cut: 8, wrap: 12 }
const CELL_LINES_MAX = 12
/** Of a cell that is longer than what can be shown of it the rest is not even measured. */
const CHARS_PER_COLUMN = 4

export function printTable(
  terminal: Terminal,
  allColumns: readonly Column[],
  allRows: readonly (readonly Part[])[],
): void {
  const room = terminal.columns - INDENT.length
  const chars = room * CELL_LINES_MAX * CHARS_PER_COLUMN
  let cells = allRows.map((row) => row.map((cell) => Text.of(cell).clipped(chars)))
  let shown = allColumns.map((_, i) => i)
  const natural = () =>
    allColumns.map((column, i) => {
      // what is not padded need not be measured: a result may have megabytes
      const endless = room === Number.POSITIVE_INFINITY && i === allColumns.length - 1 && column.align !== 'right'
      return endless ? Number.POSITIVE_INFINITY : widest(column, cells, i)
    })
  const sum = (widths: readonly number[]) =>
    shown.reduce((total, i) => total + widths[i]!, GAP.length * Math.max(0, shown.length - 1))
  if (sum(natural()) > room)
    cells = cells.map((row) => row.map((cell, i) => (allColumns[i]!.narrow === 'seconds' ? toSeconds(cell) : cell)))

  const widths = natural()
  const leasts = (of: Readonly<Record<'cut' | 'wrap', number>>) =>
    allColumns.map(({ head, narrow }, i) =>
      narrow === 'cut' || narrow === 'wrap'
        ? Math.min(widths[i]!, Math.max(of[narrow], Text.of(head).width))
        : widths[i]!,
    )
  const comfortable = leasts(COMFORTABLE)
  const least = leasts(LEAST)
  const spared = allColumns.flatMap(({ spare }, i) => (spare === undefined ? [] : [{ i, spare }]))
  spared.sort((a, b) => a.spare - b.spare)
  const left: string[] = []
  for (const { i } of spared) {
    if (sum(comfortable) <= room) break
    shown = shown.filter((other) => other !== i)
    left.push(allColumns[i]!.head)
  }
  shrink(widths, sum(comfortable) <= room ? comfortable : least, shown, sum(widths) - room)

  const line = (row: readonly Text[]) => {
    const last = shown.at(-1)!
    const padded = shown.map((i) => {
      const { align = 'left' } = allColumns[i]!
      return i === last && align === 'left' ? row[i]! : row[i]!.padded(widths[i]!, align)
    })
    terminal.print(INDENT, ...padded.flatMap((cell, n) => (n === 0 ? [cell] : [GAP, cell])))
  }
  if (allColumns.some(({ head }) => head !== '')) line(allColumns.map(({ head }) => styled('dim', head)))
  for (const row of cells) {
    const lines = row.map((cell, i) => linesOf(cell, allColumns[i]!, widths[i]!))
    const height = Math.max(1, ...shown.map((i) => lines[i]!.length))
    for (let n = 0; n < height; n++) line(lines.map((texts) => texts[n] ?? Text.of('')))
  }
  if (left.length > 0) terminal.note(styled('dim', `${INDENT}left out here: ${left.join(', ')}`))
}

/** Takes `missing` columns of width from the widest first, so that what is short stays whole. */
function shrink(widths: number[], least: readonly number[], shown: readonly number[], missing: number): void {
  let lacking = missing
  while (lacking > 0) {
    const able = shown.filter((i) => widths[i]! > least[i]!)
    if (able.length === 0) return
    const top = Math.max(...able.map((i) => widths[i]!))
    const highest = able.filter((i) => widths[i] === top)
    const next = Math.max(0, ...able.filter((i) => widths[i]! < top).map((i) => widths[i]!))
    for (const i of highest) {
      const step = Math.min(
        lacking,
        Math.max(1, Math.min(top - Math.max(next, least[i]!), Math.ceil(lacking / highest.length))),
      )
      widths[i]! -= step
      lacking -= step
      if (lacking <= 0) return
    }
  }
}

function linesOf(cell: Text, { narrow, lines: most = CELL_LINES_MAX }: Column, width: number): Text[] {
  if (width === Number.POSITIVE_INFINITY || cell.width <= width) return [cell]
  if (narrow !== 'wrap') return [cell.cut(width)]
  const lines = cell.wrapped(width)
  if (lines.length <= most) return lines
  return [...lines.slice(0, most - 1), Text.of(lines[most - 1]!, ' …').cut(width)]
}

function widest({ head }: Column, rows: readonly (readonly Text[])[], i: number): number {
  return rows.reduce((width, row) => Math.max(width, row[i]?.width ?? 0), Text.of(head).width)
}

const MILLISECONDS = '.000'.length
const MOMENT = /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}$/

function toSeconds(cell: Text): Text {
  const text = cell.toString()
  return MOMENT.test(text) ? Text.of(text.slice(0, -MILLISECONDS)) : cell
}
