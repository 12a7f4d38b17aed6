// PostgreSQL is away, or says nothing: what had ended stays ended, and a stop has an end.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { systemClock } from '../engine/base/clock.ts'
import { type EngineBundle, withEngines } from './support/engine.ts'
import { type Gate, gate } from './support/gate.ts'
import { FakeLog } from './support/scheduler-fakes.ts'
import { wireProxy } from './support/wire-proxy.ts'

const MINUTE = 60_000

async function withGate(run: (bundle: EngineBundle, way: Gate) => Promise<void>): Promise<void> {
  await withEngines(async (bundle) => {
    const way = await gate(bundle.url)
    try {
      await run(bundle, way)
    } finally {
      way.close()
    }
  })
}

test(
  'what had ended while PostgreSQL was away is written when it is back, by a node that was fenced meanwhile too',
  {
    timeout: 2 * MINUTE,
  },
  () =>
    withGate(async ({ client, engine, query, until }, way) => {
      const log = new FakeLog()
      const worker = await engine({ database: way.url, threads: 2, nodeLimitMs: 6_000, nodeHeartbeatMs: 300, log })
      const count = 2
      for (let i = 0; i < count; i++) await client.enqueue('span', { ms: 1_500 })
      await until('they run', async () => worker.stats().running === count)
      way.cut()
      await until('all have run', async () => worker.stats().completed === count)
      await until('it is fenced', async () => log.has('error', 'engine.fenced'))
      way.open()
      await until('all have ended', async () => {
        const [left] = await query<{ n: number }>('select count(*)::int as n from millrace.lease')
        return left!.n === 0
      })
      assert.deepEqual(await query('select run, outcome, count(*)::int as n from millrace.attempts group by 1, 2'), [
        { run: 1, outcome: 'completed', n: count },
      ])
    }),
)

for (const verb of ['stop', 'kill'] as const)
  test(`${verb}() ends although PostgreSQL says nothing`, { timeout: 2 * MINUTE }, () =>
    withGate(async ({ client, engine, until }, way) => {
      const worker = await engine({ database: way.url, nodeLimitMs: 180_000, statementTimeoutMs: 60_000 })
      const { id } = await client.enqueue('wait', 1)
      await until(
        'it runs',
        async () => (await client.console.job(id))?.state !== 'queued' && worker.stats().running === 1,
      )
      way.freeze()
      const open = worker.enqueue('echo', 1).catch((error: { code: string }) => error.code)
      const from = systemClock.steadyMs()
      if (verb === 'stop') await worker.stop(1_000)
      else await worker.kill()
      const tookMs = systemClock.steadyMs() - from
      assert.ok(tookMs < 30_000, `it took ${tookMs} ms`)
      assert.equal(typeof (await open), 'string', 'the enqueue that was under way is refused, not forgotten')
    }),
  )

test('stop() ends although LISTEN is just being connected, and hears nothing', { timeout: MINUTE }, () =>
  withEngines(async ({ url, engine }) => {
    const proxy = await wireProxy(url)
    try {
      const worker = await engine({ database: proxy.url })
      const isListen = (application: string) => application.endsWith(' listen')
      proxy.stall(isListen)
      const again = proxy.seen(({ application, text }) => isListen(application) && text === 'startup')
      proxy.cutSome(isListen)
      await again
      const from = systemClock.steadyMs()
      await worker.stop(1_000)
      const tookMs = systemClock.steadyMs() - from
      assert.ok(tookMs < 30_000, `it took ${tookMs} ms`)
    } finally {
      await proxy.close()
    }
  }),
)
