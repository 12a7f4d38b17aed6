// A row that was written by hand stops nobody else's job: promotions, expiries, claims, rescues, lists and schedules go on,
// and what cannot be processed is a dead letter that says why.

import assert from 'node:assert/strict'
import { after, before, beforeEach, test } from 'node:test'
import { Recurring } from '../engine/base/recurring.ts'
import { openConsole } from '../engine/console.ts'
import { createClient } from '../engine/index.ts'
import { withEngines } from './support/engine.ts'
import { violations } from './support/facts.ts'
import { ManualClock } from './support/manual-clock.ts'
import { openStore, type StoreBundle } from './support/store.ts'

const HOUR = 3_600_000

let it: StoreBundle
before(async () => {
  it = await openStore()
  // as a table from before the CHECK, or one whose CHECK somebody has taken away
  const checks = await it.query<{ table: string; name: string }>(
    `select conrelid::regclass::text as table, conname as name from pg_constraint
     where contype = 'c' and conrelid::regclass::text ~ '(scheduled|expiring|schedule)$' and connamespace = '${it.db.schema}'::regnamespace`,
  )
  for (const { table, name } of checks) await it.query(`alter table ${table} drop constraint "${name}"`)
})
after(() => it.close())
beforeEach(async () => {
  await it.empty()
})

const invalid = async () =>
  await it.query<{ id: number; message: string }>(
    `select job_id::int as id, reason ->> 'message' as message from millrace.dead where code = 'ROW_INVALID' order by 1`,
  )
const stateOf = async (id: number) =>
  (await it.query<{ state: string }>('select state from millrace.jobs where id = $1', [id]))[0]!.state

test('a job whose run_at is infinite is set aside, and delayed jobs are promoted and claimed ahead as ever', async () => {
  const node = await it.join()
  const bad = await it.put(1, { runAtMs: Date.now() + HOUR, group: 'g', key: 'k' })
  const worse = await it.put(1, { runAtMs: Date.now() + HOUR })
  const good = await it.put(1, { runAtMs: Date.now() + HOUR })
  const soon = await it.put(1, { runAtMs: Date.now() + HOUR })
  await it.query(
    `update millrace.scheduled set run_at = case first_id when $1 then 'infinity'::timestamptz when $2 then '-infinity'
    when $3 then now() - interval '1 second' else now() + interval '1 hour' end`,
    [bad, worse, good],
  )
  const ahead = await it.store.claimAhead(
    { nodeId: node, queueIds: [it.queueId], taskIds: null, jobsMax: 10, bytesMax: 1e9 },
    2 * HOUR,
  )
  assert.deepEqual(
    ahead.chunks.map(({ firstId }) => firstId),
    [soon],
  )
  assert.ok(ahead.nextInMs === null || Number.isFinite(ahead.nextInMs))
  const promoted = await it.store.promote(100)
  assert.deepEqual([promoted.moved, promoted.aside, promoted.nextInMs], [1, 2, null])
  assert.deepEqual(
    (await it.claim(node)).map(({ firstId }) => firstId),
    [good],
  )
  assert.deepEqual(
    (await invalid()).map(({ id }) => id),
    [bad, worse],
  )
  assert.match((await invalid())[0]!.message, /scheduled.*infinite/)
  assert.deepEqual(await it.query('select key from millrace.key'), [], 'its key is free')
  await it.query('select millrace.requeue($1)', [[bad]])
  assert.equal(await stateOf(bad), 'queued')
})

test('a row that cannot be moved is set aside by promotion, and the other jobs of its batch run', async () => {
  const node = await it.join()
  const ids: number[] = []
  for (let at = 0; at < 5; at++) ids.push(await it.put(1, { runAtMs: Date.now() + HOUR }))
  await it.query('update millrace.scheduled set run_at = now()')
  // stands twice: ready for one, due for another
  await it.query(
    `insert into millrace.ready (first_id, rank, queue_id, task_id, bytes, count, attempt, run, rescues)
    select first_id, rank, queue_id, task_id, bytes, count, attempt, run, rescues from millrace.scheduled where first_id = $1`,
    [ids[2]],
  )
  // a chunk that begins below it and ends where no id is
  await it.query(`update millrace.scheduled set count = 0 where first_id = $1`, [ids[4]])
  await it.query(`update millrace.scheduled set attempt = 0 where first_id = $1`, [ids[1]])
  const promoted = await it.store.promote(100)
  assert.equal(promoted.aside, 2)
  assert.deepEqual((await it.claim(node)).map(({ firstId }) => firstId).sort(), [ids[0]!, ids[2]!, ids[3]!])
  assert.deepEqual(
    (await invalid()).map(({ id }) => id),
    [ids[1]],
  )
  assert.equal((await it.store.promote(100)).aside, undefined, 'once')
})

test('a job that cannot expire is set aside by the sweep, and the others expire', async () => {
  const ids: number[] = []
  for (let at = 0; at < 3; at++) ids.push(await it.put(1, { expiresAtMs: Date.now() - 1, key: `k${at}` }))
  // an attempt of this very run
  await it.query(
    `insert into millrace.attempt (job_id, run, attempt, outcome, node_id, lane, finished_at) values ($1, 1, 1, 'f', 0, -1, now())`,
    [ids[1]],
  )
  const forever = await it.put(1, { expiresAtMs: Date.now() + HOUR })
  await it.query(`update millrace.expiring set look_at = 'infinity' where first_id = $1`, [forever])
  assert.deepEqual(await it.store.expireDue(100), { expired: 2, more: false, aside: 1 })
  assert.deepEqual(await Promise.all(ids.map(stateOf)), ['expired', 'failed', 'expired'])
  assert.deepEqual(
    (await invalid()).map(({ id }) => id),
    [ids[1]],
  )
  assert.deepEqual(await it.query('select key from millrace.key'), [])
  assert.deepEqual(await it.store.expireDue(100), { expired: 0, more: false })
})

test('a job that cannot be put back is set aside by the rescue, and the others of its lease run elsewhere', async () => {
  const dying = await it.join()
  const ids: number[] = []
  ids.push(await it.put(3), await it.put(1))
  await it.claim(dying)
  const [first, other] = ids as [number, number]
  // a run that has no next number; and a job that stands in ready while it is held
  await it.query(
    `update millrace.lease set chunks = array(select case when c.first_id = $1 then
    row(c.first_id, c.count, c.attempt, 32767, 1, c.rank, c.seq)::millrace.chunk else c end from unnest(chunks) c)`,
    [other],
  )
  await it.query(
    `insert into millrace.running (job_id, lease_id, run, lane, started_at) select $1, id, 32767, 0, now() from millrace.lease`,
    [other],
  )
  await it.query(
    `insert into millrace.ready (first_id, rank, queue_id, task_id, bytes, count, attempt, run, rescues) values ($1, 0, $2, $3, 1, 1, 1, 2, 0)`,
    [first, it.queueId, it.taskId],
  )
  const done = await it.store.rescue(dying, 3, true)
  assert.deepEqual([done!.gone, done!.aside], [true, 2])
  assert.deepEqual(
    (await invalid()).map(({ id }) => id),
    [other],
  )
  const node = await it.join()
  const again = await it.claim(node)
  assert.deepEqual(again.map(({ firstId }) => firstId).sort(), [first, first + 1, first + 2])
  assert.deepEqual(await violations(it.query), [])
})

test('lists, explain and doctor read what no Date tells and what is nested too deep, and doctor names what is wrong', async () => {
  const id = await it.put(1, { runAtMs: Date.now() + HOUR, expiresAtMs: Date.now() + HOUR })
  await it.query(
    `update millrace.job set run_at = 'infinity', expires_at = '294276-01-01', created_at = '-infinity', payload = (repeat('[', 5000) || repeat(']', 5000))::json where id = $1`,
    [id],
  )
  await it.query(`update millrace.scheduled set run_at = 'infinity'`)
  const dead = await it.put(1)
  await it.query(`delete from millrace.ready`)
  await it.query(
    `insert into millrace.dead (job_id, queue_id, task_id, attempts, run, code, reason, died_at) values ($1, $2, $3, 1, 1, 'ROW_INVALID', '{}', 'infinity')`,
    [dead, it.queueId, it.taskId],
  )
  const waiting = await it.put(1)
  await it.query(`update millrace.ready set due_at = '-infinity' where first_id = $1`, [waiting])
  await it.query(
    `insert into millrace.schedule (id, queue_id, task_id, cron, changed, since, starts_at, error) values ('s', $1, $2, '61 99 * * *', 1, 'infinity', '-infinity', 'minute is out of range')`,
    [it.queueId, it.taskId],
  )
  const console = openConsole(it.store, 'v20')
  const jobs = await console.jobs()
  assert.equal(jobs.length, 3)
  JSON.stringify(jobs)
  const life = await console.explain(id)
  JSON.stringify(life)
  assert.equal(typeof life.job.payload, 'string')
  assert.equal((await console.explain(dead)).job.state, 'failed')
  JSON.stringify([await console.queues(), await console.dead.list(), await console.queue.stats('default')])
  await it.query(`update millrace.scheduled set run_at = now() - interval '1 hour'`)
  await it.query(`update millrace.expiring set look_at = now() - interval '2 hours'`)
  const silent = await it.join()
  await it.query(`update millrace.node set seen_at = now() - interval '3 hours' where id = $1`, [silent])
  assert.deepEqual(
    (await console.doctor())
      .filter(({ verdict }) => verdict === 'bad')
      .map(({ check }) => check)
      .filter((check) => !['schedule s', 'rows set aside'].includes(check)),
    [],
    'nobody runs who should do it',
  )
  await it.join()
  const bad = (await console.doctor()).filter(({ verdict }) => verdict === 'bad')
  assert.deepEqual(
    bad.map(({ check }) => check),
    ['promotions', 'expiries', 'rescues', 'schedule s', 'rows set aside'],
  )
  assert.match(bad[0]!.value, /^behind by 3\d\d\d s$/)
  const client = createClient({ database: it.db.url, schema: it.db.schema })
  try {
    const [schedule] = await client.schedules.list()
    assert.match(String(schedule!.error), /out of range/)
    JSON.stringify(schedule)
  } finally {
    await client.close()
  }
})

test('a schedule whose row is not valid is named and left out, and those that are due with it run in time', async () => {
  await withEngines(async ({ engine, client, query, until }) => {
    const errors: string[] = []
    const log = {
      debug() {},
      info() {},
      warn() {},
      error: (facts: object, event: string) => void errors.push(`${event} ${JSON.stringify(facts)}`),
    }
    await query(`select millrace.put_schedule('good', 'echo', '* * * * * *')`)
    await query(
      `select millrace.put_schedule(id, 'echo', '* * * * * *') from unnest(array['options', 'zone', 'cron', 'since']) id`,
    )
    await query(`update millrace.schedule set options = '{"timeoutMs": "soon"}' where id = 'options'`)
    await query(`update millrace.schedule set time_zone = 'Mars/Base' where id = 'zone'`)
    await query(`update millrace.schedule set cron = '61 99 * * *' where id = 'cron'`)
    await query('alter table millrace.schedule drop constraint schedule_check3')
    await query(`update millrace.schedule set since = 'infinity', last_scheduled_at = 'infinity' where id = 'since'`)
    const one = await engine({ log: log as never })
    await until('the good one has run twice', async () => (await client.schedules.history('good')).length >= 2)
    const list = await client.schedules.list()
    assert.deepEqual(
      list.filter(({ error }) => error !== null).map(({ id }) => id),
      ['cron', 'since', 'zone'],
    )
    for (const id of ['cron', 'since', 'zone']) {
      assert.ok(
        errors.some((line) => line.startsWith('schedule.invalid') && line.includes(`"${id}"`)),
        id,
      )
      assert.ok(
        (await client.console.doctor()).some(({ check, verdict }) => check === `schedule ${id}` && verdict === 'bad'),
      )
      assert.deepEqual(await client.schedules.history(id), [])
    }
    const options = await until('the one with wrong options has failed', async () => {
      const found = (await client.schedules.get('options'))!
      return found.lastOutcome === 'failed' && found
    })
    assert.equal(options.error, null)
    assert.ok(
      (await client.console.doctor()).some(({ check, verdict }) => check === 'schedule options' && verdict === 'warn'),
    )
    await query(`update millrace.schedule set since = now(), last_scheduled_at = now()`)
    await query(
      `alter table millrace.schedule add constraint schedule_check3 check (isfinite(since) and isfinite(last_scheduled_at) and isfinite(last_decided_at))`,
    )
    await client.schedules.delete('good')
    await one.drain()
  })
})

test('work that goes on failing is an error in the log, once a minute, and a warning when it fails once', () => {
  const clock = new ManualClock()
  const lines: string[] = []
  const write = (level: string) => (facts: object) =>
    void lines.push(`${level} ${(facts as { failures?: number }).failures ?? 1}`)
  const log = { debug: write('debug'), info: write('info'), warn: write('warn'), error: write('error') }
  const recurring = new Recurring(clock, log as never, 'x.failed')
  recurring.failed(new Error('one'))
  recurring.succeeded()
  for (let at = 0; at < 130; at++) {
    recurring.failed(new Error('again'))
    clock.advance(1_000)
  }
  assert.deepEqual(lines, ['warn 1', 'warn 1', 'error 11', 'error 71'])
})
