// Engines that share a data folder, as two terminals in one project do: what each could not write when it stopped is
// delivered by whoever is there next, and no job of it runs again.

import assert from 'node:assert/strict'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { after, test } from 'node:test'
import type { Bundle } from './support/bundle.ts'
import { withServer } from './support/bundle.ts'
import { endAll } from './support/engine-process.ts'
import { until } from './support/until.ts'

const MINUTE = 60_000
const EACH = 10

after(endAll)

/** Two engines of one folder, each of which runs its own half of the jobs, and no other. */
async function startTwo(bundle: Bundle, settings: { nodeLimitMs: number; nodeHeartbeatMs: number }) {
  const queues = ['one', 'two']
  const engines = queues.map((queue) => bundle.engine({ threads: 1, queues: [queue], flushRows: 1, ...settings }))
  await Promise.all(engines.map((engine) => engine.ready()))
  for (const queue of queues)
    bundle.history.acknowledgeMany(
      await bundle.client.enqueueMany(
        'witness-shared',
        Array.from({ length: EACH }, (_, at) => ({ restMs: 800 + 20 * at })),
        { queue },
      ),
    )
  await until('all run', () => bundle.history.executions().length === 2 * EACH)
  return engines
}

const haveEnded = ({ history }: Bundle) =>
  until('all have ended', () => history.executions().every(({ endMs }) => endMs < Number.POSITIVE_INFINITY))

async function checkOnce({ history, query }: Bundle): Promise<void> {
  const verdict = await history.check(query)
  assert.equal(verdict.executions, 2 * EACH, 'nothing ran twice')
  assert.equal(verdict.lost, 0)
  assert.deepEqual(await query('select run, outcome, count(*)::int as n from millrace.attempts group by 1, 2'), [
    { run: 1, outcome: 'completed', n: 2 * EACH },
  ])
}

test(
  'two engines of one folder stop while PostgreSQL is gone, two start at once: every outcome arrives, nothing runs again',
  {
    timeout: 3 * MINUTE,
  },
  () =>
    withServer(async (bundle, server) => {
      const settings = { nodeLimitMs: 120_000, nodeHeartbeatMs: 1_000 }
      const engines = await startTwo(bundle, settings)
      await server.stop('fast')
      await haveEnded(bundle)
      const reports = await Promise.all(engines.map((engine) => engine.stop(2_000)))
      assert.deepEqual(
        reports.map(({ outboxed }) => outboxed),
        [EACH, EACH],
      )
      await Promise.all(engines.map((engine) => engine.ended))
      const writers = new Set(readdirSync(join(bundle.folder, 'outbox', 'flush')).map((name) => name.slice(13)))
      assert.equal(writers.size, 2, 'each names its records after itself')
      await server.start()
      const next = ['one', 'two'].map((queue) => bundle.engine({ queues: [queue], ...settings }))
      await Promise.all(next.map((engine) => engine.ready()))
      await bundle.empty()
      assert.deepEqual(readdirSync(join(bundle.folder, 'outbox', 'flush')), [])
      await checkOnce(bundle)
      await Promise.all(next.map((engine) => engine.stop()))
      assert.deepEqual(
        await bundle.query('select id from millrace.node'),
        [],
        'those that could not say goodbye are gone',
      )
    }),
)

test(
  'one of two engines of a folder stops while PostgreSQL is gone: the other delivers its outcomes before it takes over',
  {
    timeout: 3 * MINUTE,
  },
  () =>
    withServer(async (bundle, server) => {
      const [one, two] = await startTwo(bundle, { nodeLimitMs: 6_000, nodeHeartbeatMs: 500 })
      await server.stop('fast')
      await haveEnded(bundle)
      const { outboxed } = await one!.stop(2_000)
      assert.equal(outboxed, EACH)
      await one!.ended
      await server.start()
      await two!.line('outbox.replayed', ({ sent, stale, left }) => Number(sent) > 0 && stale === 0 && left === 0)
      await bundle.empty()
      await until('the other is gone', async () => (await bundle.query('select id from millrace.node')).length === 1)
      await checkOnce(bundle)
      await two!.stop()
    }),
)
