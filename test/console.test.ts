// The administrator's verbs through the public API: queues, lists, the life of a job, dead letters, cancelling, doctor.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { codeFrom, withEngines } from './support/engine.ts'

const HOUR = 3_600_000

test('[TM-057] [TM-059] [TM-128] there are no queues at first; an empty one has zeros everywhere', async () => {
  await withEngines(async ({ client, engine, inState }) => {
    assert.deepEqual(await client.console.queues(), [])
    assert.deepEqual(await client.console.jobs(), [])
    assert.deepEqual(await client.console.dead.list(), [])
    await engine()
    await inState((await client.enqueue('echo', 1)).id, 'completed')
    assert.deepEqual(await client.console.queues(), [
      {
        queue: 'default',
        paused: false,
        available: 0,
        inFlight: 0,
        scheduled: 0,
        retrying: 0,
        blocked: 0,
        dead: 0,
        oldestWaitingMs: null,
      },
    ])
  })
})

test('[TM-058] queues are listed by name', async () => {
  await withEngines(async ({ client }) => {
    for (const queue of ['queue-b', 'queue-a']) await client.enqueue('mail', 1, { queue })
    assert.deepEqual(
      (await client.console.queues()).map(({ queue }) => queue),
      ['queue-a', 'queue-b'],
    )
  })
})

test('[TM-060] [TM-108] every job is counted in exactly one bucket of its queue', async () => {
  await withEngines(async ({ client, engine, inState, until }) => {
    const worker = await engine()
    const dead = (await client.enqueueMany('fail', [1, 2, 3], { maxAttempts: 1 })).ids[0]!
    for (let at = 0; at < 3; at++) await inState(dead.first + at, 'failed')
    await inState((await client.enqueue('careful', 1, { queue: 'default' })).id, 'retrying')
    await inState((await client.enqueue('echo', 1)).id, 'completed')
    await client.enqueueMany('wait', [1, 2], { group: 'g' })
    await client.enqueue('wait', 1)
    await until('two are held', async () => worker.stats().running === 2)
    await client.enqueueMany('mail', [1, 2, 3, 4, 5]) // nobody runs them
    await client.enqueueMany('mail', [1, 2], { delayMs: HOUR })
    const [queue, ...others] = await client.console.queues()
    assert.equal(others.length, 0)
    const { oldestWaitingMs, ...counts } = queue!
    assert.deepEqual(counts, {
      queue: 'default',
      paused: false,
      available: 5,
      inFlight: 2,
      scheduled: 2,
      retrying: 1,
      blocked: 1,
      dead: 3,
    })
    assert.ok(oldestWaitingMs !== null && oldestWaitingMs >= 0 && oldestWaitingMs < HOUR)
  })
})

test('jobs are listed newest first, by task, queue, state and id, page after page', async () => {
  await withEngines(async ({ client, engine, inState }) => {
    await engine({ queues: ['work'] })
    const { ids } = await client.enqueueMany('echo', [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], { queue: 'work' })
    const { first } = ids[0]!
    for (let at = 0; at < 10; at++) await inState(first + at, 'completed')
    const other = await client.enqueue('mail', 'x', { queue: 'other', priority: 3, meta: { a: 1 } })
    const later = await client.enqueue('mail', 'y', { queue: 'other', delayMs: HOUR })
    const list = async (filter: Parameters<typeof client.console.jobs>[0]) =>
      (await client.console.jobs(filter)).map(({ id }) => id)
    assert.deepEqual((await list({})).length, 12)
    assert.deepEqual(await list({ queue: 'other' }), [later.id, other.id])
    assert.deepEqual(await list({ state: 'scheduled' }), [later.id])
    assert.deepEqual(await list({ task: 'mail', state: 'queued' }), [other.id])
    assert.deepEqual(await list({ task: 'none' }), [])
    const pages: number[][] = []
    for (let before: number | undefined; ; ) {
      const page = await list({ task: 'echo', limit: 4, ...(before === undefined ? {} : { before }) })
      if (page.length === 0) break
      pages.push(page)
      before = page.at(-1)!
    }
    assert.deepEqual(
      pages.map((page) => page.map((id) => id - first)),
      [
        [9, 8, 7, 6],
        [5, 4, 3, 2],
        [1, 0],
      ],
    )
    const job = (await client.console.job(other.id))!
    assert.deepEqual([job.payload, job.priority, job.meta, job.result, job.startedAt], ['x', 3, { a: 1 }, null, null])
    assert.equal(await client.console.job(999_999), null)
    for (const filter of [{ limit: 0 }, { limit: 1_001 }, { limit: 1.5 }, { before: 0 }, { id: -1 }])
      assert.equal(await codeFrom(() => client.console.jobs(filter)), 'VALIDATION')
  })
})

test('explain tells every state of a job that was retried, died and was requeued: when, where and why', async () => {
  await withEngines(async ({ client, engine, inState, query, schema }) => {
    await engine()
    const { id } = await client.enqueue('careful', 1, { maxAttempts: 2, priority: 4 })
    await inState(id, 'retrying')
    const waiting = await client.console.explain(id)
    assert.deepEqual(
      waiting.events.map(({ state }) => state),
      ['queued', 'running', 'failed attempt', 'retrying'],
    )
    await query('update millrace.scheduled set run_at = now()')
    await query(`select pg_notify('millrace_${schema}', 's')`)
    await inState(id, 'failed')
    const dead = await client.console.explain(id)
    assert.deepEqual(
      dead.events.map(({ state }) => state),
      ['queued', 'running', 'failed attempt', 'retrying', 'running', 'failed attempt', 'failed'],
    )
    assert.equal(dead.events.at(-1)!.where, 'dead letters')
    assert.match(dead.events.at(-1)!.why, /TASK_THREW: careful/)
    assert.match(dead.events[0]!.why, /priority 4, at most 2 attempts/)
    assert.equal((await client.console.dead.requeue({ id })).requeued, 1)
    await inState(id, 'retrying')
    const again = await client.console.explain(id)
    assert.deepEqual(
      again.events.map(({ state }) => state),
      [
        ...['queued', 'running', 'failed attempt', 'retrying', 'running', 'failed attempt'],
        ...['requeued', 'running', 'failed attempt', 'retrying'],
      ],
    )
    let lastMs = 0
    for (const { at, where, why } of again.events.slice(0, -1)) {
      assert.ok(where && why)
      if (at === null) continue
      assert.ok(at.getTime() >= lastMs - 1, JSON.stringify(again.events))
      lastMs = at.getTime()
    }
    assert.equal(await codeFrom(() => client.console.explain(999_999)), 'JOB_NOT_FOUND')
  })
})

test('[TM-062] [TM-064] [TM-065] dead letters: listed, requeued by name, purged; errors say what is wrong', async () => {
  await withEngines(async ({ client, engine, inState, count }) => {
    const worker = await engine()
    const { console } = client
    const { first } = (await client.enqueueMany('fail', [0, 1, 2, 3], { maxAttempts: 1 })).ids[0]!
    const side = await client.enqueue('fail', 9, { maxAttempts: 1, queue: 'side' })
    for (const id of [first, first + 1, first + 2, first + 3, side.id]) await inState(id, 'failed')
    await worker.stop()
    const pending = (await client.enqueueMany('mail', [1, 2, 3])).ids[0]!

    const letters = await console.dead.list({ queue: 'default' })
    assert.deepEqual(
      letters.map(({ id, payload, task, attempts }) => [id - first, payload, task, attempts]),
      [3, 2, 1, 0].map((at) => [at, at, 'fail', 1]),
    )
    const page = await console.dead.list({ limit: 2, before: first + 2 })
    assert.deepEqual(
      page.map(({ id }) => id - first),
      [1, 0],
    )
    assert.equal(await codeFrom(() => console.dead.requeue({ id: pending.first })), 'NOT_DEAD')
    assert.equal(await codeFrom(() => console.dead.requeue({ id: 999_999 })), 'JOB_NOT_FOUND')
    assert.equal(await codeFrom(() => console.dead.purge({ id: pending.first })), 'NOT_DEAD')
    assert.equal(await codeFrom(() => console.dead.purge({ id: 0 })), 'VALIDATION')

    assert.equal((await console.dead.requeue({ task: 'fail', queue: 'default', limit: 3 })).requeued, 3)
    assert.equal((await console.job(first))!.state, 'queued')
    assert.equal((await console.job(first))!.attempt, 1)
    assert.equal((await console.job(first + 3))!.state, 'failed')
    assert.equal(await console.dead.purge({ queue: 'side' }), 1)
    assert.equal(await console.dead.purge({}), 1)
    assert.equal(await console.dead.purge({}), 0)
    assert.equal(await count('dead'), 0)
    for (let at = 0; at < 3; at++) assert.equal((await console.job(pending.first + at))!.state, 'queued')
  })
})

test('a dead letter whose key another job has meanwhile is not requeued', async () => {
  await withEngines(async ({ client, engine, inState }) => {
    const worker = await engine()
    const { id } = await client.enqueue('fail', 1, { maxAttempts: 1, idempotencyKey: 'k' })
    await inState(id, 'failed')
    await worker.stop()
    const other = await client.enqueue('mail', 1, { idempotencyKey: 'k' })
    await assert.rejects(client.console.dead.requeue({ id }), (error: { code: string; details: { jobId: number } }) => {
      assert.equal(error.code, 'DUPLICATE_TASK')
      assert.equal(error.details.jobId, other.id)
      return true
    })
    assert.equal((await client.console.dead.requeue({})).requeued, 0)
    assert.equal((await client.console.job(id))!.state, 'failed')
    assert.equal(await client.console.cancel(other.id), 'cancelled')
    assert.equal((await client.console.dead.requeue({ id })).requeued, 1)
  })
})

test('cancel ends what waits at once, signals what runs, and knows what is over or never was', async () => {
  await withEngines(async ({ client, engine, inState, until }) => {
    const { console } = client
    const worker = await engine()
    const waiting = [
      await client.enqueue('mail', 1),
      await client.enqueue('mail', 1, { delayMs: HOUR }),
      await client.enqueue('mail', 1, { group: 'g' }),
      await client.enqueue('mail', 1, { group: 'g' }),
      await client.enqueue('mail', 1, { idempotencyKey: 'k' }),
    ]
    const { first } = (await client.enqueueMany('mail', [1, 2, 3])).ids[0]!
    for (const id of [...waiting.map((job) => job.id).reverse(), first + 1]) {
      assert.equal(await console.cancel(id, 'not needed'), 'cancelled')
      const job = await inState(id, 'cancelled')
      assert.match(JSON.stringify(job.error), /not needed/)
      assert.equal(await console.cancel(id), 'finished')
    }
    assert.equal((await client.enqueue('mail', 1, { idempotencyKey: 'k' })).duplicate, false)
    assert.equal((await console.job(first))!.state, 'queued')
    assert.equal((await console.job(first + 2))!.state, 'queued')
    const running = await client.enqueue('wait', 1)
    await until('it runs', async () => worker.stats().running === 1)
    assert.equal(await console.cancel(running.id, 'enough'), 'signalled')
    assert.match(JSON.stringify((await inState(running.id, 'cancelled')).error), /TASK_CANCELLED/)
    assert.equal(await console.cancel(999_999), 'unknown')
    assert.equal(await codeFrom(() => console.cancel(-1)), 'VALIDATION')
    const { events } = await console.explain(first + 1)
    assert.equal(events.at(-1)!.state, 'cancelled')
    assert.equal(events.at(-1)!.where, 'console')
  })
})

test('nodes and doctor say who is there and how the server is set', async () => {
  await withEngines(async ({ client, engine, schema }) => {
    assert.deepEqual(await client.console.nodes(), [])
    const worker = await engine()
    const [node, ...others] = await client.console.nodes()
    assert.equal(others.length, 0)
    assert.equal(node!.pid, process.pid)
    assert.equal(node!.threads, 1)
    assert.equal(node!.state, 'live')
    assert.equal(node!.held, 0)
    const rows = await client.console.doctor()
    const of = (check: string) => rows.find((row) => row.check === check)
    for (const check of ['node', 'postgresql', 'role', 'connections', 'oldest transaction', 'pooler'])
      assert.ok(of(check)?.value, check)
    assert.match(of('schema')!.value, new RegExp(`^${schema}, version \\d+$`))
    assert.equal(of(`node ${node!.id}`)!.verdict, 'ok')
    for (const { verdict, advice } of rows) assert.equal(verdict === 'ok', advice === '')
    await worker.stop()
    assert.deepEqual(await client.console.nodes(), [])
  })
})

test('a client without a schema says that it is missing', async () => {
  await withEngines(async ({ another, schema }) => {
    const client = another({ schema: `${schema}_none` })
    assert.equal(await codeFrom(() => client.console.queues()), 'SCHEMA_MISSING')
    assert.equal(await codeFrom(() => client.enqueue('mail', 1)), 'SCHEMA_MISSING')
  })
})

test('a filter that is misspelt is refused, where it lists and where it would act on everything', async () => {
  await withEngines(async ({ client, inState, engine, another }) => {
    await engine()
    const { id } = await client.enqueue('echo', 1)
    await inState(id, 'completed')
    const { console } = another()
    const odd = { que: 'default' } as object
    const calls: [string, () => Promise<unknown>][] = [
      ['jobs', () => console.jobs(odd)],
      ['jobs', () => console.jobs({ state: 'nope' as 'queued' })],
      ['results', () => console.results.list(odd)],
      ['results', () => console.results.cleanup({ queue: 'default', completdBefore: 0 } as object)],
      ['dead', () => console.dead.list(odd)],
      ['schedules', () => console.schedules.list(odd)],
    ]
    // what is undefined by mistake would choose everything; a misspelt option would be passed over
    const { schedules } = client
    await schedules.create({ id: 'kept', task: 'echo', cron: '@daily' })
    calls.push(
      ['dead', () => console.dead.purge({ id: undefined } as object)],
      ['dead', () => console.dead.requeue({ queue: undefined } as object)],
      ['dead', () => console.dead.requeue({}, { persecond: 1 } as object)],
      ['schedules', () => schedules.register([], { queues: 'payroll' } as object)],
      ['cancel', () => console.cancel(id, 'a\0')],
      ['cancel', () => console.cancel(id, 5 as never)],
      ['purge', () => console.queue.purge('default', 'a\0')],
    )
    for (const [name, call] of calls) assert.equal(await codeFrom(call), 'VALIDATION', name)
    assert.equal((await schedules.list()).length, 1)
    assert.equal((await console.results.list({ queue: 'default' })).length, 1)
    for (const options of [{ client }, { onDuplicate: 'ignore' }])
      assert.equal(
        await codeFrom(() => client.enqueueMany([{ task: 'echo', payload: 1, options: options as object }])),
        'VALIDATION',
      )
  })
})
