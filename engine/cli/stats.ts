// `stats [--watch]`: queues and nodes as the database sees them.

import type { Client, LoopRow, NodeRow, QueueStats, UnservedTask } from './api.ts'
import { type Cli, withClient } from './context.ts'
import { count, lackingNode, printTable, span } from './text.ts'

export async function stats(cli: Cli, flags: { watch?: boolean; every: number }): Promise<void> {
  await withClient(cli, 'nothing', async (client) => {
    if (!flags.watch) return show(cli, await look(client))
    const signals = cli.signals.take()
    const stop = new AbortController()
    void Promise.race([signals.first, cli.terminal.gone]).then(() => stop.abort())
    while (!stop.signal.aborted) {
      const seen = await look(client)
      if (cli.terminal.interactive) cli.terminal.raw('\u001b[H\u001b[2J')
      await show(cli, seen)
      await cli.clock.sleep(flags.every, stop.signal)
    }
    signals.release()
  })
}

interface Seen {
  readonly queues: readonly QueueStats[]
  readonly nodes: readonly NodeRow[]
  /** Of the last five minutes. */
  readonly loops: readonly LoopRow[]
  /** Tasks that no running node has although jobs of them wait. */
  readonly unserved: readonly UnservedTask[]
}

async function look(client: Client): Promise<Seen> {
  const { console: look } = client
  const [queues, nodes, loops, unserved] = await Promise.all([
    look.queues(),
    look.nodes(),
    look.loops(),
    look.unserved(),
  ])
  return { queues, nodes, loops, unserved }
}

async function show({ terminal, program }: Cli, { queues, nodes, loops, unserved }: Seen): Promise<void> {
  if (terminal.json) return terminal.record({ queues, nodes, loops, unserved })
  if (queues.length === 0)
    return terminal.print(`No queue yet. Enqueue a job: ${program} enqueue TASK '{"some":"json"}'`)
  await printTable(
    terminal,
    [
      { head: 'queue' },
      ...NUMBERS.map((head) => ({ head, align: 'right' as const })),
      { head: 'oldest waits', align: 'right' },
    ],
    queues.map((row) => [
      row.queue,
      count(row.available),
      count(row.inFlight),
      count(row.scheduled),
      count(row.retrying),
      count(row.blocked),
      row.dead > 0 ? terminal.style('red', count(row.dead)) : '0',
      row.oldestWaitingMs === null || row.available === 0 ? '' : span(row.oldestWaitingMs),
    ]),
  )
  terminal.print()
  if (nodes.length === 0) return terminal.print(`No node is running. Start one: ${program} start`)
  await printTable(
    terminal,
    [
      { head: 'node', align: 'right' },
      { head: 'host' },
      { head: 'pid', align: 'right', spare: 2 },
      { head: 'threads', align: 'right', spare: 1 },
      { head: 'holds', align: 'right' },
      { head: 'state' },
      { head: 'heard' },
      { head: 'loop p50, max', align: 'right' },
    ],
    nodes.map((row) => [
      String(row.id),
      row.host,
      String(row.pid),
      count(row.threads),
      count(row.held),
      row.silentMs > row.limitMs ? terminal.style('red', 'silent') : row.state,
      `${span(row.silentMs)} ago`,
      loopOf(loops.find((loop) => loop.node === row.id)),
    ]),
  )
  if (unserved.length > 0) terminal.print()
  for (const row of unserved.slice(0, UNSERVED_SHOWN)) terminal.print(terminal.style('yellow', lackingNode(row)))
  if (unserved.length > UNSERVED_SHOWN) terminal.print(`and ${unserved.length - UNSERVED_SHOWN} more such tasks`)
}

function loopOf(loop: LoopRow | undefined): string {
  return loop === undefined ? '' : `${span(loop.p50Ms)}, ${span(loop.maxMs)}`
}

const UNSERVED_SHOWN = 10

const NUMBERS = ['waiting', 'in flight', 'scheduled', 'retrying', 'blocked', 'dead']
