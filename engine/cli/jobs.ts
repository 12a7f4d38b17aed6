// `jobs`: the newest jobs that fit a filter.

import type { JobFilter, JobRow } from './api.ts'
import { type Cli, withClient } from './context.ts'
import { brief, moment, printTable } from './text.ts'

export async function jobs(cli: Cli, filter: JobFilter): Promise<void> {
  const { terminal, program } = cli
  const rows = await withClient(cli, 'nothing', (client) => client.console.jobs(filter))
  if (terminal.json) return rows.forEach((row) => void terminal.record(row))
  if (rows.length === 0) return terminal.print('No job fits.')
  await printTable(
    terminal,
    [
      { head: 'id', align: 'right' },
      { head: 'task' },
      { head: 'queue' },
      { head: 'state' },
      { head: 'attempt', align: 'right' },
      { head: 'created (UTC)' },
      { head: 'result or error' },
    ],
    rows.map((row) => [
      String(row.id),
      row.task,
      row.queue,
      colouredState(cli, row.state),
      row.attempt === undefined ? '' : `${row.attempt}/${row.maxAttempts ?? '?'}`,
      moment(row.createdAt),
      outcome(row),
    ]),
  )
  for (const task of new Set(rows.filter(lacksNode).map((row) => row.task)))
    terminal.note(terminal.style('yellow', `  no running node has the task ${task}: its jobs wait for one`))
  const last = rows.at(-1)!.id
  const more = rows.length >= (filter.limit ?? 0) ? `older ones: --before ${last}; ` : ''
  terminal.note(terminal.style('dim', `  ${more}one job's life: ${program} explain ${rows[0]!.id}`))
}

const BAD = new Set(['failed', 'failed attempt', 'timed out', 'expired', 'lost'])

export function colouredState({ terminal }: Cli, state: string): string {
  if (state === 'completed') return terminal.style('green', state)
  if (BAD.has(state)) return terminal.style('red', state)
  if (state === 'running' || state === 'assigned') return terminal.style('cyan', state)
  return state === 'retrying' ? terminal.style('yellow', state) : state
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
