// Schedules on a real database: what the statements decide between sessions, what engines do together, and the verbs.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import pg from 'pg'
import { type Clock, systemClock } from '../engine/base/clock.ts'
import type { EngineError } from '../engine/base/errors.ts'
import type { Client } from '../engine/index.ts'
import { createClient, createEngine } from '../engine/index.ts'
import { parseCron } from '../engine/schedule/cron.ts'
import { nextAfter } from '../engine/schedule/occurrences.ts'
import { type NewSchedule, ScheduleStore } from '../engine/store/schedule-store.ts'
import { openTestDatabase, type TestDatabase } from './support/database.ts'
import { startEngine } from './support/engine-process.ts'
import { DUE, type Fleet, MINUTE, withFleet, withStore } from './support/schedule-fleet.ts'
import { FakeLog } from './support/scheduler-fakes.ts'
import type { StoreBundle } from './support/store.ts'
import { until } from './support/until.ts'

const TASKS = new URL('./tasks/behaved.js', import.meta.url).href
const HOUR = 60 * MINUTE

// ------------------------------------------------------------------ what the statements decide

test('[TM-053] one occurrence fired by many sessions at once makes one job, and all others are told that it is taken', () =>
  withStore(async ({ schedules, make, item, nodeId, other, query, claim }) => {
    for (let n = 0; n < 50; n++) await make(`job${n}`)
    const items = Array.from({ length: 50 }, (_, n) => item(`job${n}`, DUE))
    const stores = [schedules, ...Array.from({ length: 5 }, () => new ScheduleStore(other(), systemClock))]
    // each in its own order: a deadlock would show
    const shuffled = (seed: number) =>
      items.map((it, at) => ({ it, key: (at * 31 + seed * 17) % 53 })).sort((a, b) => a.key - b.key)
    const answers = await Promise.all(
      stores.map((it, seed) =>
        it.fire(
          nodeId,
          shuffled(seed).map(({ it }) => it),
        ),
      ),
    )
    const outcomes = answers.flat().map(({ outcome }) => outcome)
    assert.equal(outcomes.filter((outcome) => outcome === 'enqueued').length, 50)
    assert.equal(outcomes.filter((outcome) => outcome === 'taken').length, 250)
    assert.deepEqual((await query('select count(*)::int as n from millrace.job'))[0], { n: 50 })
    assert.equal((await claim(nodeId, 100)).length, 50)
    // and once more, when all jobs are there and held: neither an error nor a second job
    assert.ok((await schedules.fire(nodeId, items)).every(({ outcome }) => outcome === 'taken'))
    assert.deepEqual((await query('select count(*)::int as n from millrace.job'))[0], { n: 50 })
  }))

test('[TM-053] a scheduler that starts when the job of a due time exists already makes no second one, and no error', () =>
  withStore(async ({ schedules, make, item, nodeId, query, db }) => {
    await make('job', { catchUp: 'all', catchUpMs: 10 * MINUTE })
    const [made] = await schedules.fire(nodeId, [item('job', DUE)])
    assert.equal(made!.outcome, 'enqueued')
    // whoever starts now has to find out by itself: as far as the schedule tells, the due time is missed
    await query(`update millrace.schedule set last_scheduled_at = null, since = now() - interval '4 minutes'`)
    const log = new FakeLog()
    const engine = createEngine({ database: db.url, schema: db.schema, tasks: TASKS, threads: 1, log })
    try {
      await engine.start()
      await until('all that was missed has run', async () => {
        const rows = await query(`select from millrace.jobs where state = 'completed'`)
        return rows.length >= 3
      })
      const [row] = await query<{ jobs: number; occurrences: number; due: number }>(
        `select (select count(*)::int from millrace.job) as jobs, (select count(*)::int from millrace.occurrence) as occurrences,
           (select job_id::float8 from millrace.occurrence where scheduled_at = to_timestamp($1 / 1000.0)) as due`,
        [DUE],
      )
      assert.equal(row!.due, made!.jobId)
      assert.equal(row!.jobs, row!.occurrences, 'one job each')
      const twice = await query('select run_at from millrace.job group by run_at having count(*) > 1')
      assert.deepEqual(twice, [])
      const [ran] = await query<{ n: number }>('select count(*)::int as n from millrace.attempt where job_id = $1', [
        made!.jobId,
      ])
      assert.equal(ran!.n, 1)
      assert.deepEqual(
        log.lines.filter(({ level }) => level === 'error'),
        [],
      )
    } finally {
      await engine.stop(5_000)
    }
  }))

test('[TM-050] a fired job has the options, the payload and the due time of its schedule, and names it', () =>
  withStore(async ({ schedules, make, item, nodeId, query, claim }) => {
    await make('a:b', {
      payload: '{"to":"ada"}',
      options: {
        priority: 10,
        maxAttempts: 7,
        timeoutMs: 1_234,
        retry: { kind: 'none' },
        ephemeral: true,
        meta: { team: 'x' },
      },
    })
    const [fired] = await schedules.fire(nodeId, [item('a:b', DUE)])
    assert.equal(fired!.outcome, 'enqueued')
    const [row] = await query('select * from millrace.jobs where id = $1', [fired!.jobId])
    assert.deepEqual(
      [row!.priority, row!.max_attempts, row!.timeout_ms, row!.ephemeral, row!.payload, row!.run_at],
      [10, 7, 1_234, true, { to: 'ada' }, new Date(DUE)],
    )
    assert.deepEqual(row!.meta, {
      team: 'x',
      schedule: 'a:b',
      scheduledAt: `${new Date(DUE).toISOString().slice(0, 19)}Z`,
    })
    const [chunk] = await claim(nodeId)
    assert.equal(chunk!.dueAtMs, DUE)
    assert.equal(chunk!.retry, '{"kind":"none"}')
  }))

test('gone, paused, another revision, before its time and out of its bounds: each is refused by its name', () =>
  withStore(async ({ schedules, make, item, nodeId, query }) => {
    const day = 24 * HOUR
    await make('paused', { paused: true })
    await make('bounded', { startsMs: DUE, endsMs: DUE + 1 })
    await make('fresh')
    await query(`update millrace.schedule set since = to_timestamp($1::float8 / 1000) where id = 'fresh'`, [DUE])
    const fired = await schedules.fire(nodeId, [
      item('nobody', DUE),
      item('paused', DUE),
      item('bounded', DUE - MINUTE),
      item('bounded', DUE + MINUTE),
      item('bounded', DUE, 2),
      item('fresh', DUE),
      item('fresh', DUE + day),
      item('bounded', DUE),
    ])
    assert.deepEqual(
      fired.map(({ outcome }) => outcome),
      ['gone', 'paused', 'out', 'out', 'changed', 'out', 'early', 'enqueued'],
    )
    assert.ok(fired[6]!.lateMs < 0)
    assert.deepEqual((await query('select count(*)::int as n from millrace.job'))[0], { n: 1 })
  }))

test('an occurrence that is fired a little early is enqueued at its time by the clock of the database, not before', () =>
  withStore(async ({ schedules, make, item, nodeId, query }) => {
    await make('soon', { cron: '* * * * * *' })
    const [{ now }] = (await query<{ now: number }>(
      'select extract(epoch from clock_timestamp())::float8 * 1000 as now',
    )) as [{ now: number }]
    const dueMs = now + 12 // not a whole second: the statement does not care
    const [fired] = await schedules.fire(nodeId, [item('soon', dueMs)])
    assert.equal(fired!.outcome, 'enqueued')
    assert.ok(fired!.lateMs >= 0, `late ${fired!.lateMs}`)
  }))

for (const [what, sql, outcome] of [
  ['paused', `update millrace.schedule set paused = true where id = 'job'`, 'paused'],
  ['changed', `update millrace.schedule set cron = '5 * * * *', revision = revision + 1 where id = 'job'`, 'changed'],
  ['deleted', `delete from millrace.schedule where id = 'job'`, 'gone'],
] as const)
  test(`a schedule that is being ${what} while it is fired: whoever locks it first wins, and nothing is half done`, () =>
    withStore(async ({ db, schedules, make, item, nodeId, query }) => {
      await make('job')
      const person = new pg.Client(db.url)
      await person.connect()
      try {
        await person.query('begin')
        await person.query(sql.replace('millrace.', `"${db.schema}".`))
        const firing = schedules.fire(nodeId, [item('job', DUE)])
        await blocked(query)
        await person.query('commit')
        assert.equal((await firing)[0]!.outcome, outcome)
        assert.deepEqual((await query('select count(*)::int as n from millrace.job'))[0], { n: 0 })
        assert.deepEqual((await query('select count(*)::int as n from millrace.occurrence'))[0], { n: 0 })
      } finally {
        await person.end()
      }
    }))

/** Resolves when a session of this test waits for a lock. */
async function blocked(query: StoreBundle['query']): Promise<void> {
  await until('a session waits for a lock', async () => {
    const rows = await query(
      `select from pg_locks l join pg_stat_activity a on a.pid = l.pid where not l.granted and a.application_name = 'test schedule'`,
    )
    return rows.length > 0
  })
}

test('overlap skip: no job while the one before waits, is held or waits for a retry; again when it has ended', () =>
  withStore(async ({ schedules, make, item, nodeId, query, claim }) => {
    await make('job', { overlap: 'skip' })
    const fire = async (n: number) => (await schedules.fire(nodeId, [item('job', DUE - 20 * MINUTE + n * MINUTE)]))[0]!
    const first = await fire(0)
    assert.equal(first.outcome, 'enqueued')
    assert.equal((await fire(1)).outcome, 'skipped', 'it waits')
    const [held] = await claim(nodeId)
    assert.equal(held!.firstId, first.jobId)
    assert.equal((await fire(2)).outcome, 'skipped', 'it is held')
    await query(`delete from millrace.lease`)
    await query(
      `insert into millrace.scheduled (first_id, run_at, rank, queue_id, task_id, bytes, count, attempt, run, rescues)
       select id, now() + interval '1 hour', 0, queue_id, task_id, 2, 1, 2, 2, 0 from millrace.job where id = $1`,
      [first.jobId],
    )
    assert.equal((await fire(3)).outcome, 'skipped', 'it waits for its retry')
    await query('delete from millrace.scheduled')
    await query(
      `insert into millrace.attempt (job_id, finished_at, node_id, run, attempt, lane, outcome) values ($1, now(), 1, 2, 2, 0, 'c')`,
      [first.jobId],
    )
    assert.equal((await fire(4)).outcome, 'enqueued', 'it has ended')
    const history = await query(`select outcome, job_id from millrace.occurrence order by scheduled_at`)
    assert.deepEqual(
      history.map((row) => row.outcome),
      ['enqueued', 'skipped', 'skipped', 'skipped', 'enqueued'],
    )
  }))

test('overlap queue: one runs, one waits behind it, further ones are skipped', () =>
  withStore(async ({ schedules, make, item, nodeId, claim }) => {
    await make('job', { overlap: 'queue' })
    const fire = async (n: number) => (await schedules.fire(nodeId, [item('job', DUE - 20 * MINUTE + n * MINUTE)]))[0]!
    const first = await fire(0)
    assert.equal((await claim(nodeId))[0]!.firstId, first.jobId)
    const second = await fire(1)
    assert.deepEqual([first.outcome, second.outcome], ['enqueued', 'enqueued'])
    assert.equal((await fire(2)).outcome, 'skipped')
    assert.deepEqual(await claim(nodeId), [], 'the second waits for its turn')
  }))

test('a job that was won by a node which died at once is there for the others', () =>
  withStore(async ({ schedules, make, item, nodeId, other, join, claim }) => {
    await make('job')
    const [fired] = await schedules.fire(nodeId, [item('job', DUE)])
    const survivor = other()
    const [chunk] = await claim(await join(survivor), 10, survivor)
    assert.equal(chunk!.firstId, fired!.jobId)
    assert.equal((await new ScheduleStore(survivor, systemClock).fire(2, [item('job', DUE)]))[0]!.outcome, 'taken')
  }))

test('old occurrences are forgotten in bounded batches, the newer ones stay', () =>
  withStore(async ({ schedules, make, query }) => {
    await make('job')
    await query(
      `insert into millrace.occurrence (schedule_id, scheduled_at, decided_at, node_id, outcome, late_ms)
       select 'job', now() - n * interval '1 minute', now(), 1, 'enqueued', 0 from generate_series(1, 25) n`,
    )
    const edge = systemClock.wallMs() - 5.5 * MINUTE
    assert.equal(await schedules.clean(edge, systemClock.wallMs(), 12), 12)
    assert.equal(await schedules.clean(edge, systemClock.wallMs(), 12), 8)
    assert.equal(await schedules.clean(edge, systemClock.wallMs(), 12), 0)
    assert.deepEqual((await query('select count(*)::int as n from millrace.occurrence'))[0], { n: 5 })
  }))

test('a registration that changes nothing writes nothing; one that changes the time begins a new revision', () =>
  withStore(async ({ schedules, make, query }) => {
    await make('job', { options: { priority: 1 } })
    const row = async () => (await query(`select revision, changed, since, xmin::text from millrace.schedule`))[0]!
    const before = await row()
    await make('other')
    const same = async (more: Partial<NewSchedule>) => make('job', { options: { priority: 1 }, ...more })
    const digest = await schedules.digest()
    await query(`delete from millrace.schedule where id = 'other'`)
    assert.notDeepEqual(await schedules.digest(), digest)
    await query(`update millrace.schedule set since = $1`, [before.since])
    await same({})
    assert.deepEqual([(await row()).revision, (await row()).changed], [before.revision, before.changed])
    await same({ payload: '{"a":1}' })
    assert.equal((await row()).revision, before.revision, 'the payload decides nothing about times')
    assert.notEqual((await row()).changed, before.changed)
    await same({ cron: '5 * * * *' })
    assert.equal(Number((await row()).revision), Number(before.revision) + 1)
  }))

// ------------------------------------------------------------------ the verbs

async function withClient(run: (client: Client, db: TestDatabase) => Promise<void>): Promise<void> {
  const db = await openTestDatabase()
  const client = createClient({ database: db.url, schema: db.schema })
  try {
    await client.migrate()
    await run(client, db)
  } finally {
    await client.close()
    await db.close()
  }
}

function refusal(code: string, field?: string): (error: EngineError) => boolean {
  return (error) => {
    assert.equal(error.code, code)
    if (field !== undefined) assert.equal(error.details.field, field)
    return true
  }
}

test('[TM-041] [TM-042] [TM-043] register makes, changes and deletes, of its own queue and source alone', () =>
  withClient(async ({ schedules }) => {
    assert.deepEqual(
      await schedules.register([
        { task: 'a', cron: '* * * * *' },
        { id: 'b:1', task: 'b', cron: '@hourly' },
      ]),
      { created: ['a', 'b:1'], changed: [], deleted: [] },
    )
    assert.equal((await schedules.list()).length, 2)
    await schedules.create({ id: 'by hand', task: 'c', cron: '@daily' })
    await schedules.register([{ id: 'elsewhere', task: 'd', cron: '@daily' }], { queue: 'other' })
    await schedules.pause('a')
    const done = await schedules.register([{ task: 'a', cron: '*/5 * * * *' }])
    assert.deepEqual(done, { created: [], changed: ['a'], deleted: ['b:1'] })
    const rows = await schedules.list()
    assert.deepEqual(
      rows.map(({ id, cron, source }) => [id, cron, source]),
      [
        ['a', '*/5 * * * *', 'code'],
        ['by hand', '@daily', 'api'],
        ['elsewhere', '@daily', 'code'],
      ],
    )
    assert.equal(rows[0]!.paused, true, 'a registration does not wake what a person let rest')
    assert.deepEqual(await schedules.register([{ task: 'a', cron: '*/5 * * * *' }]), {
      created: [],
      changed: [],
      deleted: [],
    })
  }))

test('a schedule that moves to another queue of the same registration stays what it was', () =>
  withClient(async ({ schedules }) => {
    await schedules.register([{ task: 'a', cron: '* * * * *' }], { queue: ['one', 'two'] })
    const before = (await schedules.get('a'))!
    const done = await schedules.register([{ task: 'a', cron: '* * * * *', queue: 'two' }], { queue: ['one', 'two'] })
    assert.deepEqual(done, { created: [], changed: ['a'], deleted: [] })
    const after = (await schedules.get('a'))!
    assert.deepEqual([after.queue, after.revision, after.createdAt], ['two', before.revision, before.createdAt])
  }))

test('[TM-043] a registration that holds one wrong schedule changes nothing at all', () =>
  withClient(async ({ schedules }) => {
    await schedules.register([{ task: 'a', cron: '* * * * *' }])
    await assert.rejects(
      schedules.register([
        { task: 'b', cron: '* * * * *' },
        { task: 'c', cron: '61 * * * *' },
      ]),
      (error: EngineError) => error.code === 'VALIDATION' && error.details.index === 1,
    )
    assert.deepEqual(
      (await schedules.list()).map(({ id }) => id),
      ['a'],
    )
  }))

test('[TM-045] [TM-046] valid patterns are accepted, and the next time is the one that the pattern says', () =>
  withClient(async ({ schedules }) => {
    for (const [cron, timeZone] of [
      ['* * * * *', 'UTC'],
      ['*/15 9-17 * * 1-5', 'UTC'],
      ['0 9 * * *', 'Europe/Berlin'],
    ] as const) {
      const before = systemClock.wallMs()
      const row = await schedules.create({ id: `${cron} ${timeZone}`, task: 'a', cron, timeZone })
      const plan = parseCron(cron, timeZone)
      const possible = [nextAfter(plan, before - 5_000), nextAfter(plan, systemClock.wallMs() + 5_000)]
      assert.ok(possible.includes(row.nextAt!.getTime()), `${cron}: ${row.nextAt!.toISOString()}`)
    }
    // and said without our own plans: more than a week of quarters of an hour
    const quarter = 15 * MINUTE
    const counts = (ms: number) => {
      const at = new Date(ms)
      return at.getUTCDay() >= 1 && at.getUTCDay() <= 5 && at.getUTCHours() >= 9 && at.getUTCHours() <= 17
    }
    const firstAfter = (ms: number) => {
      let atMs = Math.floor(ms / quarter) * quarter
      do atMs += quarter
      while (!counts(atMs))
      return atMs
    }
    const from = systemClock.wallMs() - 5_000
    const times = (await schedules.upcoming('*/15 9-17 * * 1-5 UTC', 200)).map(({ at }) => at.getTime())
    assert.equal(times.length, 200)
    assert.ok([firstAfter(from), firstAfter(systemClock.wallMs() + 5_000)].includes(times[0]!))
    for (const [n, atMs] of times.entries()) if (n > 0) assert.equal(atMs, firstAfter(times[n - 1]!))
    const everyMinute = (await schedules.upcoming('* * * * * UTC', 100)).map(({ at }) => at.getTime())
    for (const [n, atMs] of everyMinute.entries()) {
      assert.equal(atMs % MINUTE, 0)
      if (n > 0) assert.equal(atMs - everyMinute[n - 1]!, MINUTE)
    }
    const [at] = await schedules.upcoming('0 9 * * * Europe/Berlin', 1)
    assert.match(at!.local, /^\d{4}-\d\d-\d\d 09:00:00 \+0[12]:00$/)
    assert.equal(at!.timeZone, 'Europe/Berlin')
  }))

test('[TM-047] [TM-048] what is wrong is refused by the name of its field, before anything is written', () =>
  withClient(async ({ schedules }) => {
    const good = { task: 'a', cron: '* * * * *' }
    const wrong: [object, string][] = [
      [{ cron: '60 * * * *' }, 'minute'],
      [{ cron: '* * *' }, 'expression'],
      [{ timeZone: 'Mars/Olympus' }, 'timeZone'],
      [{ task: '' }, 'task'],
      [{ id: 'x'.repeat(256) }, 'id'],
      [{ queue: '' }, 'queue'],
      [{ jitterMs: -1 }, 'jitterMs'],
      [{ jitterMs: 3_600_001 }, 'jitterMs'],
      [{ overlap: 'maybe' }, 'overlap'],
      [{ catchUp: 'some' }, 'catchUp'],
      [{ catchUpWindowMs: 8 * 24 * HOUR }, 'catchUpWindowMs'],
      [{ startsAt: new Date(2_000), endsAt: new Date(1_000) }, 'endsAt'],
      [{ startsAt: 'tomorrow' }, 'startsAt'],
      [{ options: { priority: 101 } }, 'priority'],
      [{ options: { runAt: 5 } }, 'options.runAt'],
      [{ payload: 'x'.repeat(70_000) }, 'payload'],
      [{ every: '5m' }, 'every'],
      [{ paused: 1 }, 'paused'],
    ]
    for (const [change, field] of wrong)
      await assert.rejects(schedules.create({ ...good, ...change }), refusal('VALIDATION', field), field)
    assert.deepEqual(await schedules.list(), [])
    await schedules.create(good)
    await assert.rejects(schedules.create(good), refusal('VALIDATION', 'id'))
    await assert.rejects(schedules.list({ limit: 0 }), refusal('VALIDATION', 'limit'))
  }))

test('update changes what it names and leaves the rest; pause, resume and delete do what they say', () =>
  withClient(async ({ schedules }) => {
    await schedules.create({
      id: 's',
      task: 'a',
      cron: '@hourly',
      payload: { a: 1 },
      options: { priority: 5 },
      jitterMs: 50,
    })
    const changed = await schedules.update('s', { cron: '@daily', timeZone: 'Asia/Kolkata' })
    assert.deepEqual(
      [changed.cron, changed.timeZone, changed.payload, changed.options.priority, changed.jitterMs, changed.revision],
      ['@daily', 'Asia/Kolkata', { a: 1 }, 5, 50, 2],
    )
    assert.equal((await schedules.update('s', { payload: [] })).revision, 2)
    await schedules.pause('s')
    await schedules.pause('s')
    assert.deepEqual([(await schedules.get('s'))!.paused, (await schedules.get('s'))!.nextAt], [true, null])
    await schedules.resume('s')
    assert.ok((await schedules.get('s'))!.nextAt! > new Date())
    await schedules.delete('s')
    assert.equal(await schedules.get('s'), null)
    for (const verb of ['delete', 'pause', 'resume', 'upcoming', 'history'] as const)
      await assert.rejects(schedules[verb]('s') as Promise<unknown>, refusal('SCHEDULE_NOT_FOUND'))
    await assert.rejects(schedules.update('s', {}), refusal('SCHEDULE_NOT_FOUND'))
  }))

test('what was due while a schedule was paused is made up for by nobody: not by who runs, nor by who starts later', () =>
  withFleet(async ({ start, client, query, log }) => {
    for (const [id, cron] of [
      ['each second', '* * * * * *'],
      ['each minute', '* * * * *'],
      ['witness', '* * * * * *'],
    ] as const)
      await client.schedules.create({ id, task: 'noop', cron, catchUp: 'all' })
    // the one of each minute has been paused for half an hour, and nobody has decided anything about it since
    await client.schedules.pause('each minute')
    await query(`update millrace.schedule set since = now() - interval '30 minutes' where id = 'each minute'`)
    await client.schedules.resume('each minute')
    const engine = await start()
    const of = (schedule: string) => (facts: Record<string, unknown>) => facts.schedule === schedule
    await log.times('schedule.fired', 2, of('each second'))
    await client.schedules.pause('each second')
    const { at: pausedAt } = (await query<{ at: Date }>('select clock_timestamp() as at'))[0]!
    const before = log.of('schedule.fired').filter(({ facts }) => of('witness')(facts)).length
    await log.times('schedule.fired', before + 3, of('witness'))
    await client.schedules.resume('each second')
    const since = log.of('schedule.fired').filter(({ facts }) => of('each second')(facts)).length
    await log.times('schedule.fired', since + 1, of('each second'))
    await engine.stop(5_000)
    const later = await start()
    const again = log.of('schedule.fired').length
    await log.times('schedule.fired', again + 2)
    await later.stop(5_000)
    const during = await query(
      `select scheduled_at from millrace.occurrence o join millrace.schedule s on s.id = o.schedule_id
       where s.id = 'each second' and o.scheduled_at > $1 and o.scheduled_at <= s.since`,
      [pausedAt],
    )
    assert.deepEqual(during, [])
    const old = await query(
      `select scheduled_at from millrace.occurrence o join millrace.schedule s on s.id = o.schedule_id
       where s.id = 'each minute' and o.scheduled_at <= s.since`,
    )
    assert.deepEqual(old, [])
    const minutes = await query(`select from millrace.occurrence where schedule_id = 'each minute'`)
    assert.ok(minutes.length <= 3, 'at most those of the minutes that this test took')
  }))

test('[TM-066] [TM-067] list names all schedules, or those of a queue, a page at a time', () =>
  withClient(async ({ schedules, console }) => {
    for (const [id, queue] of [
      ['a', 'queue-a'],
      ['b', 'queue-b'],
      ['c', 'queue-a'],
    ] as const)
      await schedules.create({ id, task: 't', queue, cron: '@daily' })
    const list = async (filter: object) => (await console.schedules.list(filter)).map(({ id }) => id)
    assert.deepEqual(await list({}), ['a', 'b', 'c'])
    assert.deepEqual(await list({ queue: 'queue-a' }), ['a', 'c'])
    assert.deepEqual(await list({ limit: 2 }), ['a', 'b'])
    assert.deepEqual(await list({ limit: 2, after: 'b' }), ['c'])
    assert.deepEqual(await list({ limit: 1, before: 'c' }), ['b'])
  }))

test('[TM-068] [TM-069] [TM-070] trigger enqueues now, lays overrides over the options, and refuses what is not there', () =>
  withClient(async ({ schedules, console }) => {
    await schedules.create({
      id: 'op',
      task: 'report',
      queue: 'q',
      cron: '0 0 1 1 *',
      payload: { a: 1 },
      options: { priority: 7, maxAttempts: 9, meta: { team: 'x' } },
    })
    const next = (await schedules.get('op'))!.nextAt
    const plain = (await console.job((await schedules.trigger('op')).id))!
    assert.deepEqual(
      [plain.state, plain.task, plain.queue, plain.priority, plain.maxAttempts, plain.payload, plain.meta],
      ['queued', 'report', 'q', 7, 9, { a: 1 }, { team: 'x', schedule: 'op' }],
    )
    const other = (await console.job(
      (
        await schedules.trigger('op', { priority: 50, payload: { b: 2 }, meta: { why: 'test' } })
      ).id,
    ))!
    assert.deepEqual(
      [other.priority, other.maxAttempts, other.payload, other.meta],
      [50, 9, { b: 2 }, { team: 'x', why: 'test', schedule: 'op' }],
    )
    const row = (await schedules.get('op'))!
    assert.deepEqual([row.runCount, row.lastJobId, row.lastOutcome, row.nextAt], [2, other.id, 'enqueued', next])
    assert.deepEqual(
      (await schedules.history('op')).map(({ manual, jobId }) => [manual, jobId]),
      [
        [true, other.id],
        [true, plain.id],
      ],
    )
    await assert.rejects(schedules.trigger('unknown'), refusal('SCHEDULE_NOT_FOUND'))
    await assert.rejects(schedules.trigger('op', { delayMs: 1_000 } as object), refusal('VALIDATION'))
  }))

// ------------------------------------------------------------------ engines

/** Every due time between the first and the last that were decided has exactly one job, and none ran before its time. */
async function assertGapless({ query }: Pick<Fleet, 'query'>, everyMs = 1_000): Promise<number> {
  const jobs = await query<{ schedule: string; at: string; n: number }>(
    `select j.meta ->> 'schedule' as schedule, j.meta ->> 'scheduledAt' as at, count(*)::int as n
     from millrace.job j join millrace.occurrence o on o.job_id = j.id group by 1, 2 order by 1, 2`,
  )
  await until('what was made ahead and withdrawn is cancelled and never ran', async () => {
    const others = await query(
      `select j.id from millrace.job j where not exists (select from millrace.occurrence o where o.job_id = j.id)
         and not exists (select from millrace.attempt a where a.job_id = j.id and a.outcome = 'x' and a.started_at is null)`,
    )
    return others.length === 0
  })
  const bySchedule = new Map<string, number[]>()
  for (const { schedule, at, n } of jobs) {
    assert.equal(n, 1, `${schedule} at ${at} has ${n} jobs`)
    bySchedule.set(schedule, [...(bySchedule.get(schedule) ?? []), new Date(at).getTime()])
  }
  for (const [schedule, times] of bySchedule)
    times.forEach((at, n) => {
      if (n > 0) assert.equal(at - times[n - 1]!, everyMs, `${schedule} after ${new Date(times[n - 1]!).toISOString()}`)
    })
  const [facts] = await query<{ early: number; decided: number }>(
    `select count(*) filter (where a.started_at < o.scheduled_at)::int as early, count(distinct o)::int as decided
     from millrace.occurrence o left join millrace.attempt a using (job_id)`,
  )
  assert.equal(facts!.early, 0, 'nothing runs before its time')
  assert.equal(facts!.decided, jobs.length)
  return jobs.length
}

test('[TM-095] three engines and many schedules due in the same second: every due time is run exactly once', () =>
  withFleet(async (fleet) => {
    const { start, client, log, query } = fleet
    const list = Array.from({ length: 40 }, (_, n) => ({ id: `job ${n}`, task: 'noop', cron: '* * * * * *' }))
    const engines = await Promise.all([1, 2, 3].map(() => start()))
    await client.schedules.register(list)
    await log.times('schedule.fired', 40 * 4)
    await client.schedules.register([])
    await log.times('schedule.fired', 40 * 4)
    await Promise.all(engines.map((engine) => engine.drain()))
    const jobs = await assertGapless(fleet)
    assert.ok(jobs >= 160)
    await until('all have run', async () => {
      const [done] = await query<{ n: number }>(`select count(*)::int as n from millrace.attempt where outcome = 'c'`)
      return done!.n === jobs
    })
    const runs = await query(`select job_id from millrace.attempt group by job_id having count(*) > 1`)
    assert.deepEqual(runs, [], 'no job ran twice')
    assert.equal(
      engines.reduce((sum, engine) => sum + engine.stats().occurrences, 0),
      jobs,
    )
  }))

test('[TM-049] [TM-051] [TM-052] [TM-081] what is due is enqueued once and completed, with its next time moved; what is not stays', () =>
  withFleet(async ({ start, client, log, query }) => {
    const engine = await start({
      schedules: [
        { id: 'a', task: 'noop', cron: '* * * * * *' },
        { id: 'b', task: 'noop', cron: '* * * * * *' },
        { id: 'c', task: 'noop', cron: '* * * * * *', options: { priority: 10 } },
        { id: 'later', task: 'noop', cron: '0 0 1 1 *' },
      ],
    })
    const before = (await client.schedules.get('a'))!
    for (const id of ['a', 'b', 'c']) await log.times('schedule.fired', 2, (facts) => facts.schedule === id)
    await client.schedules.pause('a')
    await engine.drain()
    await until('what ran is noted', async () => (await client.schedules.get('a'))!.runCount >= 2)
    const after = (await client.schedules.get('a'))!
    assert.equal(after.lastOutcome, 'enqueued')
    assert.ok(after.lastScheduledAt! >= before.nextAt!)
    const moved = (await client.schedules.get('b'))!
    assert.ok(moved.nextAt! > before.nextAt! && moved.nextAt! > moved.lastScheduledAt!)
    assert.equal((await client.schedules.get('later'))!.runCount, 0)
    assert.equal(log.of('schedule.fired').filter(({ facts }) => facts.schedule === 'later').length, 0)
    const [first] = (await client.schedules.history('a', { limit: 1_000 })).slice(-1)
    await until('its job is completed', async () => (await client.console.job(first!.jobId!))!.state === 'completed')
    const completed = await query<{ id: string }>(
      `select distinct meta ->> 'schedule' as id from millrace.jobs where state = 'completed' order by 1`,
    )
    assert.deepEqual(
      completed.map(({ id }) => id),
      ['a', 'b', 'c'],
    )
    const priorities = await query(`select distinct priority from millrace.jobs where meta ->> 'schedule' = 'c'`)
    assert.deepEqual(priorities, [{ priority: 10 }])
    assert.ok(log.lines.every(({ level }) => level !== 'error'))
    const doubles = await query(
      `select meta ->> 'scheduledAt' from millrace.job group by meta ->> 'schedule', 1 having count(*) > 1`,
    )
    assert.deepEqual(doubles, [])
    assert.ok(engine.stats().occurrences >= 6)
    assert.ok(engine.stats().lateMs.p50 > 0)
  }))

test('[TM-044] all options that were registered are those of the jobs, made ahead or at their time', () =>
  withFleet(async ({ start, client, log, query }) => {
    const common = {
      priority: -5,
      maxAttempts: 2,
      timeoutMs: 1_234,
      retry: { kind: 'fixed', delayMs: 7 },
      meta: { team: 'x' },
    } as const
    const inGroup = { ...common, group: 'g', groupLimit: 2, onRetry: 'skip' } as const
    const schedules = [
      { id: 'plain', task: 'noop', cron: '* * * * * *', options: common },
      { id: 'in a group', task: 'noop', cron: '* * * * * *', options: inGroup },
      { id: 'leaves nothing', task: 'noop', cron: '* * * * * *', options: { ephemeral: true } },
    ]
    await start({ schedules })
    for (const { id, options } of schedules) {
      await log.times('schedule.fired', 1, (facts) => facts.schedule === id)
      const { maxAttempts, ...stored } = (await client.schedules.get(id))!.options
      assert.deepEqual({ maxAttempts: 3, ...options }, { maxAttempts, ...stored })
    }
    const firstOf = async (id: string) => (await client.schedules.history(id, { limit: 1_000 })).at(-1)!.jobId!
    for (const { id, options } of schedules.slice(0, 2)) {
      const jobId = await firstOf(id)
      const [row] = await query(
        `select priority, max_attempts, timeout_ms, retry, group_key, group_limit, retry_skips, meta ->> 'team' as team, meta ->> 'schedule' as schedule
         from millrace.job where id = $1`,
        [jobId],
      )
      const grouped = 'group' in options
      assert.deepEqual(row, {
        priority: -5,
        max_attempts: 2,
        timeout_ms: 1_234,
        retry: common.retry,
        group_key: grouped ? 'g' : null,
        group_limit: grouped ? 2 : null,
        retry_skips: grouped ? true : null,
        team: 'x',
        schedule: id,
      })
      await until('it ran', async () => (await client.console.job(jobId))!.state === 'completed')
    }
    const gone = await firstOf('leaves nothing')
    await until('it is gone', async () => (await client.console.job(gone)) === null)
  }))

test('[TM-055] an engine with schedules starts and stops without an error, also between two due times', () =>
  withFleet(async ({ start, log }) => {
    const engine = await start({ schedules: [{ task: 'noop', cron: '* * * * * *' }] })
    const report = await engine.stop()
    assert.deepEqual(report, { released: 0, interrupted: [], outboxed: 0 })
    assert.deepEqual(
      log.lines.filter(({ level }) => level === 'error' || level === 'warn'),
      [],
    )
  }))

test('[TM-056] [CS-091] a schedule that is made while engines run is due at its first time after that, not at the next look', () =>
  withFleet(async ({ start, client, log }) => {
    await start()
    const atMs = Math.floor(systemClock.wallMs() / 1_000) * 1_000 + 3_000
    const at = new Date(atMs)
    const row = await client.schedules.create({
      id: 'soon',
      task: 'noop',
      cron: `${at.getUTCSeconds()} ${at.getUTCMinutes()} ${at.getUTCHours()} * * *`,
    })
    assert.equal(row.nextAt!.getTime(), atMs)
    await log.times('schedule.fired', 1)
    const [first] = await client.schedules.history('soon')
    assert.equal(first!.scheduledAt.getTime(), atMs)
    assert.ok(first!.lateMs >= 0 && first!.lateMs < 20_000, `late ${first!.lateMs}`)
  }))

test('[TM-096] registering while engines run is safe: what is listed runs, what is not stops, nothing doubles', () =>
  withFleet(async (fleet) => {
    const { start, client, log } = fleet
    await Promise.all([start(), start()])
    const list = (from: number) =>
      Array.from({ length: 10 }, (_, n) => ({ id: `job ${from + n}`, task: 'noop', cron: '* * * * * *' }))
    await client.schedules.register(list(0))
    for (let round = 1; round <= 4; round++) {
      await log.times('schedule.fired', round * 10)
      // two at once, which list the same: the second finds it done
      await Promise.all([client.schedules.register(list(round)), client.schedules.register(list(round))])
    }
    await log.times('schedule.fired', 1, (facts) => facts.schedule === 'job 13')
    assert.deepEqual(
      (await client.schedules.list()).map(({ id }) => id),
      list(4)
        .map(({ id }) => id)
        .sort(),
    )
    await client.schedules.register([])
    assert.deepEqual(
      log.lines.filter(({ level }) => level === 'error'),
      [],
    )
    await assertGapless(fleet)
  }))

test('a node that is killed after it won an occurrence leaves a job that another node runs, once', () =>
  withFleet(async ({ start, client, db, query }) => {
    await client.schedules.register([{ id: 'job', task: 'noop', cron: '* * * * * *' }])
    // it takes nothing from the queue of these jobs: whatever it wins it cannot run
    const winner = startEngine({ database: db.url, schema: db.schema, tasks: TASKS, threads: 1, queues: ['elsewhere'] })
    await winner.ready()
    await until('it has won some', async () => (await client.schedules.history('job')).length >= 2)
    await winner.kill9()
    await client.schedules.pause('job')
    const won = await client.schedules.history('job')
    await (await start()).drain()
    for (const { jobId } of won)
      await until(`job ${jobId} is completed`, async () => (await client.console.job(jobId!))!.state === 'completed')
    const [facts] = await query(
      `select count(*)::int as runs, count(distinct job_id)::int as jobs from millrace.attempt`,
    )
    assert.deepEqual(facts, { runs: won.length, jobs: won.length })
  }))

test('a clock that is minutes off changes nothing: due times are those of the database', () =>
  withFleet(async (fleet) => {
    const { start, log, client, query } = fleet
    const off = (ms: number): Clock => ({
      ...systemClock,
      wallMs: () => systemClock.wallMs() + ms,
      machine: { clock: systemClock, at: (wallMs) => wallMs + ms }, // threads have no other clock than this machine's
    })
    await start({ clock: off(7 * MINUTE) })
    await start({ clock: off(-7 * MINUTE) })
    await client.schedules.register([{ id: 'job', task: 'noop', cron: '* * * * * *' }])
    await log.times('schedule.fired', 4)
    await client.schedules.register([])
    await assertGapless(fleet)
    const [late] = await query<{ max: number }>(`select max(late_ms) from millrace.occurrence`)
    assert.ok(late!.max < 30_000, `late ${late!.max}`)
    const nodes = await query(`select distinct node_id from millrace.occurrence`)
    assert.ok(nodes.length >= 1)
  }))

test('a restart within the grace time neither loses nor repeats a due time', () =>
  withFleet(async (fleet) => {
    const { start, log, client } = fleet
    await client.schedules.register([{ id: 'job', task: 'noop', cron: '* * * * * *', catchUp: 'none' }])
    const first = await start()
    await log.times('schedule.fired', 2)
    await first.stop()
    const fired = log.of('schedule.fired').length
    await until('a due time has passed with nobody there', async () => {
      const [last] = await client.schedules.history('job', { limit: 1 })
      return systemClock.wallMs() - last!.scheduledAt.getTime() > 2_100
    })
    await start()
    await log.times('schedule.fired', fired + 4)
    await client.schedules.register([])
    await assertGapless(fleet)
  }))

for (const [catchUp, expected] of [
  ['none', 0],
  ['one', 1],
  ['all', 3],
] as const)
  test(`after three hours with nobody there, catch-up ${catchUp} makes ${expected} of three jobs, with three engines too`, () =>
    withFleet(async ({ start, client, query, log }) => {
      const minute = (new Date().getUTCMinutes() + 30) % 60
      await client.schedules.create({ id: 'job', task: 'noop', cron: `${minute} * * * *`, catchUp })
      await client.schedules.create({ id: 'witness', task: 'noop', cron: '* * * * * *' })
      await query(
        `update millrace.schedule set since = now() - interval '1 day', last_scheduled_at = now() - interval '3 hours 1 minute' where id = 'job'`,
      )
      await Promise.all([start(), start(), start()])
      await log.times('schedule.fired', 3, (facts) => facts.schedule === 'witness')
      const done = await client.schedules.history('job')
      assert.equal(done.length, expected)
      if (expected > 0) assert.ok(systemClock.wallMs() - done[0]!.scheduledAt.getTime() < 35 * MINUTE, 'the newest')
      assert.deepEqual(
        done.map(({ outcome }) => outcome),
        new Array(expected).fill('enqueued'),
      )
    }))

test('[TM-054] a schedule that cannot be enqueued is marked as failed, tried again at its next time, and harms no other', () =>
  withFleet(async ({ start, client, log, query }) => {
    await client.schedules.create({ id: 'bad', task: 'noop', cron: '* * * * * *' })
    await client.schedules.create({ id: 'good', task: 'noop', cron: '* * * * * *' })
    await query(`update millrace.schedule set options = '{"priority": 9999}' where id = 'bad'`)
    await start()
    await log.times('schedule.fire_failed', 2, (facts) => facts.schedule === 'bad')
    await log.times('schedule.fired', 2, (facts) => facts.schedule === 'good')
    await until('it is marked', async () => (await client.schedules.get('bad'))!.lastOutcome === 'failed')
    const bad = (await client.schedules.get('bad'))!
    assert.match(bad.lastError!, /job_limits/)
    assert.ok(bad.nextAt! > bad.lastScheduledAt!)
    await query(`update millrace.schedule set options = '{}' where id = 'bad'`)
    await log.times('schedule.fired', 1, (facts) => facts.schedule === 'bad')
    assert.equal((await client.schedules.get('bad'))!.lastError, null)
  }))

test('[CS-038] [CS-042] an expression that became invalid is named once, shown as the error of its schedule, and harms no other', () =>
  withFleet(async ({ start, client, log, query }) => {
    await client.schedules.create({ id: 'bad', task: 'noop', cron: '* * * * * *' })
    await client.schedules.create({ id: 'good', task: 'noop', cron: '* * * * * *' })
    await query(`update millrace.schedule set cron = '99 * * * *' where id = 'bad'`)
    await Promise.all([start()])
    await log.times('schedule.fired', 2, (facts) => facts.schedule === 'good')
    assert.equal(log.of('schedule.invalid').length, 1)
    const bad = (await client.schedules.get('bad'))!
    assert.match(bad.error!, /minute/)
    assert.equal(bad.nextAt, null)
    await client.schedules.update('bad', { cron: '* * * * * *' })
    await log.times('schedule.fired', 1, (facts) => facts.schedule === 'bad')
    assert.equal((await client.schedules.get('bad'))!.error, null)
  }))

test('[TM-129] an engine without schedules runs, does nothing about them, and opens no connection for them', () =>
  withFleet(async ({ client, start, db, log, query }) => {
    const engine = await start()
    await engine.enqueue('noop', null)
    await engine.drain()
    const sessions = async () =>
      (
        await query(
          `select from pg_stat_activity where application_name = 'millrace schedule' and query like '%' || $1 || '%'`,
          [db.schema],
        )
      ).length
    assert.equal(await sessions(), 0)
    assert.equal(engine.stats().occurrences, 0)
    await client.schedules.create({ id: 'first', task: 'noop', cron: '* * * * * *' })
    await log.times('schedule.fired', 1)
    assert.equal(await sessions(), 1, 'the first schedule opens it')
  }))
