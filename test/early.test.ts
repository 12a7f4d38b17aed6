// What is made or claimed ahead of its time: on a real database between sessions, and by engines. Held in memory it must
// not run early, not run at all when it was withdrawn, and not be lost with its holder.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { systemClock } from '../engine/base/clock.ts'
import type { ClaimedChunk, Flush } from '../engine/store/types.ts'
import { DUE, MINUTE, type ScheduleStoreBench, withFleet, withStore } from './support/schedule-fleet.ts'
import { completing } from './support/store.ts'
import { until } from './support/until.ts'

/** A due time that is near enough to be prepared for, and far enough for what a test does before it. */
function soon(ms = 4_000): number {
  return systemClock.wallMs() + ms
}

const items = (ids: readonly string[], atMs: number, revision = 1) =>
  ids.map((scheduleId) => ({ scheduleId, scheduledAtMs: atMs, revision }))

function giving(no: number, chunks: readonly ClaimedChunk[]): Flush {
  return {
    ...completing(no, 0, []),
    leaseIds: [...new Set(chunks.map(({ leaseId }) => leaseId))],
    leaseDone: [chunks.reduce((sum, { count }) => sum + count, 0)],
    releases: chunks.map(({ leaseId, firstId, count, attempt, run, rescues, rank, seq }) => ({
      leaseId,
      firstId,
      count,
      attempt,
      run,
      rescues,
      rank,
      seq,
    })),
  }
}

const ids = (count: number) => Array.from({ length: count }, (_, n) => `job${n}`)

test('occurrences that share everything are made as one chunk and leased; the next node is told that they are taken', () =>
  withStore(async ({ schedules, make, nodeId, join, query, claim }) => {
    for (const id of ids(20)) await make(id, { payload: JSON.stringify({ id }) })
    await make('urgent', { options: { priority: 5 } })
    const atMs = soon()
    const made = await schedules.prepare(nodeId, items([...ids(20), 'urgent'], atMs))
    assert.deepEqual(
      made.chunks.map(({ count, dueAtMs, rank, timed }) => [count, Math.round(dueAtMs), rank, timed]),
      [
        [1, atMs, -5, true],
        [20, atMs, 0, true],
      ],
    )
    assert.equal(made.jobs.size, 21)
    const payloads = made.chunks[1]!.payloads.split('\x1e').map((text) => JSON.parse(text).id)
    assert.deepEqual(new Set(payloads), new Set(ids(20)))
    assert.equal((await claim(nodeId)).length, 0, 'nobody else can have them')
    const again = await schedules.prepare(await join(), items([...ids(20), 'urgent'], atMs))
    assert.deepEqual([again.chunks.length, again.jobs.size, again.taken.length], [0, 0, 21])
    const [row] = await query<{ n: number }>('select count(*)::int as n from millrace.occurrence')
    assert.equal(row!.n, 21)
  }))

test('what is not plain, not due soon, or not as it was is left for its time', () =>
  withStore(async ({ schedules, make, nodeId, query, store }) => {
    const atMs = soon()
    await make('skips', { overlap: 'skip' })
    await make('jitter', { jitterMs: 5 })
    await make('grouped', { options: { group: 'g' } })
    await make('other revision')
    await make('paused', { paused: true })
    await make('elsewhere', { queueId: (await store.queueIds(['held up']))[0]! })
    await query(`update millrace.queue set paused = true where name = 'held up'`)
    await make('far')
    await make('past')
    const made = await schedules.prepare(nodeId, [
      ...items(['skips', 'jitter', 'grouped', 'paused', 'elsewhere', 'nobody'], atMs),
      ...items(['other revision'], atMs, 7),
      ...items(['far'], atMs + MINUTE),
      ...items(['past'], DUE),
    ])
    assert.deepEqual([made.chunks.length, made.jobs.size, made.taken], [0, 0, []])
  }))

test('a confirmation comes at the due time, not before, and stands while no schedule has changed', () =>
  withStore(async ({ schedules, make, nodeId }) => {
    await make('job0')
    const atMs = soon(1_000)
    const { change } = await schedules.prepare(nodeId, items(['job0'], atMs))
    const early = await schedules.confirm(atMs, change)
    assert.equal(early.stands, false)
    assert.ok(early.lateMs < 0, 'it does not wait for long')
    await systemClock.sleep(atMs - systemClock.wallMs() - 15)
    const { stands, lateMs } = await schedules.confirm(atMs, change)
    assert.equal(stands, true)
    assert.ok(lateMs >= 0)
  }))

const CHANGES: [what: string, change: (bench: ScheduleStoreBench) => Promise<unknown>][] = [
  ['pause', ({ schedules }) => schedules.pause('job0')],
  ['delete', ({ schedules }) => schedules.delete('job0')],
  ['another payload', ({ make }) => make('job0', { payload: '[1]' })],
  ['plain SQL', ({ query }) => query(`update millrace.schedule set cron = '5 5 5 5 *' where id = 'job0'`)],
]

for (const [what, change] of CHANGES)
  test(`${what} before the due time withdraws what was made ahead, of that schedule alone`, () =>
    withStore(async (bench) => {
      const { schedules, make, nodeId, query } = bench
      for (const id of ids(3)) await make(id)
      const atMs = soon()
      const made = await schedules.prepare(nodeId, items(ids(3), atMs))
      await change(bench)
      assert.equal((await schedules.confirm(atMs - 10_000, made.change)).stands, false)
      const jobs = [...made.jobs].map(([n, jobId]) => ({ scheduleId: `job${n}`, scheduledAtMs: atMs, jobId }))
      const standing = await schedules.standing(jobs)
      assert.deepEqual(standing, new Set([made.jobs.get(1), made.jobs.get(2)]))
      const wishes = await query('select job_id::int from millrace.cancelling')
      assert.deepEqual(wishes, [{ job_id: made.jobs.get(0) }], 'and its holder is asked to end it')
      const free = await query(`select from millrace.occurrence where schedule_id = 'job0'`)
      assert.equal(free.length, 0, 'the due time can be decided anew')
    }))

test('who asks what stands waits for a change that is being made just now', () =>
  withStore(async ({ schedules, make, nodeId, db, other }) => {
    await make('job0')
    const atMs = soon()
    const made = await schedules.prepare(nodeId, items(['job0'], atMs))
    const session = other().session('ask')
    let asked: Promise<Set<number>>
    await session.exclusive('tx pause', async (client) => {
      await client.query('begin')
      await client.query(`update "${db.schema}".schedule set paused = true where id = 'job0'`)
      // the number has moved on before anybody can see the pause
      assert.equal((await schedules.confirm(atMs - 10_000, made.change)).stands, false)
      asked = schedules.standing([{ scheduleId: 'job0', scheduledAtMs: atMs, jobId: made.jobs.get(0)! }])
      await until('it waits for our lock', async () => {
        const rows = await db.query(
          `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query like '%standing%'`,
        )
        return rows.length > 0
      })
      await client.query('commit')
    })
    assert.deepEqual(await asked!, new Set())
  }))

test('what is given back or rescued before its time waits for it, uncharged; after its time it is ready', () =>
  withStore(async ({ schedules, make, nodeId, join, store, query, claim }) => {
    for (const id of ids(3)) await make(id)
    const atMs = soon(60_000) // farther than anything is prepared for
    const waiting = () =>
      query(
        `select sum(count)::int as jobs, min(attempt)::int as attempt, max(run)::int as run, max(rescues)::int as rescues,
         bool_and(abs(extract(epoch from run_at) * 1000 - ${atMs}) < 1) as due from millrace.scheduled`,
      )
    const made = await schedules.prepare(nodeId, items(ids(3), soon(4_500)))
    await query('update millrace.job set run_at = to_timestamp($1 / 1000.0)', [atMs])
    await store.flush(nodeId, giving(1, made.chunks))
    assert.deepEqual(await waiting(), [{ jobs: 3, attempt: 1, run: 1, rescues: 0, due: true }])
    assert.deepEqual(await query('select from millrace.lease'), [])

    const { chunks } = await store.claimAhead(
      { nodeId, queueIds: [made.chunks[0]!.queueId], taskIds: null, jobsMax: 10, bytesMax: 1e9 },
      120_000,
    )
    assert.equal(
      chunks.reduce((sum, { count }) => sum + count, 0),
      3,
    )
    assert.ok((await store.rescue(nodeId, 3, true))!.reopened === 3)
    assert.deepEqual(await waiting(), [{ jobs: 3, attempt: 1, run: 1, rescues: 0, due: true }])
    assert.deepEqual(await query(`select from millrace.attempt`), [], 'nobody has tried it yet')

    const next = await join()
    const held = await store.claimAhead(
      { nodeId: next, queueIds: [made.chunks[0]!.queueId], taskIds: null, jobsMax: 10, bytesMax: 1e9 },
      120_000,
    )
    await query(`update millrace.job set run_at = now() - interval '1 second'`)
    await store.flush(next, giving(1, held.chunks))
    assert.equal(
      (await claim(next)).reduce((sum, { count }) => sum + count, 0),
      3,
    )
  }))

test('claiming ahead takes what is due within the time: first runs of served queues and tasks, without a group, up to a number', () =>
  withStore(async ({ store, nodeId, put, queueId, taskId, query }) => {
    const request = { nodeId, queueIds: [queueId], taskIds: [taskId], jobsMax: 100, bytesMax: 1e9 }
    const [elsewhere] = await store.queueIds(['elsewhere'])
    const [unknown] = await store.taskIds(['unknown'])
    const runAtMs = soon(20_000)
    const wanted = await put(5, { runAtMs })
    for (const options of [
      { queueId: elsewhere! },
      { taskId: unknown! },
      { group: 'g' },
      { runAtMs: runAtMs + 60_000 },
    ])
      await put(1, { runAtMs, ...options })
    const retry = await put(1, { runAtMs })
    await query('update millrace.scheduled set run = 2, attempt = 2 where first_id = $1', [retry])
    const first = await store.claimAhead({ ...request, jobsMax: 2 }, 30_000)
    assert.deepEqual(
      first.chunks.map((it) => [it.firstId, it.count, Math.round(it.dueAtMs), it.timed, it.payloads]),
      [[wanted, 2, runAtMs, true, '0\x1e1']],
    )
    assert.ok(first.nextInMs! > 0 && first.nextInMs! <= 20_000)
    const rest = await store.claimAhead(request, 30_000)
    assert.deepEqual(
      rest.chunks.map((it) => [it.firstId, it.count]),
      [[wanted + 2, 3]],
    )
    assert.deepEqual((await store.claimAhead(request, 30_000)).chunks, [])
    await query('update millrace.queue set paused = true')
    const paused = await put(1, { runAtMs })
    assert.deepEqual((await store.claimAhead(request, 30_000)).chunks, [], `${paused} waits while its queue is paused`)
  }))

// ------------------------------------------------------------------ engines

/** A cron expression for one moment of every day, a few seconds from now. */
function moment(ms: number): { cron: string; atMs: number } {
  const atMs = Math.ceil((systemClock.wallMs() + ms) / 1_000) * 1_000
  const at = new Date(atMs)
  return { cron: `${at.getUTCSeconds()} ${at.getUTCMinutes()} ${at.getUTCHours()} * * *`, atMs }
}

test('an engine makes occurrences ahead, holds them as PreRun, and starts them at their time', () =>
  withFleet(async ({ start, client, query, log }) => {
    const engine = await start()
    const { cron, atMs } = moment(4_000)
    // as many as the threads take at once, of a task whose length nobody knows: one per thread
    await client.schedules.create({ id: 's', task: 'noop', cron })
    await until('it is made ahead', async () => (await query('select from millrace.occurrence')).length === 1)
    const [held] = await query<{ n: number; state: string }>(
      `select count(*)::int as n, min(state) as state from millrace.jobs`,
    )
    assert.deepEqual(held, { n: 1, state: 'assigned' })
    assert.ok(systemClock.wallMs() < atMs)
    await log.times('schedule.fired', 1)
    await until(
      'it has run',
      async () => (await query(`select from millrace.attempt where outcome = 'c'`)).length === 1,
    )
    const [row] = await query<{ early: boolean; ahead: boolean }>(
      `select a.started_at < o.scheduled_at as early, o.decided_at < o.scheduled_at as ahead
       from millrace.occurrence o join millrace.attempt a using (job_id)`,
    )
    assert.deepEqual(row, { early: false, ahead: true })
    const [shown] = await client.schedules.history('s')
    assert.ok(shown!.startLateMs! >= 0)
    assert.equal(engine.stats().occurrences, 1)
    assert.ok(engine.stats().lateMs.p50 > 0)
    await until('its schedule tells', async () => (await client.schedules.get('s'))!.runCount === 1)
  }))

for (const [what, change] of [
  ['paused', 'pause'],
  ['deleted', 'delete'],
] as const)
  test(`a schedule that is ${what} after its occurrence was made ahead does not run`, () =>
    withFleet(async ({ start, client, query }) => {
      const engine = await start()
      const { cron, atMs } = moment(4_000)
      await client.schedules.create({ id: 's', task: 'noop', cron })
      await until('it is made ahead', async () => (await query('select from millrace.occurrence')).length === 1)
      await client.schedules[change]('s')
      assert.ok(systemClock.wallMs() < atMs, 'the machine is too slow for this test')
      await until('it has ended', async () => (await query('select from millrace.attempt')).length === 1)
      await systemClock.sleep(Math.max(0, atMs - systemClock.wallMs()) + 300)
      await engine.drain()
      const attempts = await query('select outcome, started_at from millrace.attempt')
      assert.deepEqual(attempts, [{ outcome: 'x', started_at: null }])
      assert.deepEqual(await query('select from millrace.occurrence'), [])
    }))

test('a schedule that is changed after its occurrence was made ahead runs once, as it says now', () =>
  withFleet(async ({ start, client, query, log }) => {
    await start()
    const { cron, atMs } = moment(4_000)
    await client.schedules.create({ id: 's', task: 'noop', cron, payload: { version: 1 } })
    await until('it is made ahead', async () => (await query('select from millrace.occurrence')).length === 1)
    await client.schedules.update('s', { payload: { version: 2 } })
    assert.ok(systemClock.wallMs() < atMs, 'the machine is too slow for this test')
    await log.times('schedule.fired', 1)
    await until(
      'it has run',
      async () => (await query(`select from millrace.attempt where outcome = 'c'`)).length === 1,
    )
    const ran = await query(
      `select j.payload from millrace.job j join millrace.attempt a on a.job_id = j.id where a.outcome = 'c'`,
    )
    assert.deepEqual(ran, [{ payload: { version: 2 } }])
  }))

test('an engine that stops with occurrences made ahead leaves them for their time, and another runs them once', () =>
  withFleet(async ({ start, client, query }) => {
    const first = await start()
    const { cron, atMs } = moment(5_000)
    await client.schedules.create({ id: 's', task: 'noop', cron })
    await until('it is made ahead', async () => (await query('select from millrace.occurrence')).length === 1)
    await first.stop()
    assert.ok(systemClock.wallMs() < atMs, 'the machine is too slow for this test')
    assert.equal((await query('select from millrace.scheduled')).length, 1)
    await start()
    await until(
      'it has run',
      async () => (await query(`select from millrace.attempt where outcome = 'c'`)).length === 1,
    )
    const rows = await query(
      `select a.started_at < o.scheduled_at as early, a.attempt, a.run from millrace.occurrence o join millrace.attempt a using (job_id)`,
    )
    assert.deepEqual(rows, [{ early: false, attempt: 1, run: 1 }])
  }))

test('a scheduled job is claimed ahead, waits as PreRun, and a cancel reaches it there; the others start at their time', () =>
  withFleet(async ({ start, client, query }) => {
    const engine = await start({ threads: 2 })
    const runAt = new Date(systemClock.wallMs() + 3_000)
    const one = await client.enqueue('noop', {}, { runAt })
    const two = await client.enqueue('noop', {}, { runAt })
    await until('both are held', async () => (await query('select from millrace.scheduled')).length === 0)
    assert.ok(systemClock.wallMs() < runAt.getTime(), 'the machine is too slow for this test')
    assert.equal(engine.stats().held, 2)
    assert.equal(engine.stats().running, 0)
    await client.console.cancel(one.id)
    await until('both have ended', async () => (await query('select from millrace.attempt')).length === 2)
    const rows = await query<{ job_id: number; outcome: string; early: boolean | null }>(
      `select a.job_id::int, a.outcome, a.started_at < j.run_at as early from millrace.attempt a join millrace.job j on j.id = a.job_id order by 1`,
    )
    assert.deepEqual(rows, [
      { job_id: one.id, outcome: 'x', early: null },
      { job_id: two.id, outcome: 'c', early: false },
    ])
  }))
