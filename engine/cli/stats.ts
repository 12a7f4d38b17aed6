// `stats [--watch]`: queues and nodes as the database sees them.

import type { Client, LoopRow, NodeRow, QueueStats, UnservedTask } from './api.ts'
import { type Cli, withClient } from './context.ts'
import { styled } from './styled.ts'
import { printTable } from './table.ts'
import { count, lackingNode, span } from './text.ts'

export async function stats(cli: Cli, flags: { watch?: boolean; every: number }): Promise<void> {
  await withClient(cli, async (client) => {
    if (!flags.watch) return show(cli, await look(client))
    const signals = cli.signals.take()
    const stop = new AbortController()
    void Promise.race([signals.first, cli.terminal.gone]).then(() => stop.abort())
    while (!stop.signal.aborted) {
      const seen = await look(client)
      cli.terminal.clear()
      show(cli, seen)
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

function show(cli: Cli, { queues, nodes, loops, unserved }: Seen): void {
  const { terminal } = cli
  if (terminal.json) terminal.record({ queues, nodes, loops, unserved })
  else {
    showQueues(cli, queues)
    terminal.print()
    showNodes(cli, nodes, loops)
    showUnserved(cli, unserved)
  }
}

function showQueues(cli: Cli, queues: readonly QueueStats[]): void {
  const { terminal } = cli
  if (queues.length === 0) {
    terminal.print(`No queue yet. Enqueue a job: ${cli.command('enqueue', 'TASK', '{"some":"json"}')}`)
    return
  }
  printTable(
    terminal,
    [
      { head: 'queue', narrow: 'cut' },
      { head: 'waiting', align: 'right' },
      { head: 'in flight', align: 'right' },
      { head: 'scheduled', align: 'right', spare: 3 },
      { head: 'retrying', align: 'right', spare: 2 },
      { head: 'blocked', align: 'right', spare: 1 },
      { head: 'dead', align: 'right' },
      { head: 'oldest', align: 'right', spare: 4 },
    ],
    queues.map((row) => [
      row.queue,
      count(row.available),
      count(row.inFlight),
      count(row.scheduled),
      count(row.retrying),
      count(row.blocked),
      row.dead > 0 ? styled('red', count(row.dead)) : '0',
      row.oldestWaitingMs === null || row.available === 0 ? '' : span(row.oldestWaitingMs),
    ]),
  )
}

function showNodes(cli: Cli, nodes: readonly NodeRow[], loops: readonly LoopRow[]): void {
  const { terminal } = cli
  if (nodes.length === 0) {
    terminal.print(`No node is running. Start one: ${cli.command('start')}`)
    return
  }
  printTable(
    terminal,
    [
      { head: 'node', align: 'right' },
      { head: 'host', narrow: 'cut' },
      { head: 'pid', align: 'right', spare: 2 },
      { head: 'threads', align: 'right', spare: 1 },
      { head: 'holds', align: 'right' },
      { head: 'state' },
      { head: 'heard' },
      { head: 'loop p50, max', align: 'right', spare: 3 },
    ],
    nodes.map((row) => [
      String(row.id),
      row.host,
      String(row.pid),
      count(row.threads),
      count(row.held),
      row.silentMs > row.limitMs ? styled('red', 'silent') : row.state,
      `${span(row.silentMs)} ago`,
      loopOf(loops.find((loop) => loop.node === row.id)),
    ]),
  )
}

function showUnserved({ terminal }: Cli, unserved: readonly UnservedTask[]): void {
  if (unserved.length > 0) terminal.print()
  for (const row of unserved.slice(0, UNSERVED_SHOWN)) terminal.print(styled('yellow', lackingNode(row)))
  if (unserved.length > UNSERVED_SHOWN) terminal.print(`and ${unserved.length - UNSERVED_SHOWN} more such tasks`)
}

function loopOf(loop: LoopRow | undefined): string {
  return loop === undefined ? '' : `${span(loop.p50Ms)}, ${span(loop.maxMs)}`
}

const UNSERVED_SHOWN = 10
