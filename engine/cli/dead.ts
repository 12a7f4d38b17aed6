// `dead list | requeue | purge`: the dead letters. Requeue and purge of more than one must be asked for by name.

import { EngineError } from '../base/errors.ts'
import type { DeadFilter, Requeued, RequeueFilter, RequeueOptions } from './api.ts'
import { type Cli, withClient } from './context.ts'
import { styled, Text } from './styled.ts'
import { printTable } from './table.ts'
import { brief, moment, plural } from './text.ts'

export async function deadList(cli: Cli, filter: DeadFilter): Promise<void> {
  const { terminal } = cli
  const rows = await withClient(cli, (client) => client.console.dead.list(filter))
  if (terminal.json) return rows.forEach((row) => void terminal.record(row))
  if (rows.length === 0) return terminal.print('No dead letter fits.')
  printTable(
    terminal,
    [
      { head: 'id', align: 'right' },
      { head: 'task', narrow: 'cut' },
      { head: 'queue', narrow: 'cut', spare: 2 },
      { head: 'attempts', align: 'right', spare: 1 },
      { head: 'died (UTC)', narrow: 'seconds', spare: 3 },
      { head: 'why', narrow: 'wrap', lines: 3 },
    ],
    rows.map((row) => [
      String(row.id),
      row.task,
      row.queue,
      brief(row.attempts),
      moment(row.diedAt),
      Text.of(styled('red', brief(row.code)), reason(row.reason)),
    ]),
  )
  const first = String(rows[0]!.id)
  const more = rows.length >= (filter.limit ?? 100) ? `older ones: --before ${rows.at(-1)!.id}; ` : ''
  terminal.note(styled('dim', `  ${more}what happened: ${cli.command('explain', first)}`))
  terminal.note(styled('dim', `  try it again: ${cli.command('dead', 'requeue', first)}`))
}

export async function deadRequeue(
  cli: Cli,
  { perSecond, expiresAt, ...filter }: RequeueFilter & RequeueOptions & { all?: boolean },
): Promise<void> {
  const options = { ...(perSecond !== undefined && { perSecond }), ...(expiresAt !== undefined && { expiresAt }) }
  const done = await withClient(cli, (client) => client.console.dead.requeue(chosen(filter), options))
  if (cli.terminal.json) return cli.terminal.record(done)
  if (done.requeued > 0 || done.taken + done.notDead === 0) report(cli, 'requeued', done.requeued)
  else cli.terminal.print('None was requeued.')
  left(cli, done)
}

/** What was not requeued, and why: line by line, so that it can be looked up. */
function left({ terminal }: Cli, { taken, takenBy, notDead, notDeadIds }: Requeued): void {
  if (taken > 0) terminal.print(`${plural(taken, 'job')} left, as another has the key:`)
  for (const row of takenBy) terminal.print(`  ${row.id}: job ${row.heldBy} has it`)
  if (taken > takenBy.length) terminal.print(`  and ${taken - takenBy.length} more`)
  if (notDead > 0) terminal.print(`${plural(notDead, 'id')} left, as they are no dead letters:`)
  for (const row of notDeadIds) terminal.print(`  ${row.id}: ${row.state ?? 'no such job'}`)
  if (notDead > notDeadIds.length) terminal.print(`  and ${notDead - notDeadIds.length} more`)
}

export async function deadPurge(cli: Cli, filter: DeadFilter & { all?: boolean }): Promise<void> {
  const gone = await withClient(cli, (client) => client.console.dead.purge(chosen(filter)))
  report(cli, 'purged', gone)
}

/** The filter, when it names something; purging everything by leaving a word out must not happen. */
function chosen<F extends RequeueFilter>({
  all,
  ...filter
}: F & { all?: boolean }): Omit<F & { all?: boolean }, 'all'> {
  if (
    all ||
    filter.ids !== undefined ||
    filter.id !== undefined ||
    filter.queue !== undefined ||
    filter.task !== undefined
  )
    return Object.fromEntries(Object.entries(filter).filter(([, value]) => value !== undefined)) as typeof filter
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
