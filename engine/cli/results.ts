// `results list | show | cleanup`: what completed jobs returned. Cleaning up wants to be told what is meant.

import { cleanJson } from '../base/clean.ts'
import { EngineError } from '../base/errors.ts'
import type { ResultFilter } from './api.ts'
import { type Cli, withClient } from './context.ts'
import { styled } from './styled.ts'
import { printTable } from './table.ts'
import { brief, moment, plural } from './text.ts'

export async function resultsList(cli: Cli, filter: ResultFilter): Promise<void> {
  const { terminal } = cli
  const { rows, older } = await withClient(cli, (client) => client.console.results.page(filter))
  if (terminal.json) {
    for (const row of rows) terminal.record(row)
    if (older !== null) terminal.record({ older })
    return
  }
  if (rows.length === 0)
    terminal.print(older === null ? 'No result fits.' : 'No result fits among those looked through.')
  else
    printTable(
      terminal,
      [
        { head: 'id', align: 'right' },
        { head: 'task', narrow: 'cut' },
        { head: 'queue', narrow: 'cut', spare: 2 },
        { head: 'attempt', align: 'right', spare: 1 },
        { head: 'completed (UTC)', narrow: 'seconds', spare: 3 },
        { head: 'result', narrow: 'cut' },
      ],
      rows.map((row) => [
        String(row.id),
        row.task,
        row.queue,
        String(row.attempt),
        moment(row.completedAt),
        brief(row.result),
      ]),
    )
  const more = older === null ? [] : [`older ones: --cursor ${older}`]
  const whole = rows.length === 0 ? [] : [`a whole one: ${cli.command('results', 'show', String(rows[0]!.id))}`]
  const notes = [...more, ...whole]
  if (notes.length > 0) terminal.note(styled('dim', `  ${notes.join('; ')}`))
}

export async function resultsShow(cli: Cli, id: number): Promise<void> {
  const { terminal } = cli
  const job = await withClient(cli, (client) => client.console.job(id))
  if (job === null) throw new EngineError('JOB_NOT_FOUND', `no job has the id ${id}`, { jobId: id })
  if (job.state !== 'completed')
    throw new EngineError('NO_RESULT', `job ${id} is ${job.state}, not completed`, { jobId: id, state: job.state })
  if (terminal.json) terminal.record({ id, result: job.result ?? null })
  else terminal.page(cleanJson(job.result ?? null, 2).split('\n'))
}

export async function resultsCleanup(cli: Cli, filter: Pick<ResultFilter, 'queue' | 'completedBefore'>): Promise<void> {
  const { terminal } = cli
  if (filter.queue === undefined && filter.completedBefore === undefined)
    throw new EngineError('VALIDATION', 'name what is meant: --queue, --completed-before, or both', {
      field: '--queue',
    })
  const forgotten = await withClient(cli, (client) => client.console.results.cleanup(filter))
  if (terminal.json) terminal.record({ forgotten })
  else
    terminal.print(
      forgotten === 0 ? 'No result fits; none was forgotten.' : `${plural(forgotten, 'result')} forgotten.`,
    )
}
