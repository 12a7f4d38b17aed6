// The roles of a database: what an engine, a producer and a reader can do, and what PostgreSQL refuses them. Real roles, on
// the test's server, dropped afterwards.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import pg from 'pg'
import { systemClock } from '../engine/base/clock.ts'
import { createClient, createEngine } from '../engine/index.ts'
import { RetentionStore } from '../engine/store/retention-store.ts'
import { Store } from '../engine/store/store.ts'
import { openTestDatabase } from './support/database.ts'
import { TASKS } from './support/engine.ts'
import { until } from './support/until.ts'

const KINDS = ['engine', 'producer', 'reader'] as const
type Kind = (typeof KINDS)[number]

interface Roles {
  readonly schema: string
  /** As the owner. */
  readonly query: (sql: string, params?: unknown[]) => Promise<Record<string, unknown>[]>
  url(kind: Kind): string
  /** As that role; the session is closed at the end. */
  as(kind: Kind): Promise<(sql: string, params?: unknown[]) => Promise<Record<string, unknown>[]>>
  /** Every one of these statements is refused for want of a right. */
  refused(kind: Kind, statements: readonly string[]): Promise<void>
}

async function withRoles(run: (roles: Roles) => Promise<void>): Promise<void> {
  const db = await openTestDatabase()
  const suffix = randomBytes(4).toString('hex')
  const name = (kind: Kind) => `mr "${kind}" ${suffix}`
  const quoted = (kind: Kind) => `"${name(kind).replaceAll('"', '""')}"`
  const sessions: pg.Client[] = []
  const made: string[] = []
  const bound = (sql: string) => sql.replace(/\bmillrace\./g, `"${db.schema}".`)
  const url = (kind: Kind) => {
    const it = new URL(db.url)
    it.username = encodeURIComponent(name(kind))
    it.password = 'secret'
    return it.href
  }
  const as = async (kind: Kind) => {
    const session = new pg.Client({ connectionString: url(kind) })
    sessions.push(session)
    await session.connect()
    return async (sql: string, params?: unknown[]) =>
      (await session.query(bound(sql), params)).rows as Record<string, unknown>[]
  }
  try {
    const owner = createClient({ database: db.url, schema: db.schema })
    await owner.migrate()
    for (const kind of KINDS) {
      await db.query(`create role ${quoted(kind)} login password 'secret'`)
      made.push(quoted(kind))
      // printed, and run at once: the same statements; twice is once
      const printed = await owner.console.grants(name(kind), kind)
      const done = await db.query<{ s: string }>(bound(`select millrace.grant_${kind}($1) as s`), [name(kind)])
      assert.deepEqual(
        done.map(({ s }) => `${s};`),
        printed,
      )
      for (const statement of printed) await db.query(statement)
    }
    await assert.rejects(owner.console.grants('nobody at all', 'reader'), { code: 'VALIDATION' })
    await assert.rejects(owner.console.grants(name('reader'), 'king' as never), { code: 'VALIDATION' })
    await owner.close()
    await run({
      schema: db.schema,
      query: (sql, params) => db.query(bound(sql), params),
      url,
      as,
      async refused(kind, statements) {
        const ask = await as(kind)
        for (const statement of statements)
          await assert.rejects(ask(statement), { code: '42501' }, `${kind}: ${statement}`)
      },
    })
  } finally {
    await Promise.all(sessions.map((it) => it.end()))
    await db.query(`drop schema if exists "${db.schema}" cascade`)
    for (const role of made) await db.query(`drop owned by ${role}; drop role ${role}`)
    await db.close()
  }
}

test('an engine works as a role that owns nothing: jobs, groups, schedules, requeues, new partitions, retention', async () => {
  await withRoles(async ({ schema, query, url, refused }) => {
    const base = { database: url('engine'), schema }
    const engine = createEngine({ ...base, tasks: TASKS, threads: 1, nodeHeartbeatMs: 200, nodeLimitMs: 1_000 })
    const client = createClient(base)
    try {
      await engine.start()
      const { ids } = await client.enqueueMany(
        'echo',
        Array.from({ length: 3_000 }, (_, at) => at),
      )
      const [grouped, keyed, later] = await Promise.all([
        client.enqueue('echo', 1, { group: 'g' }),
        client.enqueue('echo', 1, { idempotencyKey: 'k' }),
        client.enqueue('echo', 1, { delayMs: 500, expiresAt: Date.now() + 60_000 }),
      ])
      const failing = await client.enqueue('careful', 1, { maxAttempts: 1 })
      await client.schedules.create({ id: 's', task: 'echo', cron: '* * * * * *' })
      const state = async (id: number) => (await client.console.job(id))?.state
      for (const id of [ids[0]!.first + ids[0]!.count - 1, grouped.id, keyed.id, later.id])
        await until('it has ended', async () => (await state(id)) === 'completed')
      await until('the schedule has run', async () =>
        (await client.schedules.history('s')).some((row) => row.jobState === 'completed'),
      )
      await client.schedules.delete('s')
      await until('it is dead', async () => (await state(failing.id)) === 'failed')
      assert.equal((await client.console.dead.requeue({ id: failing.id })).requeued, 1)
      assert.ok((await client.console.doctor()).length > 5)
      await engine.drain()
    } finally {
      await engine.stop()
      await client.close()
    }
    // spans of ids that come later, and what goes
    await query(`update millrace.job set created_at = now() - interval '40 days'`)
    await query(`update millrace.attempt set finished_at = now() - interval '40 days'`)
    const store = new Store({
      url: url('engine'),
      schema,
      clock: systemClock,
      timeoutMs: 20_000,
      prepared: true,
      name: 'test',
    })
    const retention = new RetentionStore(store)
    try {
      await query(`select setval('"${schema}".id_block', 100000)`)
      await store.reserveBlocks(1)
      const spans = await query(
        `select count(*)::int as n from pg_inherits where inhparent = '"${schema}".job'::regclass`,
      )
      assert.ok((spans[0]!.n as number) > 3)
      assert.equal((await retention.retireSpan(86_400_000, 1_000))!.outcome, 'dropped')
      await retention.sweepAttic(86_400_000, 1_000)
      assert.deepEqual((await retention.analyzeParents(1_000)).sort(), ['attempt', 'job'])
    } finally {
      await retention.close()
      await store.close()
    }
    await refused('engine', [
      'drop table millrace.job',
      'alter table millrace.job add column more int',
      'create table millrace.mine (n int)',
      'truncate millrace.job',
      `update millrace.migration set version = 1`,
      `create or replace function millrace.enqueue_plain(p int) returns int language sql as 'select 1'`,
    ])
  })
})

test('a producer enqueues by SQL and by a client, and can neither read a job nor change one', async () => {
  await withRoles(async ({ schema, query, url, as, refused }) => {
    const ask = await as('producer')
    const [job] = await ask(
      `select millrace.enqueue('echo', '{"secret": 1}', idempotency_key => 'k', group_key => 'g', run_at => now() + interval '1 hour', expires_at => now() + interval '2 hours') as id`,
    )
    const [again] = await ask(`select millrace.enqueue('echo', '{"secret": 1}', idempotency_key => 'k') as id`)
    assert.equal(again!.id, job!.id)
    await assert.rejects(ask(`select millrace.enqueue('echo', run_at => 'infinity')`), { code: 'MR400' })
    await ask('begin')
    await ask(`select millrace.enqueue('echo')`)
    await ask('rollback')

    const client = createClient({ database: url('producer'), schema })
    try {
      assert.equal((await client.enqueue('echo', 1)).duplicate, false)
      assert.equal((await client.enqueue('echo', 1, { idempotencyKey: 'k', onDuplicate: 'ignore' })).duplicate, true)
      const many = await client.enqueueMany(
        'echo',
        Array.from({ length: 2_500 }, (_, at) => ({ at })),
        { meta: { a: 1 } },
      )
      assert.equal(many.count, 2_500)
      await assert.rejects(
        client.enqueueMany([
          { task: 'echo', payload: 1, options: { idempotencyKey: 'k' } },
          ...Array.from({ length: 2_000 }, () => ({ task: 'echo', payload: 1 })),
        ]),
        { code: 'DUPLICATE_TASK' },
      )
      await assert.rejects(client.console.jobs(), { code: 'STORE_REFUSED' })
      await assert.rejects(client.console.cancel(Number(job!.id)), { code: 'STORE_REFUSED' })
    } finally {
      await client.close()
    }
    const [{ n }] = (await query('select count(*)::int as n from millrace.jobs where payload is not null')) as [
      { n: number },
    ]
    assert.equal(n, 1 + 1 + 2_500)

    const id = String(job!.id)
    await refused('producer', [
      'select payload from millrace.job',
      'select * from millrace.jobs',
      'select * from millrace.attempts',
      'select * from millrace.dead_letters',
      'select * from millrace.key',
      `update millrace.job set payload = '1' where id = ${id}`,
      `delete from millrace.job where id = ${id}`,
      'delete from millrace.ready',
      `insert into millrace.job (id, queue_id, task_id, payload_bytes, priority, max_attempts, payload) values (7, 1, 1, 1, 0, 1, '1')`,
      `insert into millrace.ready (first_id, rank, queue_id, task_id, bytes, count, attempt, run, rescues) values (${id}, 0, 1, 1, 1, 1, 1, 1, 0)`,
      `select millrace.cancel(${id}, 'no')`,
      `select millrace.requeue('{${id}}')`,
      `select * from millrace.claim(1, '{1}', null, 1, 1000, null)`,
      `select * from millrace.promote(1)`,
      `select millrace.let_go('{${id}}', '{${id}}', '{${id}}')`,
      `select millrace.put_schedule('s', 'echo', '@hourly')`,
      `select millrace.put_schedules('[]', 'api', false, '{1}')`,
      `select millrace.pause_schedule('s')`,
      `select * from millrace.retire_span(0, 1)`,
      `select millrace.grant_engine(current_user)`,
      'create table millrace.mine (n int)',
    ])
  })
})

test('what runs as the owner is found in no schema of the caller: his functions, types and tables are not', async () => {
  await withRoles(async ({ query, as }) => {
    const evil = `evil_${randomBytes(4).toString('hex')}`
    await query(`create schema ${evil}`)
    try {
      await query(`grant usage, create on schema ${evil} to public`)
      const ask = await as('producer')
      await ask(`create table ${evil}.caught (who text)`)
      for (const call of [
        'clock_timestamp()',
        'octet_length(text)',
        'nextval(text)',
        'pg_notify(text, text)',
        'set_config(text, text, boolean)',
      ])
        await ask(
          `create function ${evil}.${call} returns text language plpgsql as $$ begin insert into ${evil}.caught values (current_user); return null; end $$`,
        )
      await ask('create temp table job (id bigint)')
      await ask('create domain pg_temp.json as text check (false)')
      await ask(`set search_path = pg_temp, ${evil}, pg_catalog`)
      const [job] = await ask(
        `select millrace.enqueue('echo', '{"a": 1}'::pg_catalog.json, group_key => 'g', meta => '{}'::pg_catalog.json) as id`,
      )
      assert.ok(Number(job!.id) > 0)
      assert.deepEqual(await query(`select who from ${evil}.caught`), [])
    } finally {
      await query(`drop schema ${evil} cascade`)
    }
  })
})

test('a reader reads everything and changes nothing', async () => {
  await withRoles(async ({ schema, query, url, as, refused }) => {
    const [job] = await query(`select millrace.enqueue('echo', '{"a": 1}') as id`)
    await query(`select millrace.put_schedule('s', 'echo', '@hourly')`)
    await query('select millrace.make_spans(50000000)')
    const client = createClient({ database: url('reader'), schema })
    try {
      assert.deepEqual((await client.console.jobs())[0]!.payload, { a: 1 })
      assert.equal((await client.console.explain(Number(job!.id))).job.state, 'queued')
      assert.equal((await client.console.queues())[0]!.available, 1)
      assert.equal((await client.schedules.list())[0]!.id, 's')
      assert.deepEqual(
        [await client.console.dead.list(), await client.console.results.list(), await client.console.nodes()],
        [[], [], []],
      )
      assert.ok((await client.console.doctor()).length > 5)
      await assert.rejects(client.enqueue('echo', 1), { code: 'STORE_REFUSED' })
      await assert.rejects(client.console.cancel(Number(job!.id)), { code: 'STORE_REFUSED' })
      await assert.rejects(client.console.queue.pause('default'), { code: 'STORE_REFUSED' })
      await assert.rejects(client.schedules.delete('s'), { code: 'STORE_REFUSED' })
    } finally {
      await client.close()
    }
    const ask = await as('reader')
    for (const view of ['jobs', 'attempts', 'dead_letters', 'queues', 'loops', 'schedules'])
      await ask(`select * from millrace.${view}`)
    await refused('reader', [
      `select millrace.enqueue('echo')`,
      `select millrace.enqueue_plain(1, 1, 1, 1, 0, 1, 1, '[1]', null)`,
      `update millrace.job set priority = 1`,
      `delete from millrace.ready`,
      `select millrace.cancel(${String(job!.id)}, 'no')`,
      `select millrace.make_spans(90000000)`,
      `select * from millrace.retire_span(0, 1)`,
      `select millrace.put_schedule('t', 'echo', '@hourly')`,
    ])
  })
})

test('a client and its verbs change no schema: they say which command does, and the client works once it has run', async () => {
  const db = await openTestDatabase()
  const client = createClient({ database: db.url, schema: db.schema })
  try {
    for (const call of [
      () => client.enqueue('echo', 1),
      () => client.schedules.create({ task: 'echo', cron: '@hourly' }),
      () => client.console.jobs(),
    ])
      await assert.rejects(call, (error: { code?: string; hint?: string; message?: string }) => {
        assert.equal(error.code, 'SCHEMA_MISSING')
        assert.match(String(error.hint), /millrace migrate/)
        assert.match(String(error.message), /has no tables/)
        return true
      })
    assert.deepEqual(await db.query('select from pg_namespace where nspname = $1', [db.schema]), [])
    await client.migrate()
    assert.ok((await client.enqueue('echo', 1)).id > 0)
  } finally {
    await client.close()
    await db.close()
  }
})
