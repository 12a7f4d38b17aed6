// `explain ID`: the life of one job, every state with when, where and why.

import { EngineError } from '../base/errors.ts'
import { type Cli, withClient } from './context.ts'
import { colouredState } from './jobs.ts'
import { styled, Text } from './styled.ts'
import { printTable } from './table.ts'
import { brief, moment, span } from './text.ts'

/** Of a fact, such as a payload. A pipe or --json gives all of it. */
const FACT_LINES_MAX = 6
const HIDDEN = new Set(['id', 'task', 'queue', 'state'])

export async function explain(cli: Cli, id: number): Promise<void> {
  const { terminal } = cli
  const life = await withClient(cli, (client) => client.console.explain(id))
  if (life === null) throw new EngineError('JOB_NOT_FOUND', `there is no job ${id}`, { id })
  if (terminal.json) return terminal.record(life)
  const { job, events } = life
  terminal.print(styled('bold', `Job ${job.id}`), `  ${job.task} in queue ${job.queue}: `, colouredState(job.state))
  const facts = Object.entries(job).filter(
    ([name, value]) => !HIDDEN.has(name) && value !== null && value !== undefined,
  )
  const width = Math.max(...facts.map(([name]) => name.length), 0)
  const room = Math.max(20, terminal.columns - width - 4)
  for (const [name, value] of facts) {
    const text = value instanceof Date ? moment(value) : brief(value)
    const lines = Text.of(text)
      .clipped(room * FACT_LINES_MAX)
      .wrapped(room)
    if (lines.length > FACT_LINES_MAX) lines.splice(FACT_LINES_MAX - 1, lines.length, Text.of('…'))
    for (const [n, line] of lines.entries())
      terminal.print('  ', styled('dim', (n === 0 ? name : '').padEnd(width)), '  ', line)
  }
  terminal.print()
  let before: Date | null = null
  printTable(
    terminal,
    [
      { head: 'when (UTC)' },
      { head: 'after', align: 'right', spare: 1 },
      { head: 'state' },
      { head: 'where', narrow: 'wrap', spare: 2 },
      { head: 'why', narrow: 'wrap' },
    ],
    events.map(({ at, state, where, why }) => {
      const after = at !== null && before !== null ? `+${span(Math.max(0, at.getTime() - before.getTime()))}` : ''
      before = at ?? before
      return [moment(at), after, colouredState(state), where, why]
    }),
  )
}
