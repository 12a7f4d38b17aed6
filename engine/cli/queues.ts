// `queues list | pause | resume | purge`: queues as a whole.

import { type Cli, withClient } from './context.ts'
import { styled } from './styled.ts'
import { printTable } from './table.ts'
import { count, plural } from './text.ts'

export async function queuesList(cli: Cli): Promise<void> {
  const { terminal } = cli
  const rows = await withClient(cli, (client) => client.console.queues())
  if (terminal.json) return rows.forEach((row) => void terminal.record(row))
  if (rows.length === 0) return terminal.print('No queue yet.')
  printTable(
    terminal,
    [
      { head: 'queue', narrow: 'cut' },
      { head: 'state' },
      { head: 'waiting', align: 'right' },
      { head: 'in flight', align: 'right' },
    ],
    rows.map((row) => [
      row.queue,
      row.paused ? styled('yellow', 'paused') : 'open',
      count(row.available + row.scheduled + row.retrying + row.blocked),
      count(row.inFlight),
    ]),
  )
}

export async function queuesSwitch(cli: Cli, verb: 'pause' | 'resume', queue: string): Promise<void> {
  await withClient(cli, (client) => client.console.queue[verb](queue))
  if (cli.terminal.json) cli.terminal.record({ queue, paused: verb === 'pause' })
  else if (verb === 'pause')
    cli.terminal.print(
      `Queue ${queue} is paused; running jobs finish. Open it again: ${cli.command('queues', 'resume', queue)}`,
    )
  else cli.terminal.print(`Queue ${queue} is open again.`)
}

export async function queuesPurge(cli: Cli, queue: string): Promise<void> {
  const purged = await withClient(cli, (client) => client.console.queue.purge(queue))
  if (cli.terminal.json) cli.terminal.record({ queue, purged })
  else cli.terminal.print(purged === 0 ? `Nothing waits in queue ${queue}.` : `${plural(purged, 'job')} purged.`)
}
