// `dead list | requeue | purge`: the dead letters. Requeue and purge of more than one must be asked for by name.

import { EngineError } from '../base/errors.ts'
import type { DeadFilter } from './api.ts'
import { type Cli, withClient } from './context.ts'
import { brief, moment, plural, printTable } from './text.ts'

export async function deadList(cli: Cli, filter: DeadFilter): Promise<void> {
  const { terminal, program } = cli
  const rows = await withClient(cli, 'nothing', (client) => client.console.dead.list(filter))
  if (terminal.json) return rows.forEach((row) => void terminal.record(row))
  if (rows.length === 0) return terminal.print('No dead letter fits.')
  await printTable(
    terminal,
    [
      { head: 'id', align: 'right' },
      { head: 'task' },
      { head: 'queue' },
      { head: 'attempts', align: 'right' },
      { head: 'died (UTC)' },
      { head: 'why' },
    ],
    rows.map((row) => [
      String(row.id),
      row.task,
      row.queue,
      brief(row.attempts),
      moment(row.diedAt),
      terminal.style('red', brief(row.code)) + reason(row.reason),
    ]),
  )
  terminal.note(terminal.style('dim', `  try one again: ${program} dead requeue ${rows[0]!.id}`))
}

export async function deadRequeue(
  cli: Cli,
  { perSecond, ...filter }: DeadFilter & { all?: boolean; perSecond?: number },
): Promise<void> {
  const spread = perSecond === undefined ? {} : { perSecond }
  const moved = await withClient(cli, 'nothing', (client) => client.console.dead.requeue(chosen(filter), spread))
  report(cli, 'requeued', moved)
}

export async function deadPurge(cli: Cli, filter: DeadFilter & { all?: boolean }): Promise<void> {
  const gone = await withClient(cli, 'nothing', (client) => client.console.dead.purge(chosen(filter)))
  report(cli, 'purged', gone)
}

/** The filter, when it names something; purging everything by leaving a word out must not happen. */
function chosen({ all, ...filter }: DeadFilter & { all?: boolean }): DeadFilter {
  if (all || filter.id !== undefined || filter.queue !== undefined || filter.task !== undefined) return filter
  throw new EngineError('VALIDATION', 'name what is meant: an ID, --queue, --task or --all', { field: 'ID' })
}

function report({ terminal }: Cli, verb: string, jobs: number): void {
  if (terminal.json) terminal.record({ [verb]: jobs })
  else terminal.print(jobs === 0 ? `No dead letter fits; none was ${verb}.` : `${plural(jobs, 'job')} ${verb}.`)
}

function reason(value: unknown): string {
  const message = typeof value === 'object' && value !== null ? (value as { message?: unknown }).message : value
  const text = brief(message ?? value)
  return text === '' ? '' : ` ${text}`
}
