// How numbers, times and tables read for people.

import { stripVTControlCharacters } from 'node:util'
import type { UnservedTask } from './api.ts'
import type { Terminal } from './terminal.ts'

export interface Column {
  readonly head: string
  readonly align?: 'left' | 'right'
  /** Left out where the table is wider than the terminal: 1 first, then 2, and so on. */
  readonly spare?: number
}

/** The least that the last column gets, and that a column is cut to. */
const CELL_CHARS_MIN = 20

/**
 * Prints rows under heads, without borders. What is wider than the terminal loses its spare columns, then the widest of
 * its columns is cut, and the last one always.
 */
export async function printTable(
  terminal: Terminal,
  allColumns: readonly Column[],
  allRows: readonly string[][],
): Promise<void> {
  const { default: Table } = await import('cli-table3')
  const shown = fitting(terminal, allColumns, allRows)
  const columns = shown.map((i) => allColumns[i]!)
  const rows = allRows.map((row) => shown.map((i) => row[i]!))
  const last = columns.length - 1
  const widths = columns.map((column, i) => widest(column, rows, i))
  const used = () => widths.slice(0, last).reduce((sum, width) => sum + width + 2, 2)
  const excess = used() + CELL_CHARS_MIN - terminal.columns
  const wide = widths.indexOf(Math.max(...widths.slice(0, last)))
  if (excess > 0 && widths[wide]! > CELL_CHARS_MIN) widths[wide] = Math.max(CELL_CHARS_MIN, widths[wide]! - excess)
  widths[last] = Math.max(CELL_CHARS_MIN, terminal.columns - used())
  const table = new Table({
    head: columns.some(({ head }) => head !== '') ? columns.map(({ head }) => terminal.style('dim', head)) : [],
    colAligns: columns.map(({ align }) => align ?? 'left'),
    chars: NO_BORDERS,
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 0 },
  })
  for (const row of rows)
    table.push(row.map((cell, i) => (i === last || (i === wide && excess > 0) ? cutStyled(cell, widths[i]!) : cell)))
  for (const line of table.toString().split('\n')) terminal.print(`  ${line.trimEnd()}`)
}

/** The places of the columns that there is room for. */
function fitting(terminal: Terminal, columns: readonly Column[], rows: readonly string[][]): number[] {
  let shown = columns.map((_, i) => i)
  const spares = shown.filter((i) => columns[i]!.spare !== undefined)
  spares.sort((a, b) => columns[a]!.spare! - columns[b]!.spare!)
  const room = () => shown.slice(0, -1).reduce((sum, i) => sum + widest(columns[i]!, rows, i) + 2, 2 + CELL_CHARS_MIN)
  for (const spare of spares) {
    if (room() <= terminal.columns) break
    shown = shown.filter((i) => i !== spare)
  }
  return shown
}

function widest({ head }: Column, rows: readonly string[][], i: number): number {
  return rows.reduce((width, row) => Math.max(width, stripVTControlCharacters(row[i] ?? '').length), head.length)
}

const NO_BORDERS = {
  top: '',
  'top-mid': '',
  'top-left': '',
  'top-right': '',
  bottom: '',
  'bottom-mid': '',
  'bottom-left': '',
  'bottom-right': '',
  left: '',
  'left-mid': '',
  mid: '',
  'mid-mid': '',
  right: '',
  'right-mid': '',
  middle: '  ',
}

/** Text on one line, cut with an ellipsis. Control characters, which could move the cursor, become dots. */
export function cut(text: string, chars: number): string {
  const line = text.replace(/\s+/g, ' ').replace(/[\u0000-\u001f\u007f-\u009f]/g, '·')
  return line.length <= chars ? line : `${line.slice(0, Math.max(1, chars - 1))}…`
}

/** The same for a cell that is coloured as a whole. */
function cutStyled(cell: string, chars: number): string {
  const [, before, text, after] = STYLED.exec(cell) ?? []
  return before === undefined ? cut(cell, chars) : before + cut(text!, chars) + after!
}

const STYLED = /^((?:\u001b\[\d+m)+)(.*?)((?:\u001b\[\d+m)+)$/s

export function count(value: number): string {
  return Math.round(value).toLocaleString('en-US')
}

/** About three digits: 0.42, 31.4, 1,240. */
export function rate(value: number): string {
  if (value === 0 || value >= 100) return count(value)
  return value >= 10 ? value.toFixed(1) : value.toFixed(2)
}

/** A span of time as a person says it. */
export function span(ms: number): string {
  if (ms > 0 && ms < 0.1) return `${Math.round(ms * 1_000)} µs`
  if (ms < 10) return `${ms.toFixed(1)} ms`
  if (ms < 1_000) return `${Math.round(ms)} ms`
  if (ms < 60_000) return `${(ms / 1_000).toFixed(1)} s`
  const minutes = Math.floor(ms / 60_000)
  if (minutes < 60) return `${minutes} min ${Math.floor((ms % 60_000) / 1_000)} s`
  const hours = Math.floor(minutes / 60)
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days`
}

export function megabytes(bytes: number): string {
  return `${rate(bytes / 1e6)} MB`
}

/** A moment in UTC, to the millisecond. */
export function moment(at: Date | null | undefined): string {
  return at instanceof Date ? at.toISOString().replace('T', ' ').replace('Z', '') : ''
}

/** Anything on one line. */
export function brief(value: unknown): string {
  if (value === undefined || value === null) return ''
  return typeof value === 'string' ? value : (JSON.stringify(value) ?? String(value))
}

export function plural(n: number, one: string, many = `${one}s`): string {
  return `${count(n)} ${n === 1 ? one : many}`
}

/** A task that no running node has although jobs of it wait, as a sentence. */
export function lackingNode({ task, waiting, didYouMean }: UnservedTask): string {
  const jobs = `${plural(waiting, 'job')} ${waiting === 1 ? 'waits' : 'wait'}`
  return `No running node has the task ${task}: ${jobs} for one.${didYouMean === null ? '' : ` Did you mean ${didYouMean}?`}`
}
