// Stopping: what runs may finish, what has not begun is for others, what is too long is given back uncharged, what was
// done is written, if need be to disk; and afterwards nothing is left, however often it happens.

import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { systemClock } from '../engine/base/clock.ts'
import { createEngine } from '../engine/index.ts'
import { type Bundle, withBundle, withServer } from './support/bundle.ts'
import { endAll } from './support/engine-process.ts'
import { inventory, leftOver } from './support/inventory.ts'
import { until } from './support/until.ts'

const MINUTE = 60_000
const LAUNCHER = fileURLToPath(new URL('../../engine', import.meta.url))
const WITNESS = fileURLToPath(new URL('./tasks/witness.js', import.meta.url))

after(endAll)

test(
  '[TM-035] [TM-093] [TM-037] the first SIGTERM: what runs finishes, the rest goes back as it was, exit code 0',
  {
    timeout: MINUTE,
  },
  () =>
    withBundle(async (bundle) => {
      const { client, history, query } = bundle
      history.acknowledgeMany(await client.enqueueMany('witness', [{ restMs: 1_500 }], { priority: 1 }))
      history.acknowledgeMany(
        await client.enqueueMany(
          'witness',
          Array.from({ length: 50 }, () => ({ spinMs: 1 })),
        ),
      )
      const engine = launch(bundle, ['--threads', '1'])
      await until('the first one runs', () => history.executions().length > 0, 2)
      engine.kill('SIGTERM')
      assert.equal(await endOf(engine), 0)
      const states = await query(
        'select state, attempt, count(*)::int as n from millrace.jobs group by 1, 2 order by 1',
      )
      assert.deepEqual(states, [
        { state: 'completed', attempt: 1, n: 1 },
        { state: 'queued', attempt: 1, n: 50 },
      ])
      assert.equal((await query('select from millrace.attempts')).length, 1, 'what had not begun has no history')
      assert.deepEqual(await query('select id from millrace.node'), [])
      assert.deepEqual(await query('select id from millrace.lease'), [])
      const next = bundle.engine()
      await bundle.empty()
      assert.equal((await history.check(query)).executions, 51)
      await next.stop()
    }),
)

for (const task of ['waiting', 'deaf'] as const) {
  test(
    `[TM-036] [TM-093] a job that outlasts the deadline (${task}) is given back uncharged and runs elsewhere`,
    {
      timeout: MINUTE,
    },
    () =>
      withBundle(async (bundle) => {
        const { client, history, query } = bundle
        const file = join(bundle.folder, 'go')
        const { id } = await client.enqueue(task, file, { maxAttempts: 1 })
        history.acknowledge(id)
        const engine = bundle.engine({ threads: 1 })
        await until('it runs', () => history.executions().length === 1)
        const begunMs = systemClock.steadyMs()
        const report = await engine.stop(1_000)
        assert.ok(systemClock.steadyMs() - begunMs < 10_000, 'the deadline bounds the stop')
        assert.equal(report.released, 1)
        const attempts = () => query('select run, attempt, outcome from millrace.attempts order by run')
        assert.deepEqual(await attempts(), [{ run: 1, attempt: 1, outcome: 'released' }])
        assert.equal((await client.console.job(id))?.state, 'queued')
        assert.equal((await engine.ended).code, 0)
        writeFileSync(file, '')
        const next = bundle.engine()
        await bundle.empty()
        assert.deepEqual(await attempts(), [
          { run: 1, attempt: 1, outcome: 'released' },
          { run: 2, attempt: 1, outcome: 'completed' },
        ])
        await history.check(query)
        await next.stop()
      }),
  )
}

test(
  'PostgreSQL is gone at the stop: outcomes wait on disk, and the next start delivers them without a second run',
  {
    timeout: 2 * MINUTE,
  },
  () =>
    withServer(async (bundle, server) => {
      const { client, history, query } = bundle
      const settings = { threads: 1, nodeLimitMs: 60_000 }
      const engine = bundle.engine(settings)
      await engine.ready()
      history.acknowledgeMany(
        await client.enqueueMany(
          'witness-shared',
          Array.from({ length: 20 }, () => ({ restMs: 800 })),
        ),
      )
      await until('all run', () => history.executions().length === 20)
      await server.stop('fast')
      await until('all have ended', () => history.executions().every(({ endMs }) => endMs < Number.POSITIVE_INFINITY))
      const report = await engine.stop(2_000)
      assert.equal(report.outboxed, 20)
      await engine.ended
      const outbox = join(bundle.folder, 'outbox')
      assert.ok(existsSync(outbox) && readdirSync(outbox).length > 0)
      await server.start()
      const [before] = await query<{ n: number }>('select count(*)::int as n from millrace.attempts')
      assert.equal(before!.n, 0)
      const next = bundle.engine(settings)
      await next.ready()
      const replayed = await next.line('outbox.replayed')
      assert.ok(Number(replayed.facts.sent) > 0 && replayed.facts.left === 0, JSON.stringify(replayed.facts))
      await bundle.empty()
      const verdict = await history.check(query)
      assert.equal(verdict.executions, 20, 'nothing ran twice')
      assert.equal(verdict.lost, 0)
      await next.stop()
      assert.deepEqual(
        await query('select id from millrace.node'),
        [],
        'the node that could not say goodbye is gone too',
      )
    }),
)

const CYCLES = Number(process.env.STOP_CYCLES ?? 500)

test(
  '[TM-034] [TM-055] 500 starts and stops leave no handle, thread, listener, connection or row behind',
  {
    timeout: 5 * MINUTE,
  },
  (t) =>
    withBundle(async (bundle) => {
      const { database, schema } = { database: bundle.url, schema: bundle.schema }
      const options = { database, schema, tasks: WITNESS, threads: 1, dataDir: bundle.folder }
      process.env.MILLRACE_TEST_HISTORY = bundle.history.file
      const cycle = async (work: boolean) => {
        const engine = createEngine(options)
        await engine.start()
        if (work) {
          bundle.history.acknowledge((await engine.enqueue('witness', null)).id)
          await engine.drain()
        }
        await engine.stop()
      }
      for (let n = 0; n < 10; n++) await cycle(true) // what is made once per process is there now
      const [before, beganMs] = [inventory(), systemClock.steadyMs()]
      for (let n = 0; n < CYCLES; n++) await cycle(n % 10 === 0)
      const tookMs = systemClock.steadyMs() - beganMs
      t.diagnostic(
        `${CYCLES} cycles took ${Math.round(tookMs)} ms, resident ${Math.round(process.memoryUsage.rss() / 2 ** 20)} MiB`,
      )
      await until('all is as it was', () => {
        assert.deepEqual(inventory(), before)
        return true
      })
      for (const table of ['node', 'lease', 'flushed', 'running']) {
        assert.deepEqual(await bundle.query(`select * from millrace.${table}`), [], table)
      }
      const open = await bundle.query<{ n: number }>(
        `select count(*)::int as n from pg_stat_activity where application_name like 'millrace%' and query like $1`,
        [`%${schema}%`],
      )
      assert.equal(open[0]!.n, 0)
      await bundle.history.check(bundle.query)
    }),
)

test('a stop amid a start ends both and leaves nothing behind', { timeout: 2 * MINUTE }, () =>
  withBundle(async (bundle) => {
    const options = { database: bundle.url, schema: bundle.schema, tasks: WITNESS, threads: 1, dataDir: bundle.folder }
    const whole = createEngine(options)
    await whole.start()
    await whole.stop()
    const before = inventory()
    for (let waitMs = 0; waitMs < 80; waitMs += 2) {
      const engine = createEngine(options)
      const started = engine.start().then(
        () => 'started',
        (error: { code?: string }) => error.code,
      )
      await systemClock.sleep(waitMs)
      await engine.stop()
      assert.match(String(await started), /^(started|STOPPING)$/)
      await engine.stopped
    }
    await until('nothing is left', () => {
      assert.deepEqual(leftOver(before), {})
      return true
    })
    for (const table of ['node', 'lease', 'flushed']) {
      assert.deepEqual(await bundle.query(`select * from millrace.${table}`), [], table)
    }
  }),
)

/** The command line's `start` on the bundle's schema. */
function launch(bundle: Bundle, words: readonly string[]): ChildProcess {
  const tasks = join(bundle.folder, 'tasks')
  mkdirSync(tasks)
  writeFileSync(join(tasks, 'all.mjs'), `export * from ${JSON.stringify(WITNESS)}`)
  const child = spawn(process.execPath, [LAUNCHER, 'start', ...words], {
    cwd: bundle.folder,
    env: { ...process.env, ...bundle.history.env, DATABASE_URL: bundle.url, MILLRACE_SCHEMA: bundle.schema },
    stdio: 'ignore',
  })
  return child
}

function endOf(child: ChildProcess): Promise<number | null> {
  return new Promise((resolve) => {
    child.on('exit', resolve)
  })
}
