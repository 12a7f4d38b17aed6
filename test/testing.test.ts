// millrace/testing: an engine whose time the test moves. The database is the one of the other tests.

import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { systemClock } from '../engine/base/clock.ts'
import { createClient, defineTask } from '../engine/index.ts'
import { createTestKit, type TestKit, type TestKitOptions, waitForJob } from '../engine/testing/index.ts'
import { openTestDatabase } from './support/database.ts'
import { codeFrom, TASKS } from './support/engine.ts'

const MINUTE = 60_000
const HOUR = 60 * MINUTE
const NINE = Date.UTC(2026, 2, 2, 9)

const db = await openTestDatabase()
after(() => db.close())

const note = defineTask({ name: 'note', run: ({ text }: { text: string }) => ({ text }) })
let failuresLeft = 0
const flaky = defineTask({
  name: 'flaky',
  retry: { kind: 'fixed', delayMs: 5 * MINUTE },
  run: () => {
    if (failuresLeft-- > 0) throw new Error('not yet')
    return 'at last'
  },
})
const never = defineTask({
  name: 'never',
  timeoutMs: HOUR,
  maxAttempts: 1,
  run: (_: null, ctx) =>
    new Promise((_resolve, reject) => ctx.signal.addEventListener('abort', () => reject(ctx.signal.reason))),
})
const tasks = [note, flaky, never] as const

async function withKit(run: (kit: TestKit<Record<string, unknown>>) => Promise<void>, options: TestKitOptions = {}) {
  const kit = await createTestKit({ tasks, database: db.url, startAt: NINE, patienceMs: 300, ...options })
  try {
    await run(kit as TestKit<Record<string, unknown>>)
  } finally {
    await kit.close()
  }
}

/** The machine's time that this took. */
async function tookMs(work: () => Promise<unknown>): Promise<number> {
  const fromMs = systemClock.steadyMs()
  await work()
  return systemClock.steadyMs() - fromMs
}

test('a job that is due in three days runs when three days are let pass, not before, and at its time', () =>
  withKit(async (kit) => {
    const runAt = new Date(NINE + 3 * 24 * HOUR)
    const { id } = await kit.enqueue('note', { text: 'later' }, { runAt })
    await kit.advance('71h')
    await kit.assertWaiting(id)
    assert.equal((await kit.engine.console.job(id))!.state, 'scheduled')
    await kit.advance('2h')
    const job = await waitForJob(kit.engine, id)
    assert.deepEqual([job.state, job.result], ['completed', { text: 'later' }])
    assert.ok(job.startedAt! >= runAt && job.startedAt!.getTime() < runAt.getTime() + MINUTE, String(job.startedAt))
    assert.ok(job.finishedAt! >= job.startedAt!)
    assert.ok(kit.now().getTime() >= NINE + 73 * HOUR)
  }))

test('retries wait for their backoff, and each comes in its time', () =>
  withKit(async (kit) => {
    failuresLeft = 2
    const { id } = await kit.enqueue('flaky', null)
    await kit.drain()
    assert.equal((await kit.engine.console.job(id))!.state, 'retrying')
    await kit.advance('4m')
    assert.equal((await kit.engine.console.job(id))!.attempt, 2)
    await kit.assertWaiting({ task: 'flaky' })
    await kit.advance('7m')
    const job = await kit.waitForJob(id, { state: 'completed' })
    assert.equal(job.attempt, 3)
    assert.ok(job.finishedAt!.getTime() >= NINE + 10 * MINUTE && job.finishedAt!.getTime() < NINE + 11 * MINUTE)
  }))

test('drain with advance runs retries and delayed jobs at once, whatever they wait for', () =>
  withKit(async (kit) => {
    failuresLeft = 1
    const first = await kit.enqueue('flaky', null)
    const second = await kit.enqueue('note', { text: 'in a week' }, { delayMs: 7 * 24 * HOUR })
    await kit.drain()
    await kit.assertWaiting(second.id)
    await kit.drain({ advance: true })
    await kit.assertCompleted({ id: first.id, result: 'at last' })
    await kit.assertCompleted(second.id)
  }))

test('a schedule fires at the next nine o clock, when that is reached', () =>
  withKit(async (kit) => {
    await kit.engine.schedules.create({ id: 'daily', task: 'note', cron: '0 9 * * *', payload: { text: 'morning' } })
    await kit.advance('23h')
    await kit.assertNotEnqueued({ task: 'note' })
    await kit.advance('61m')
    const [job] = await kit.assertCompleted({ task: 'note', payload: { text: /morn/ }, count: 1 })
    const [run] = await kit.engine.schedules.history('daily')
    assert.equal(run!.scheduledAt.getTime(), NINE + 24 * HOUR)
    assert.equal(run!.jobId, job!.id)
  }))

test('a day of a schedule that fires every ten minutes passes in seconds, with every occurrence at its time', () =>
  withKit(async (kit) => {
    await kit.engine.schedules.create({ id: 'often', task: 'note', cron: '*/10 * * * *', payload: { text: 'tick' } })
    const ms = await tookMs(() => kit.advance('1d'))
    await kit.assertCompleted({ task: 'note', count: 144 })
    for (const { lateMs } of await kit.engine.schedules.history('often', { limit: 200 }))
      assert.ok(lateMs >= 0 && lateMs < MINUTE, `${lateMs} ms late`)
    assert.ok(ms < 60_000, `${ms} ms`)
  }))

test('a jitter is waited for', () =>
  withKit(async (kit) => {
    const jitterMs = 30 * MINUTE
    await kit.engine.schedules.create({ task: 'note', cron: '0 * * * *', payload: { text: 'spread' }, jitterMs })
    await kit.advance('4h')
    const jobs = await kit.assertCompleted({ task: 'note' })
    assert.ok(jobs.length === 3 || jobs.length === 4, String(jobs.length))
  }))

test('a timeout of an hour ends a handler that waits, when the hour is over', () =>
  withKit(async (kit) => {
    const { id } = await kit.enqueue('never', null)
    await kit.advance('59m')
    await kit.waitForJob(id, { state: 'running' })
    await kit.advance('2m')
    const [job] = await kit.assertDead(id)
    assert.equal((job!.error as { code: string }).code, 'TASK_TIMED_OUT')
    assert.ok(Math.abs(job!.finishedAt!.getTime() - (NINE + HOUR)) < MINUTE, String(job!.finishedAt))
  }))

test('a job that nobody could run in time is a dead letter once its time has passed', () =>
  withKit(async (kit) => {
    await kit.engine.console.queue.pause('default')
    const { id } = await kit.enqueue('note', { text: 'stale' }, { expiresAt: new Date(NINE + 10 * MINUTE) })
    await kit.advance('9m')
    await kit.assertWaiting(id)
    await kit.advance('2m')
    const [job] = await kit.assertDead({ id })
    assert.equal(job!.state, 'expired')
    assert.ok(Math.abs(job!.finishedAt!.getTime() - (NINE + 10 * MINUTE)) < MINUTE, String(job!.finishedAt))
  }))

test('on threads jobs are timed by the moved clock too, and an hour that a handler waited counts', () =>
  withKit(
    async (kit) => {
      const { id } = await kit.enqueue('echo', { a: 1 }, { delayMs: 2 * HOUR })
      await kit.advance('3h')
      const job = await kit.waitForJob(id, { state: 'completed' })
      assert.ok(Math.abs(job.startedAt!.getTime() - (NINE + 2 * HOUR)) < MINUTE, String(job.startedAt))
    },
    { tasks: fileURLToPath(TASKS) },
  ))

test('an idempotency key is taken until its job has ended', () =>
  withKit(async (kit) => {
    const options = { idempotencyKey: 'once', delayMs: HOUR }
    await kit.enqueue('note', { text: 'a' }, options)
    assert.equal(await codeFrom(() => kit.enqueue('note', { text: 'b' }, options)), 'DUPLICATE_TASK')
    await kit.advance('2h')
    await kit.enqueue('note', { text: 'c' }, options)
    await kit.assertEnqueued({ idempotencyKey: 'once', count: 2 })
  }))

test('what a piece of code enqueues is told, also by another client and in a transaction of its own', () =>
  withKit(async (kit) => {
    await kit.enqueue('note', { text: 'before' })
    const other = createClient({ ...kit.connection })
    const own = new pg.Client({ connectionString: db.url }) // nothing of the kit: just SQL
    await own.connect()
    try {
      const { result, jobs } = await kit.enqueuedBy(async () => {
        await other.enqueue('note', { text: 'by a client' }, { delayMs: HOUR })
        await own.query('begin')
        await own.query(`select "${kit.connection.schema}".enqueue('note', '{"text":"by SQL"}', run_at => $1)`, [
          new Date(NINE + 2 * HOUR),
        ])
        await own.query('commit')
        return 42
      })
      assert.equal(result, 42)
      assert.deepEqual(jobs.map(({ payload }) => payload).sort(byText), [{ text: 'by SQL' }, { text: 'by a client' }])
      for (const { createdAt } of jobs) assert.ok(createdAt.getTime() - NINE < MINUTE)
      await kit.advance('90m')
      await kit.assertCompleted({ payload: { text: 'by a client' } })
      await kit.assertWaiting({ payload: { text: 'by SQL' } })
      await kit.advance('31m')
      await kit.assertCompleted({ payload: { text: 'by SQL' } })
    } finally {
      await other.close()
      await own.end()
    }
  }))

test('an assertion that fails tells what there is instead', () =>
  withKit(async (kit) => {
    await assert.rejects(kit.assertEnqueued({ task: 'note' }), /expected a job enqueued.*There are no jobs at all/)
    const { id } = await kit.enqueue('note', { text: 'here' })
    await kit.drain()
    await assert.rejects(
      kit.assertEnqueued({ task: 'note', payload: { text: 'there' } }),
      /"text":"there".*0 found. There are:\n {2}\d+ note in default, completed: \{"text":"here"\}/,
    )
    await assert.rejects(kit.assertNotEnqueued({ task: 'note' }), /expected 0 jobs enqueued/)
    await assert.rejects(kit.assertDead(id), /expected a job dead/)
    await assert.rejects(kit.waitForJob(id, { state: 'failed' }), /is completed, never will be failed\n/)
    await kit.assertCompleted({ task: 'note', payload: (it: unknown) => (it as { text: string }).text.length === 4 })
    failuresLeft = 1
    const dying = await kit.enqueue('flaky', null, { maxAttempts: 1 })
    await assert.rejects(kit.waitForJob(dying.id, { state: 'completed' }), /TASK_THREW: not yet|not yet/)
    await kit.assertDead({ task: 'flaky' })
  }))

test('a wait is bounded, and so is a drain: each tells what is left', () =>
  withKit(async (kit) => {
    const { id } = await kit.enqueue('never', null)
    await assert.rejects(kit.waitForJob(id, { timeoutMs: 50 }), /not ended within 50 ms/)
    assert.equal(await codeFrom(() => kit.drain({ timeoutMs: 50 })), 'STOP_TIMEOUT')
    assert.equal(await codeFrom(() => kit.waitForJob(123456)), 'JOB_NOT_FOUND')
  }))

test('a span that is none is refused, and time does not go back', () =>
  withKit(async (kit) => {
    for (const span of ['soon', -1, Number.NaN, '1w', ''])
      assert.equal(await codeFrom(() => kit.advance(span)), 'VALIDATION')
    assert.equal(await codeFrom(() => kit.advanceTo(NINE - 1)), 'VALIDATION')
    await kit.advanceTo(NINE + HOUR)
    assert.ok(kit.now().getTime() >= NINE + HOUR)
  }))

test('two kits stand beside each other, each with a time of its own, and leave nothing behind', async () => {
  await withKit(async (one) => {
    await withKit(async (other) => {
      await one.advance('1d')
      assert.ok(one.now().getTime() - other.now().getTime() > 23 * HOUR)
      const { id } = await other.enqueue('note', { text: 'here' })
      await other.drain()
      assert.ok((await other.engine.console.job(id))!.finishedAt!.getTime() < NINE + HOUR)
    })
  })
  const left = await db.query<{ n: string }>(`select nspname as n from pg_namespace where nspname like $1`, [
    `millrace_test_${process.pid}_%`,
  ])
  assert.deepEqual(left, [])
})

function byText(a: unknown, b: unknown): number {
  return (a as { text: string }).text < (b as { text: string }).text ? -1 : 1
}
