// The life of a job through the public API, on real threads and a real PostgreSQL: success, failure, retries, dead
// letters and their return, expiry, priorities, what a handler sees, and who wakes whom.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { threadId } from 'node:worker_threads'
import { createClient, createEngine, defineTask, type Log, type TaskContext } from '../engine/index.ts'
import { codeFrom, type EngineBundle, TASKS, withEngines } from './support/engine.ts'
import { careful } from './tasks/public.ts'

const HOUR = 3_600_000
const POSITIONS = ['ready', 'scheduled', 'blocked', 'lease', 'dead', 'key', 'hold']

/** Every attempt of a job as the public view shows it. */
function attempts({ query }: EngineBundle, id: number) {
  return query<{
    attempt: number
    run: number
    outcome: string
    started_at: Date
    finished_at: Date
    error: { code: string; message: string } | null
  }>('select * from millrace.attempts where job_id = $1 order by run', [id])
}

test('[TM-022] [TM-077] a job that is done has its result and stands nowhere else any more', async () => {
  await withEngines(async (bundle) => {
    const engine = await bundle.engine()
    const { id } = await bundle.client.enqueue('echo', { a: [1] }, { idempotencyKey: 'k', group: 'g' })
    const job = await bundle.inState(id, 'completed')
    assert.deepEqual(job.result, { a: [1] })
    assert.equal(job.error, null)
    assert.ok(job.startedAt! <= job.finishedAt!)
    const [attempt, ...others] = await attempts(bundle, id)
    assert.equal(others.length, 0)
    assert.equal(attempt!.outcome, 'completed')
    await engine.drain()
    assert.equal(await bundle.count(...POSITIONS), 0)
    assert.equal(engine.stats().completed, 1)
  })
})

test('[TM-023] a job that fails waits for its retry, with its attempt counted', async () => {
  await withEngines(async (bundle) => {
    await bundle.engine()
    const { id } = await bundle.client.enqueue('careful', 1)
    const job = await bundle.inState(id, 'retrying')
    assert.equal(job.attempt, 2)
    assert.ok(job.runAt!.getTime() - job.finishedAt!.getTime() > 23 * HOUR)
    const [attempt] = await attempts(bundle, id)
    assert.equal(attempt!.outcome, 'failed')
    assert.equal(attempt!.error!.code, 'TASK_THREW')
    assert.equal(attempt!.error!.message, 'careful')
    const [queue] = await bundle.client.console.queues()
    assert.deepEqual([queue!.retrying, queue!.available, queue!.inFlight, queue!.dead], [1, 0, 0, 0])
  })
})

test('[TM-025] [TM-130] a task that nobody knows waits; a node told to claim it fails it as not registered', async () => {
  await withEngines(async ({ client, engine, inState, query }) => {
    const careless = await engine()
    const { id } = await client.enqueue('nobody', 1, { maxAttempts: 1 })
    const known = await client.enqueue('echo', 1)
    await inState(known.id, 'completed')
    await careless.drain()
    assert.equal((await client.console.job(id))!.state, 'queued')
    await careless.stop()
    await engine({ tasks: [], claimUnknown: true })
    const job = await inState(id, 'failed')
    assert.equal((job.error as { code: string }).code, 'TASK_NOT_REGISTERED')
    assert.equal((await query('select code from millrace.dead_letters'))[0]!.code, 'TASK_NOT_REGISTERED')
  })
})

test('[TM-027] a handler receives the payload as it was given', async () => {
  const payload = { a: [1, { b: null, c: [[], {}] }], d: 'x', e: { f: { g: -0.5 } }, h: true }
  await withEngines(async ({ client, engine, inState }) => {
    await engine()
    const { id } = await client.enqueue('echo', payload)
    assert.deepEqual((await inState(id, 'completed')).result, payload)
    const { id: none } = await client.enqueue('type-of', undefined)
    assert.equal((await inState(none, 'completed')).result, 'object') // null
  })
})

test('[TM-038] [TM-040] the default policy waits 1 s, 2 s, 4 s, 8 s; each retry is one attempt more', async () => {
  await withEngines(async (bundle) => {
    const { client, engine, inState, query, until } = bundle
    await engine()
    const { id } = await client.enqueue('fail', 1, { maxAttempts: 5 })
    for (const [at, seconds] of [1, 2, 4, 8].entries()) {
      const [row] = await until(`retry ${at + 1} waits`, async () => {
        const rows = await query<{ seconds: number; attempt: number }>(
          `select extract(epoch from s.run_at - a.finished_at)::float8 as seconds, s.attempt::int as attempt
           from millrace.scheduled s join millrace.attempt a on a.job_id = s.first_id where a.attempt = $1 and s.attempt = $1 + 1`,
          [at + 1],
        )
        return rows.length > 0 && rows
      })
      assert.ok(row!.seconds > seconds * 0.95 && row!.seconds < seconds * 1.9, `${row!.seconds} s after ${at + 1}`)
      await query('update millrace.scheduled set run_at = now()')
      await query(`select pg_notify('millrace_${bundle.schema}', 's')`)
    }
    await inState(id, 'failed')
    assert.deepEqual(
      (await attempts(bundle, id)).map(({ attempt, run, outcome }) => [attempt, run, outcome]),
      [1, 2, 3, 4, 5].map((at) => [at, at, 'failed']),
    )
  })
})

test('[TM-039] [TM-079] [TM-104] [TM-106] the last failed attempt makes a dead letter that says why', async () => {
  await withEngines(async (bundle) => {
    await bundle.engine()
    for (const maxAttempts of [2, 3]) {
      const { id } = await bundle.client.enqueue('flaky', { failures: 9 }, { maxAttempts })
      await bundle.inState(id, 'failed')
      assert.equal((await attempts(bundle, id)).length, maxAttempts)
      const [letter] = await bundle.client.console.dead.list({ id })
      assert.equal(letter!.code, 'TASK_THREW')
      assert.equal(letter!.attempts, maxAttempts)
      assert.equal((letter!.reason as { message: string }).message, `failure ${maxAttempts} as asked`)
      assert.match((letter!.reason as { stack: string }).stack, /public\.js/)
    }
  })
})

test('[TM-078] a failure and then success: the result is of the second attempt', async () => {
  await withEngines(async (bundle) => {
    await bundle.engine()
    const { id } = await bundle.client.enqueue('flaky', { failures: 1 })
    const job = await bundle.inState(id, 'completed')
    assert.deepEqual(job.result, { attempt: 2, run: 2 })
    assert.equal(job.attempt, 2)
    assert.deepEqual(
      (await attempts(bundle, id)).map(({ outcome }) => outcome),
      ['failed', 'completed'],
    )
  })
})

test('[TM-063] [TM-080] [TM-110] [TM-111] a dead letter that is requeued begins anew and completes', async () => {
  let broken = true
  const mended = defineTask({
    name: 'mended',
    inline: true,
    maxAttempts: 2,
    retry: { kind: 'fixed', delayMs: 0 },
    run: (_payload: unknown, { attempt, run }: TaskContext) => {
      if (broken) throw new Error('not yet')
      return { attempt, run }
    },
  })
  await withEngines(async (bundle) => {
    const engine = await bundle.engine({ tasks: [mended] })
    const { id } = await engine.enqueue('mended', 1)
    await bundle.inState(id, 'failed')
    assert.equal(await bundle.count('dead'), 1)
    broken = false
    assert.equal((await bundle.client.console.dead.requeue({ id })).requeued, 1)
    const job = await bundle.inState(id, 'completed')
    assert.deepEqual(job.result, { attempt: 1, run: 3 })
    assert.equal(await bundle.count('dead'), 0)
    assert.equal((await attempts(bundle, id)).length, 3)
  })
})

test('[TM-082] an ephemeral job that completes leaves nothing; one that dies is a dead letter like any other', async () => {
  await withEngines(async ({ client, engine, count, until, inState }) => {
    const worker = await engine()
    const { ids } = await client.enqueueMany('echo', [1, 2, 3], { ephemeral: true })
    await client.enqueue('echo', 4, { ephemeral: true, idempotencyKey: 'k', group: 'g' })
    await client.enqueue('flaky', { failures: 1 }, { ephemeral: true })
    await until('they are done', async () => worker.stats().completed === 5)
    await worker.drain()
    assert.equal(await count('job', 'attempt', ...POSITIONS), 0)
    assert.equal(await client.console.job(ids[0]!.first), null)
    const dying = await client.enqueue('fail', 1, { ephemeral: true, maxAttempts: 1 })
    await inState(dying.id, 'failed')
    assert.equal(await count('dead'), 1)
    assert.equal((await client.console.dead.requeue({ id: dying.id })).requeued, 1)
    await inState(dying.id, 'failed')
  })
})

test('[TM-083] the higher priority runs first, whatever was enqueued first', async () => {
  await withEngines(async ({ client, engine, inState }) => {
    const ids = new Map<number, number>()
    for (const priority of [-50, 0, 50, -100, 100, 1])
      ids.set(priority, (await client.enqueue('count', null, { priority })).id)
    await engine()
    const turns: [number, number][] = []
    for (const [priority, id] of ids) turns.push([(await inState(id, 'completed')).result as number, priority])
    assert.deepEqual(
      turns.sort((a, b) => a[0] - b[0]).map(([, priority]) => priority),
      [100, 50, 1, 0, -50, -100],
    )
  })
})

test('jobs of one priority run in the order in which they were enqueued', async () => {
  await withEngines(async ({ client, engine, inState }) => {
    const ids: number[] = []
    for (let at = 0; at < 20; at++) ids.push((await client.enqueue('count', null)).id)
    await engine()
    const turns: number[] = []
    for (const id of ids) turns.push((await inState(id, 'completed')).result as number)
    assert.deepEqual(
      turns,
      [...turns].sort((a, b) => a - b),
    )
  })
})

test('[TM-084] [TM-132] a job that is due later runs then and not before', async () => {
  await withEngines(async ({ client, engine, inState, count }) => {
    const worker = await engine()
    const dueAtMs = Date.now() + 1_200
    const soon = await client.enqueue('echo', 1, { runAt: dueAtMs })
    const { ids } = await client.enqueueMany('echo', [1, 2, 3, 4, 5], { delayMs: HOUR })
    await worker.drain()
    assert.equal((await client.console.job(ids[0]!.first))!.state, 'scheduled')
    const job = await inState(soon.id, 'completed')
    assert.ok(job.startedAt!.getTime() >= dueAtMs, `${job.startedAt!.getTime() - dueAtMs} ms`)
    assert.equal(await count('scheduled'), 1)
    const [queue] = await client.console.queues()
    assert.deepEqual([queue!.scheduled, queue!.available, queue!.oldestWaitingMs], [5, 0, null])
  })
})

test('[TM-085] [TM-105] [TM-120] a job whose time has passed is a dead letter and was never run', async () => {
  await withEngines(async (bundle) => {
    await bundle.engine()
    const { id } = await bundle.client.enqueue('echo', 1, { expiresAt: Date.now() - 1_000 })
    const job = await bundle.inState(id, 'expired')
    assert.equal((job.error as { code: string }).code, 'TASK_EXPIRED')
    assert.equal(job.startedAt, null)
    const [letter] = await bundle.client.console.dead.list()
    assert.equal(letter!.code, 'TASK_EXPIRED')
    assert.equal(letter!.id, id)
  })
})

test('[TM-122] expiresAt ends an attempt that still runs then', async () => {
  await withEngines(async (bundle) => {
    await bundle.engine()
    const expiresAt = Date.now() + 2_000
    const { id } = await bundle.client.enqueue('wait', 1, { expiresAt })
    await bundle.inState(id, 'expired')
    const [attempt] = await attempts(bundle, id)
    assert.equal(attempt!.outcome, 'timed_out')
    assert.ok(attempt!.started_at.getTime() < expiresAt)
    assert.ok(attempt!.finished_at.getTime() >= expiresAt)
    assert.equal((await bundle.client.console.dead.list({ id }))[0]!.code, 'TASK_EXPIRED')
  })
})

test('[TM-125] with one attempt the first failure is the last', async () => {
  await withEngines(async (bundle) => {
    await bundle.engine()
    const { id } = await bundle.client.enqueue('careful', 1, { maxAttempts: 1 })
    await bundle.inState(id, 'failed')
    assert.equal((await attempts(bundle, id)).length, 1)
    assert.deepEqual(
      (await bundle.client.console.dead.list()).map((letter) => [letter.id, letter.code, letter.attempts]),
      [[id, 'TASK_THREW', 1]],
    )
  })
})

test('[TM-126] of a hundred attempts the last is as good as the first', async () => {
  await withEngines(async (bundle) => {
    await bundle.engine({ pollMs: 10, pollMaxMs: 10 })
    const lucky = await bundle.client.enqueue('flaky', { failures: 99 }, { maxAttempts: 100 })
    const doomed = await bundle.client.enqueue('flaky', { failures: 100 }, { maxAttempts: 100 })
    assert.deepEqual((await bundle.inState(lucky.id, 'completed')).result, { attempt: 100, run: 100 })
    await bundle.inState(doomed.id, 'failed')
    for (const { id } of [lucky, doomed]) assert.equal((await attempts(bundle, id)).length, 100)
  })
})

test('[TM-127] [TM-131] [TM-133] [TM-109] with nothing to do, only dead letters, or all in flight: nothing is run', async () => {
  await withEngines(async ({ client, engine, count, until }) => {
    const worker = await engine()
    await worker.drain()
    const { ids } = await client.enqueueMany('fail', [1, 2, 3, 4, 5], { maxAttempts: 1 })
    await until('all are dead', async () => (await count('dead')) === 5)
    await worker.drain()
    const holding = (await client.enqueueMany('wait', [1, 2, 3])).ids
    await until('all are held', async () => worker.stats().running === 3)
    const second = await engine()
    await second.drain()
    assert.equal(second.stats().completed + second.stats().failed, 0)
    assert.equal(worker.stats().failed, 5)
    const [queue] = await client.console.queues()
    assert.deepEqual([queue!.inFlight, queue!.dead, queue!.available], [3, 5, 0])
    assert.equal(await client.console.cancel(ids[0]!.first), 'finished')
    for (let at = 0; at < 3; at++) assert.equal(await client.console.cancel(holding[0]!.first + at), 'signalled')
    await worker.drain()
  })
})

test('a handler sees its job, attempt and run', async () => {
  await withEngines(async ({ client, engine, inState }) => {
    await engine()
    const options = { queue: 'q', maxAttempts: 4, group: 'g', meta: { tenant: 7, traceparent: 't' } }
    const { id } = await client.enqueue('see', 1, options)
    const job = await inState(id, 'completed')
    assert.deepEqual(job.result, {
      id,
      task: 'see',
      queue: 'q',
      createdAt: job.createdAt.toISOString(),
      maxAttempts: 4,
      group: 'g',
      meta: { tenant: 7, traceparent: 't' },
      attempt: 1,
      run: 1,
      aborted: false,
    })
    const { id: bare } = await client.enqueue('see', 1)
    assert.deepEqual(((await inState(bare, 'completed')).result as { meta: unknown }).meta, {})
  })
})

test('a policy given with the job goes before that of its task', async () => {
  await withEngines(async (bundle) => {
    await bundle.engine()
    const quick = await bundle.client.enqueue('careful', 1, {
      maxAttempts: 3,
      retry: { kind: 'table', delaysMs: [0, 1] },
    })
    const never = await bundle.client.enqueue('careful', 1, { maxAttempts: 3, retry: { kind: 'none' } })
    await bundle.inState(quick.id, 'failed')
    assert.equal((await attempts(bundle, quick.id)).length, 3)
    await bundle.inState(never.id, 'failed')
    assert.equal((await attempts(bundle, never.id)).length, 1)
  })
})

test("the task's queue and attempts are the defaults, for an engine and for a client, whether it has the task or not", async () => {
  await withEngines(async ({ base, engine, inState, another }) => {
    const early = createEngine({ ...base, tasks: TASKS, threads: 1 })
    try {
      await early.enqueue('careful', 0) // before its files are read nobody knows
      await early.start()
      const worker = await engine({ queues: ['none'] })
      const told = createClient({ ...base, tasks: [careful] as const })
      try {
        for (const { id } of [
          await early.enqueue('careful', 1),
          await worker.enqueue('careful', 1),
          await told.enqueue('careful', 1),
        ]) {
          const job = await inState(id, 'retrying')
          assert.equal(job.queue, 'special')
          assert.equal(job.maxAttempts, 7)
        }
      } finally {
        await told.close()
      }
      const job = await inState((await another().enqueue('careful', 1)).id, 'retrying')
      assert.equal(job.queue, 'special')
      assert.equal(job.maxAttempts, 7)
    } finally {
      await early.stop()
    }
  })
})

test('results that cannot be stored fail for good; what only looks odd is stored', async () => {
  await withEngines(async (bundle) => {
    await bundle.engine({ resultBytesMax: 2_000 })
    for (const [task, payload, code] of [
      ['zero', 'value', 'RESULT_INVALID'],
      ['zero', 'key', 'RESULT_INVALID'],
      ['half', 1, 'RESULT_INVALID'],
      ['echo', 'x'.repeat(2_001), 'RESULT_TOO_LARGE'],
    ] as const) {
      const { id } = await bundle.client.enqueue(task, payload)
      const job = await bundle.inState(id, 'failed')
      assert.equal((job.error as { code: string }).code, code)
      assert.equal((await attempts(bundle, id)).length, 1)
    }
    const { id: pair } = await bundle.client.enqueue('echo', '\u{1f600} and \\ud800')
    await bundle.inState(pair, 'completed')
    const { id: exact } = await bundle.client.enqueue('echo', 'x'.repeat(1_998))
    await bundle.inState(exact, 'completed')
  })
})

test('a client in another process wakes an engine that would not look for an hour', async () => {
  await withEngines(async ({ another, engine, inState }) => {
    await engine({ pollMs: 60_000, pollMaxMs: 3_600_000 })
    const client = another()
    for (const options of [{}, { queue: 'new here' }, { group: 'g' }, { idempotencyKey: 'k' }])
      await inState((await client.enqueue('echo', 1, options)).id, 'completed')
    for (const options of [{ delayMs: 300 }, { delayMs: 300, queue: 'new later' }])
      await inState((await client.enqueue('echo', 1, options)).id, 'completed')
    const { ids } = await client.enqueueMany('echo', Array.from({ length: 300 }, String))
    await inState(ids.at(-1)!.first, 'completed')
  })
})

test('a delayed job wakes the engine that serves its queue, whichever engine sees first that it is due', async () => {
  await withEngines(async ({ another, engine, inState }) => {
    const seldom = { pollMs: 60_000, pollMaxMs: 3_600_000 }
    for (const queue of ['a', 'b', 'c']) await engine({ ...seldom, queues: [queue] })
    const client = another()
    const ids: number[] = []
    for (const queue of ['a', 'b', 'c', 'a', 'b', 'c'])
      ids.push((await client.enqueue('echo', 1, { queue, delayMs: 300 })).id)
    for (const id of ids) await inState(id, 'completed')
  })
})

test('without LISTEN an engine finds its work by polling', async () => {
  await withEngines(async ({ another, engine, inState }) => {
    await engine({ listen: false, pollMs: 50, pollMaxMs: 200 })
    for (const options of [{}, { delayMs: 100 }])
      await inState((await another().enqueue('echo', 1, options)).id, 'completed')
  })
})

test('an engine serves only the queues that it was given', async () => {
  await withEngines(async ({ client, engine, inState }) => {
    const worker = await engine({ queues: ['a', 'b'] })
    const other = await client.enqueue('echo', 1, { queue: 'c' })
    for (const queue of ['b', 'a']) await inState((await client.enqueue('echo', 1, { queue })).id, 'completed')
    await worker.drain()
    assert.equal((await client.console.job(other.id))!.state, 'queued')
  })
})

test('a long job is shown as running, with its progress; cancel fires its signal and it counts as cancelled', async () => {
  await withEngines(async ({ client, engine, inState, until }) => {
    const worker = await engine()
    const { id } = await client.enqueue('wait', 'x')
    await until('it runs', async () => worker.stats().running === 1)
    await inState(id, 'running')
    const { events } = await until('its progress is known', async () => {
      const life = await client.console.explain(id)
      return /progress/.test(life.events.at(-1)!.why) && life
    })
    assert.equal(events.at(-1)!.state, 'running')
    assert.match(events.at(-1)!.why, /"done":3/)
    assert.equal(await client.console.cancel(id, 'no longer wanted'), 'signalled')
    const job = await inState(id, 'cancelled')
    assert.equal((job.error as { code: string }).code, 'TASK_CANCELLED')
    assert.equal(await client.console.cancel(id), 'finished')
  })
})

test('inline tasks run on the main thread and see, end and fail like others; the log says what they cost', async () => {
  const seen: unknown[] = []
  const near = defineTask({
    name: 'near',
    inline: true,
    run: async (payload: { n: number }, ctx: TaskContext) => {
      seen.push([threadId, payload.n, ctx.attempt])
      ctx.log.info({ n: payload.n }, 'near.here')
      ctx.progress({ n: payload.n })
      ctx.heartbeat()
      return { ...ctx.job, n: payload.n }
    },
  })
  const falls = defineTask({
    name: 'falls',
    inline: true,
    maxAttempts: 2,
    retry: { kind: 'fixed', delayMs: 0 },
    run: (): never => {
      throw new TypeError('inline')
    },
  })
  const late = defineTask({
    name: 'late',
    inline: true,
    maxAttempts: 1,
    timeoutMs: 50,
    run: (_payload: unknown, { signal }: TaskContext) =>
      new Promise<never>((_, reject) => signal.addEventListener('abort', () => reject(signal.reason))),
  })
  const lines: { facts: object; event: string }[] = []
  const write = (facts: object, event: string) => {
    lines.push({ facts, event })
  }
  const log: Log = { debug: write, info: write, warn: write, error: write, child: () => log }
  await withEngines(async (bundle) => {
    const engine = await bundle.engine({
      tasks: [near, falls, late, TASKS],
      log,
    })
    const { ids } = await engine.enqueueMany('near', [{ n: 1 }, { n: 2 }, { n: 3 }], { meta: { a: 1 } })
    const first = ids[0]!.first
    const job = await bundle.inState(first + 2, 'completed')
    assert.deepEqual((job.result as { n: number; meta: object }).n, 3)
    assert.deepEqual((job.result as { n: number; meta: object }).meta, { a: 1 })
    assert.deepEqual(seen, [
      [threadId, 1, 1],
      [threadId, 2, 1],
      [threadId, 3, 1],
    ])
    const failing = await engine.enqueue('falls', null)
    const failed = await bundle.inState(failing.id, 'failed')
    assert.equal((failed.error as { type: string; code: string }).type, 'TypeError')
    assert.equal((await attempts(bundle, failing.id)).length, 2)
    const slow = await engine.enqueue('late', null)
    const timedOut = await bundle.inState(slow.id, 'failed')
    assert.equal((timedOut.error as { code: string }).code, 'TASK_TIMED_OUT')
    const other = await engine.enqueue('echo', 1)
    await bundle.inState(other.id, 'completed')
    const warning = lines.find(({ event }) => event === 'engine.inline_tasks')
    assert.deepEqual((warning!.facts as { tasks: string[] }).tasks, ['near', 'falls', 'late'])
    assert.ok(lines.some(({ event, facts }) => event === 'near.here' && (facts as { n: number }).n === 1))
  })
})

test('an engine with inline tasks alone works', async () => {
  const only = defineTask({ name: 'only', inline: true, run: (n: number) => n * 2 })
  await withEngines(async ({ engine, inState, client }) => {
    await engine({ tasks: [only], threads: 4 })
    const { ids } = await client.enqueueMany(
      'only',
      Array.from({ length: 500 }, (_, n) => n),
    )
    for (const at of [0, 250, 499]) assert.equal((await inState(ids[0]!.first + at, 'completed')).result, at * 2)
  })
})

test('a definition that says neither where it is nor inline is refused with what to do', async () => {
  const lost = defineTask({ name: 'lost', run: () => {} })
  await withEngines(async ({ base }) => {
    const engine = createEngine({ ...base, tasks: [lost] })
    assert.equal(await codeFrom(() => engine.start()), 'CONFIG_INVALID')
    assert.equal(await codeFrom(() => engine.start()), 'NOT_STARTED')
    await engine.stop()
  })
})
