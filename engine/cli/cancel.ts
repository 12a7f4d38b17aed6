// `cancel ID`: takes a waiting job out, or signals the node that runs it.

import { EngineError } from '../base/errors.ts'
import { type Cli, withClient } from './context.ts'
import { styled } from './styled.ts'

const SAID = {
  cancelled: 'was waiting and is cancelled.',
  signalled: 'is running; its node was told to abort it.',
  finished: 'has ended already; nothing was changed.',
} as const

export async function cancel(cli: Cli, id: number): Promise<void> {
  const outcome = await withClient(cli, (client) => client.console.cancel(id))
  if (outcome === 'unknown') throw new EngineError('JOB_NOT_FOUND', `there is no job ${id}`, { id })
  if (cli.terminal.json) cli.terminal.record({ id, outcome })
  else {
    cli.terminal.print(`Job ${id} ${SAID[outcome]}`)
    if (outcome !== 'cancelled') cli.terminal.note(styled('dim', `  its life: ${cli.command('explain', String(id))}`))
  }
}
