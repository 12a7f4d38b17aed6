// `explain ID`: the life of one job, every state with when, where and why.

import { EngineError } from '../base/errors.ts'
import { type Cli, withClient } from './context.ts'
import { colouredState } from './jobs.ts'
import { brief, cut, moment, printTable, span } from './text.ts'

const HIDDEN = new Set(['id', 'task', 'queue', 'state'])

export async function explain(cli: Cli, id: number): Promise<void> {
  const { terminal } = cli
  const life = await withClient(cli, 'nothing', (client) => client.console.explain(id))
  if (life === null) throw new EngineError('JOB_NOT_FOUND', `there is no job ${id}`, { id })
  if (terminal.json) return terminal.record(life)
  const { job, events } = life
  terminal.print(
    `${terminal.style('bold', `Job ${job.id}`)}  ${job.task} in queue ${job.queue}: ${colouredState(cli, job.state)}`,
  )
  const facts = Object.entries(job).filter(
    ([name, value]) => !HIDDEN.has(name) && value !== null && value !== undefined,
  )
  const width = Math.max(...facts.map(([name]) => name.length), 0)
  for (const [name, value] of facts) {
    const text = value instanceof Date ? moment(value) : brief(value)
    terminal.print(
      `  ${terminal.style('dim', name.padEnd(width))}  ${cut(text, Math.max(20, terminal.columns - width - 4))}`,
    )
  }
  terminal.print()
  let before: Date | null = null
  await printTable(
    terminal,
    [{ head: 'when (UTC)' }, { head: 'after', align: 'right' }, { head: 'state' }, { head: 'where' }, { head: 'why' }],
    events.map(({ at, state, where, why }) => {
      const after = at !== null && before !== null ? `+${span(Math.max(0, at.getTime() - before.getTime()))}` : ''
      before = at ?? before
      return [moment(at), after, colouredState(cli, state), where, why]
    }),
  )
}
