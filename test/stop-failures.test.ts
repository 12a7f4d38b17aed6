// A stop that fails: whatever cannot be done on the way down, everything below it is still closed, and nothing of the
// engine goes on.

import assert from 'node:assert/strict'
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { systemClock } from '../engine/base/clock.ts'
import { Descent } from '../engine/base/lifecycle.ts'
import { silentLog } from '../engine/base/log.ts'
import { createEngine } from '../engine/index.ts'
import { type Bundle, withBundle } from './support/bundle.ts'
import { endAll } from './support/engine-process.ts'
import { type Gate, gate } from './support/gate.ts'
import { inventory, leftOver } from './support/inventory.ts'
import { FakeLog } from './support/scheduler-fakes.ts'
import { until } from './support/until.ts'

const MINUTE = 60_000
const WITNESS = fileURLToPath(new URL('./tasks/witness.js', import.meta.url))
const MISBEHAVED = fileURLToPath(new URL('./tasks/misbehaved.js', import.meta.url))
const LIFE = { nodeHeartbeatMs: 200, nodeLimitMs: 120_000 }

after(endAll)

async function withGate(run: (bundle: Bundle, way: Gate) => Promise<void>): Promise<void> {
  await withBundle(async (bundle) => {
    const way = await gate(bundle.url)
    try {
      await run(bundle, way)
    } finally {
      way.close()
    }
  })
}

/** A job runs; then PostgreSQL is away, the job ends, and the outbox cannot be written either. */
async function loseEverything({ client, history, folder }: Bundle, way: Gate): Promise<void> {
  const before = history.executions().length
  history.acknowledge((await client.enqueue('witness', { restMs: 500 })).id)
  await until('it runs', () => history.executions().length === before + 1)
  way.cut()
  await until('it has ended', () => history.executions().every(({ endMs }) => endMs < Number.POSITIVE_INFINITY))
  writeFileSync(join(folder, 'outbox'), 'a file where the folder should be')
}

/** The job is there, and whoever comes next runs it. */
async function runsElsewhere({ folder, history, engine, empty, query }: Bundle): Promise<void> {
  const before = history.executions().length
  rmSync(join(folder, 'outbox'))
  await query(`update millrace.node set seen_at = now() - interval '1 hour'`)
  const next = engine()
  await empty()
  assert.equal((await history.check(query)).executions, before + 1)
  await next.stop()
}

test(
  'a stop whose outbox fails closes everything below it, and says the same when asked again',
  {
    timeout: 2 * MINUTE,
  },
  () =>
    withGate(async (bundle, way) => {
      const { schema, folder: dataDir } = bundle
      process.env.MILLRACE_TEST_HISTORY = bundle.history.file
      const options = { database: way.url, schema, tasks: WITNESS, threads: 1, dataDir, ...LIFE }
      const first = createEngine(options) // what is made once per process is there after it
      await first.start()
      bundle.history.acknowledge((await bundle.client.enqueue('witness', null)).id)
      await first.drain()
      await first.stop()
      await bundle.query('select 1')
      const before = inventory()
      const log = new FakeLog()
      const engine = createEngine({ ...options, log })
      await engine.start()
      await loseEverything(bundle, way)
      const failure = await engine.stop(1_000).then(
        () => null,
        (error: { code?: string }) => error,
      )
      assert.equal(failure?.code, 'OUTBOX_FAILED')
      await engine.stopped
      await assert.rejects(engine.stop(), (error) => error === failure)
      await assert.rejects(engine.kill(), (error) => error === failure)
      way.open() // a part that went on would come back now
      await until('its node is silent', async () => {
        const [row] = await bundle.query<{ silent: boolean }>(
          `select seen_at < now() - interval '1500 ms' as silent from millrace.node`,
        )
        return row!.silent
      })
      await until('nothing of it is left', () => {
        assert.deepEqual(leftOver(before), {})
        return true
      })
      await assert.rejects(engine.enqueue('witness', null), { code: 'STOPPING' })
      await runsElsewhere(bundle)
    }),
)

test('the process of an engine whose stop has failed ends by itself', { timeout: 2 * MINUTE }, () =>
  withGate(async (bundle, way) => {
    const engine = bundle.engine({ database: way.url, threads: 1, ...LIFE })
    await engine.ready()
    await loseEverything(bundle, way)
    await assert.rejects(engine.stop(1_000), /outbox/)
    assert.deepEqual(await engine.ended, { code: 0, signal: null })
    way.open()
    await runsElsewhere(bundle)
  }),
)

test('an engine that is fenced while it stops does not come back as another node', { timeout: 2 * MINUTE }, () =>
  withGate(async (bundle, way) => {
    const { client, history, query } = bundle
    const engine = bundle.engine({ database: way.url, threads: 1, nodeHeartbeatMs: 300, nodeLimitMs: 2_000 })
    await engine.ready()
    history.acknowledge((await client.enqueue('witness', { restMs: 3_000 })).id)
    await until('it runs', () => history.executions().length === 1)
    way.cut()
    await engine.line('engine.fenced')
    const stopped = engine.stop(4_000)
    way.open()
    await stopped
    assert.deepEqual(await engine.ended, { code: 0, signal: null })
    const rejoined = engine.lines.filter(({ event }) => event === 'engine.rejoined')
    const nodes = await query('select id from millrace.node')
    assert.ok(nodes.length <= 1, JSON.stringify({ nodes, rejoined }))
    const next = bundle.engine()
    await bundle.empty()
    await next.stop()
  }),
)

test(
  'a thread that cannot be ended, because its handler is in native code, does not keep the rest from closing',
  {
    timeout: 2 * MINUTE,
  },
  () =>
    withBundle(async (bundle) => {
      const { client, query } = bundle
      const go = join(bundle.folder, 'go')
      const engine = bundle.engine({ tasks: MISBEHAVED, threads: 1, ...LIFE })
      await engine.ready()
      const { id } = await client.enqueue('native', { go }, { timeoutMs: 0 })
      await until('it runs', async () => (await engine.stats()).running === 1)
      const fromMs = systemClock.steadyMs()
      const report = await engine.stop(1_000)
      assert.ok(systemClock.steadyMs() - fromMs < 30_000, 'the stop does not wait for the handler')
      assert.equal(report.released, 1)
      assert.equal(engine.isOver, false, 'the thread is still there')
      assert.deepEqual(await query('select id from millrace.node'), [])
      assert.equal((await client.console.job(id))?.state, 'queued')
      writeFileSync(go, '')
      assert.equal((await engine.ended).signal, null)
    }),
)

for (let bad = 0; bad < 4; bad++)
  test(`on the way down every step is taken although step ${bad} fails, and its failure is told at the end`, async () => {
    const descent = new Descent(silentLog)
    const taken: number[] = []
    const answers: unknown[] = []
    for (let at = 0; at < 4; at++)
      answers.push(
        await descent.step(`step ${at}`, () => {
          taken.push(at)
          if (at === bad) throw new Error(`step ${at} fails`)
          return at
        }),
      )
    assert.deepEqual(taken, [0, 1, 2, 3])
    assert.deepEqual(
      answers,
      [0, 1, 2, 3].map((at) => (at === bad ? undefined : at)),
    )
    assert.throws(() => descent.end(), { message: `step ${bad} fails` })
  })

test('of several failures on the way down the first is thrown and the others are logged', async () => {
  const log = new FakeLog()
  const descent = new Descent(log)
  for (const name of ['one', 'two', 'three'])
    await descent.step(name, async () => {
      throw new Error(`${name} fails`)
    })
  assert.throws(() => descent.end(), { message: 'one fails' })
  assert.equal(log.lines.filter(({ event }) => event === 'stop.step_failed').length, 2)
})
