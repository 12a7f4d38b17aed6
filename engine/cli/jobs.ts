// `jobs`: the newest jobs that fit a filter.

import type { JobFilter, JobRow } from './api.ts'
import { type Cli, withClient } from './context.ts'
import { styled, Text } from './styled.ts'
import { printTable } from './table.ts'
import { brief, moment } from './text.ts'

export async function jobs(cli: Cli, filter: JobFilter): Promise<void> {
  const { terminal } = cli
  const rows = await withClient(cli, (client) => client.console.jobs(filter))
  if (terminal.json) return rows.forEach((row) => void terminal.record(row))
  if (rows.length === 0) return terminal.print('No job fits.')
  printTable(
    terminal,
    [
      { head: 'id', align: 'right' },
      { head: 'task', narrow: 'cut' },
      { head: 'queue', narrow: 'cut', spare: 2 },
      { head: 'state' },
      { head: 'attempt', align: 'right', spare: 1 },
      { head: 'created (UTC)', narrow: 'seconds', spare: 3 },
      { head: 'result or error', narrow: 'cut' },
    ],
    rows.map((row) => [
      String(row.id),
      row.task,
      row.queue,
      colouredState(row.state),
      row.attempt === undefined ? '' : `${row.attempt}/${row.maxAttempts ?? '?'}`,
      moment(row.createdAt),
      outcome(row),
    ]),
  )
  for (const task of new Set(rows.filter(lacksNode).map((row) => row.task)))
    terminal.note(styled('yellow', `  no running node has the task ${task}: its jobs wait for one`))
  const last = rows.at(-1)!.id
  const more = rows.length >= (filter.limit ?? 0) ? `older ones: --before ${last}; ` : ''
  terminal.note(styled('dim', `  ${more}one job's life: ${cli.command('explain', String(rows[0]!.id))}`))
}

const BAD = new Set(['failed', 'failed attempt', 'timed out', 'expired', 'lost'])

export function colouredState(state: string): Text {
  if (state === 'completed') return styled('green', state)
  if (BAD.has(state)) return styled('red', state)
  if (state === 'running' || state === 'assigned') return styled('cyan', state)
  return state === 'retrying' ? styled('yellow', state) : Text.of(state)
}

function outcome(row: JobRow): string {
  if (row.state !== 'completed' && row.error !== undefined && row.error !== null) {
    const { code, message } = row.error as { code?: unknown; message?: unknown }
    return message === undefined ? brief(row.error) : `${brief(code)} ${brief(message)}`.trim()
  }
  if (row.state === 'running' && row.progress !== null) return `progress ${brief(row.progress)}`
  return brief(row.result)
}

const WAITING = new Set(['queued', 'blocked', 'scheduled', 'retrying'])

function lacksNode(row: JobRow): boolean {
  return WAITING.has(row.state) && !row.served
}
