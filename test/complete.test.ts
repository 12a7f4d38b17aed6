// A handler that completes its job in a transaction of its own: what it wrote and the end of the job commit together or
// not at all, whatever happens to the handler, its thread, its process or its lease; and nobody waits for its transaction.

import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import type pg from 'pg'
import type { EngineOptions } from '../engine/engine.ts'
import { defineTask, type ForeignClient, type TaskContext } from '../engine/index.ts'
import { completeSql } from '../engine/store/statements.ts'
import type { ClaimedChunk, DoubtItem, Flush } from '../engine/store/types.ts'
import { AttemptRows, OUTCOME } from '../engine/syncer/attempt-rows.ts'
import { type EngineBundle, withEngines } from './support/engine.ts'
import { type EngineProcess, endAll, startEngine } from './support/engine-process.ts'
import { History } from './support/history.ts'
import { FakeLog } from './support/scheduler-fakes.ts'
import { completing, openStore, type StoreBundle } from './support/store.ts'
import type { Entry } from './tasks/ledger.ts'

const TASKS = new URL('./tasks/ledger.js', import.meta.url)
const LIMIT = { timeout: 60_000 }
const GATE = 77_001

after(endAll)

interface Ledger extends EngineBundle {
  put(
    then: Entry['then'],
    more?: Partial<Entry>,
    options?: Parameters<EngineBundle['client']['enqueue']>[2],
  ): Promise<number>
  entry(then: Entry['then'], more?: Partial<Entry>): Entry
  /** [run, ...] of the rows that this job's handlers committed. */
  effects(id: number): Promise<number[]>
  /** Outcomes of its attempts, with the codes of errors. */
  outcomes(id: number): Promise<string[]>
  /** Closes the gate; the answer opens it. */
  close(): Promise<() => Promise<void>>
  /** Handlers whose transactions wait, with the job completed in them. */
  openTransactions(): Promise<number>
}

function withLedger(work: (ledger: Ledger) => Promise<void>): Promise<void> {
  return withEngines(async (bundle) => {
    const { query, client, url, schema } = bundle
    await query('create table if not exists millrace.effect (job bigint, run int, pid int)')
    await query('create table if not exists millrace.said (code text)')
    const entry = (then: Entry['then'], more: Partial<Entry> = {}): Entry => ({
      url,
      schema,
      ...(then && { then }),
      ...more,
    })
    const gates: (() => Promise<void>)[] = []
    try {
      await work({
        ...bundle,
        entry,
        put: async (then, more = {}, options = {}) => (await client.enqueue('ledger', entry(then, more), options)).id,
        effects: async (id) =>
          (await query<{ run: number }>('select run from millrace.effect where job = $1 order by run', [id])).map(
            (it) => it.run,
          ),
        outcomes: async (id) =>
          (
            await query<{ outcome: string; code: string | null }>(
              `select outcome, error ->> 'code' as code from millrace.attempts where job_id = $1 order by run`,
              [id],
            )
          ).map(({ outcome, code }) => (code === null ? outcome : `${outcome} ${code}`)),
        async close() {
          const connection = await bundle.connection()
          await connection.query('select pg_advisory_lock($1)', [GATE])
          const release = async () => void (await connection.query('select pg_advisory_unlock_all()'))
          gates.push(release)
          return release
        },
        openTransactions: async () =>
          Number(
            (
              await query(`select count(*) as n from pg_stat_activity where application_name = 'ledger'
                and datname = current_database() and state = 'idle in transaction' and query like '%.complete(%'`)
            )[0]!.n,
          ),
      })
    } finally {
      for (const open of gates) await open().catch(() => {})
    }
  })
}

/** Nothing of anybody is left in the way. */
async function isClean({ count }: EngineBundle): Promise<boolean> {
  return (await count('ready', 'scheduled', 'blocked', 'lease', 'hold', 'key', 'running', 'completion')) === 0
}

test('what a handler wrote and the end of its job commit together, and what it returns then is ignored', LIMIT, () =>
  withLedger(async (ledger) => {
    const engine = await ledger.engine({ tasks: TASKS })
    const id = await ledger.put('return', { result: { umlaut: 'ü', nested: [1, null] } })
    const job = await ledger.inState(id, 'completed')
    assert.deepEqual(job.result, { umlaut: 'ü', nested: [1, null] })
    assert.ok(job.startedAt! <= job.finishedAt!)
    const none = await ledger.put('return', { result: null })
    assert.equal((await ledger.inState(none, 'completed')).result, null)
    await ledger.inState(await ledger.put('return what is not JSON'), 'completed')
    await ledger.until('the reports were counted', () => isClean(ledger))
    assert.deepEqual(await ledger.effects(id), [1])
    assert.deepEqual(await ledger.outcomes(id), ['completed'])
    const [row] = await ledger.query('select lane, node_id from millrace.attempts where job_id = $1', [id])
    assert.deepEqual([row!.lane, Number(row!.node_id) > 0], [0, true])
    const { completed, failed, retried, lateReports } = engine.stats()
    assert.deepEqual(
      { completed, failed, retried, lateReports },
      { completed: 3, failed: 0, retried: 0, lateReports: 0 },
    )
  }),
)

test('a task of the main thread completes itself in a transaction too, and many do in one flush', LIMIT, () =>
  withLedger(async (ledger) => {
    const connection = await ledger.connection()
    let turn = Promise.resolve() // one connection: one transaction at a time
    const inline = defineTask({
      name: 'inline-ledger',
      inline: true,
      concurrency: 100,
      run: (n: number, ctx: TaskContext) => {
        turn = turn.then(async () => {
          await connection.query('begin')
          await connection.query(`insert into "${ledger.schema}".effect values ($1, $2, 0)`, [ctx.job.id, n])
          await ctx.complete(connection, n)
          await connection.query('commit')
        })
        return turn
      },
    })
    await ledger.client.enqueueMany(
      'inline-ledger',
      Array.from({ length: 300 }, (_, n) => n),
    )
    const engine = await ledger.engine({ tasks: [inline] })
    await engine.drain(30_000)
    assert.ok(await isClean(ledger))
    const rows = await ledger.query(`select (select count(*) from millrace.effect)::int as effects,
      count(*)::int as attempts, count(distinct job_id)::int as jobs, bool_and(outcome = 'completed') as good from millrace.attempts`)
    assert.deepEqual(rows, [{ effects: 300, attempts: 300, jobs: 300, good: true }])
    assert.equal(engine.stats().completed, 300)
  }),
)

test('a handler that rolls back and returns has failed with NOT_COMMITTED, by its policy of retries', LIMIT, () =>
  withLedger(async (ledger) => {
    const log = new FakeLog()
    const engine = await ledger.engine({ tasks: TASKS, log })
    const id = await ledger.put('roll back', {}, { maxAttempts: 2 })
    const job = await ledger.inState(id, 'failed')
    assert.equal((job.error as { code: string }).code, 'NOT_COMMITTED')
    const thrown = await ledger.put('roll back and throw', {}, { maxAttempts: 1 })
    await ledger.inState(thrown, 'failed')
    await ledger.until('the reports were counted', () => isClean(ledger))
    assert.deepEqual(await ledger.outcomes(id), ['failed NOT_COMMITTED', 'failed NOT_COMMITTED'])
    assert.deepEqual(await ledger.outcomes(thrown), ['failed TASK_THREW'])
    assert.deepEqual([await ledger.effects(id), await ledger.effects(thrown)], [[], []])
    const { completed, failed, retried, dead } = engine.stats()
    assert.deepEqual({ completed, failed, retried, dead }, { completed: 0, failed: 3, retried: 1, dead: 2 })
    const said = () => log.lines.filter(({ event }) => /^(job\.(not_committed|dead)|attempt\.failed)$/.test(event))
    await ledger.until('the log tells of each', async () => said().length === 3)
    assert.deepEqual(
      said().map(({ event, facts }) => [event, facts.job]),
      [
        ['job.not_committed', id],
        ['job.not_committed', id],
        ['job.dead', thrown],
      ],
    )
    const { err } = said()[2]!.facts as { err: Record<string, unknown> }
    assert.deepEqual([err.code, err.message], ['TASK_THREW', 'as asked'])
  }),
)

test(
  'what happens to a handler after its commit changes nothing: it throws, its thread ends, its deadline passes',
  LIMIT,
  () =>
    withLedger(async (ledger) => {
      const log = new FakeLog()
      const engine = await ledger.engine({ tasks: TASKS, log })
      const thrown = await ledger.put('throw')
      const ended = await ledger.put('exit')
      const late = (await ledger.client.enqueue('ledger-hasty', ledger.entry('spin'))).id
      for (const id of [thrown, ended, late]) await ledger.inState(id, 'completed')
      await ledger.until('the reports were counted', () => isClean(ledger))
      for (const id of [thrown, ended, late]) {
        assert.deepEqual(await ledger.effects(id), [1])
        assert.deepEqual(await ledger.outcomes(id), ['completed'])
        assert.ok(
          log.lines.some(({ event, facts }) => event === 'job.ended_after_completion' && facts.job === id),
          `the log tells of ${id}`,
        )
      }
      const of = log.lines.find(({ facts }) => facts.job === thrown)!.facts as { err: Record<string, unknown> }
      assert.deepEqual([of.err.type, of.err.message], ['Error', 'after the commit'])
      assert.ok(!log.lines.some(({ event }) => event === 'job.dead' || event === 'attempt.failed'))
      const { completed, failed, retried, lateReports } = engine.stats()
      assert.deepEqual(
        { completed, failed, retried, lateReports },
        { completed: 3, failed: 0, retried: 0, lateReports: 3 },
      )
    }),
)

test('a thread that is ended with its transaction open: the deadline counts, and nothing of it is left', LIMIT, () =>
  withLedger(async (ledger) => {
    const engine = await ledger.engine({ tasks: TASKS })
    const open = await ledger.close()
    const { id } = await ledger.client.enqueue('ledger-hasty', ledger.entry('return', { gate: GATE }), {
      maxAttempts: 1,
    })
    const job = await ledger.inState(id, 'failed')
    assert.equal((job.error as { code: string }).code, 'TASK_TIMED_OUT')
    await open()
    await engine.drain(30_000)
    assert.deepEqual([await ledger.effects(id), await ledger.outcomes(id)], [[], ['timed_out TASK_TIMED_OUT']])
    assert.equal(engine.stats().timedOut, 1)
    assert.ok(await isClean(ledger))
  }),
)

test('a job that is cancelled after its commit stays completed', LIMIT, () =>
  withLedger(async (ledger) => {
    const engine = await ledger.engine({ tasks: TASKS })
    const open = await ledger.close()
    // its transaction is open while the cancel comes, and commits all the same
    const id = await ledger.put('return', { gate: GATE })
    await ledger.until('it waits', async () => (await ledger.openTransactions()) === 1)
    assert.equal(await ledger.client.console.cancel(id), 'signalled')
    await ledger.until('the engine was told', async () => engine.stats().cancelled === 1)
    await open()
    await ledger.inState(id, 'completed')
    await ledger.until('the report was counted', () => isClean(ledger))
    assert.deepEqual(await ledger.outcomes(id), ['completed'])
    assert.deepEqual([engine.stats().completed, engine.stats().cancelled], [1, 0])
  }),
)

test('a job is completed once: a second call is refused, and after a rollback the next transaction may', LIMIT, () =>
  withLedger(async (ledger) => {
    await ledger.engine({ tasks: TASKS })
    const twice = await ledger.put('again after')
    await ledger.inState(twice, 'completed')
    await ledger.until(
      'the second was refused',
      async () => (await ledger.query('select * from millrace.said')).length === 1,
    )
    assert.deepEqual(await ledger.query('select code from millrace.said'), [{ code: 'VALIDATION' }])
    // within one transaction the refusal spoils it, as any error of PostgreSQL does
    const spoilt = await ledger.put('again before', {}, { maxAttempts: 1 })
    await ledger.inState(spoilt, 'failed')
    assert.deepEqual(await ledger.effects(spoilt), [])
    const again = await ledger.put('roll back and again')
    await ledger.inState(again, 'completed')
    assert.deepEqual([await ledger.effects(again), await ledger.outcomes(again)], [[1], ['completed']])
  }),
)

test(
  'bad calls are refused with a code before anything is sent, and outside of a transaction the call is one',
  LIMIT,
  () =>
    withLedger(async (ledger) => {
      const connection = await ledger.connection()
      const codes: string[] = []
      const bad = defineTask({
        name: 'bad-calls',
        inline: true,
        run: async (_: unknown, ctx: TaskContext) => {
          const code = (error: unknown) => void codes.push((error as { code: string }).code)
          await ctx.complete({} as ForeignClient).catch(code)
          await ctx.complete(null as unknown as ForeignClient).catch(code)
          await ctx.complete(connection, 10n).catch(code)
          await ctx.complete(connection, 'x'.repeat(2_000)).catch(code)
          await ctx.complete(connection, 'a\0b').catch(code)
          const { complete } = ctx
          const first = complete(connection, 'x')
          await complete(connection, 'y').catch(code)
          await first
          return 'ignored'
        },
      })
      await ledger.engine({ tasks: [bad], resultBytesMax: 1_000 })
      const id = (await ledger.client.enqueue('bad-calls', 1)).id
      assert.equal((await ledger.inState(id, 'completed')).result, 'x')
      assert.deepEqual(codes, [
        'VALIDATION',
        'VALIDATION',
        'RESULT_INVALID',
        'RESULT_TOO_LARGE',
        'RESULT_INVALID',
        'VALIDATION',
      ])
    }),
)

test('an open transaction of a handler holds up no other job of its claim, whatever they need', LIMIT, () =>
  withLedger(async (ledger) => {
    const open = await ledger.close()
    const others = Array.from({ length: 120 }, () => ledger.entry('return'))
    const ids = (await ledger.client.enqueueMany('ledger-shared', [ledger.entry('return', { gate: GATE }), ...others]))
      .ids
    const held = ids[0]!.first
    const engine = await ledger.engine({ tasks: TASKS, threads: 2 })
    await ledger.until('one is left', async () => {
      const [row] = await ledger.query('select count(*)::int as n, sum(l.open)::int as open from millrace.lease l')
      return row!.n === 1 && row!.open === 1
    })
    assert.equal(await ledger.openTransactions(), 1)
    const [row] = await ledger.query(
      'select count(*)::int as n, count(distinct job_id)::int as jobs from millrace.attempts',
    )
    assert.deepEqual(row, { n: 120, jobs: 120 })
    await open()
    await ledger.inState(held, 'completed')
    await engine.drain(30_000)
    assert.ok(await isClean(ledger))
  }),
)

test('an open transaction of a handler holds up no other job of its group, where several may run', LIMIT, () =>
  withLedger(async (ledger) => {
    const open = await ledger.close()
    const group = { group: 'a', groupLimit: 2 }
    const held = await ledger.put('return', { gate: GATE }, group)
    const engine = await ledger.engine({ tasks: TASKS, threads: 2 })
    await ledger.until('it waits', async () => (await ledger.openTransactions()) === 1)
    const others = await ledger.client.enqueueMany(
      'ledger',
      Array.from({ length: 20 }, () => ledger.entry('return')),
      group,
    )
    for (const { first, count } of others.ids)
      for (let id = first; id < first + count; id++) await ledger.inState(id, 'completed')
    // one of them by the ordinary way
    const { id } = await ledger.client.enqueue('ledger', ledger.entry('roll back and throw'), {
      ...group,
      maxAttempts: 1,
    })
    await ledger.inState(id, 'failed')
    assert.equal(await ledger.openTransactions(), 1)
    await open()
    await ledger.inState(held, 'completed')
    await engine.drain(30_000)
    assert.ok(await isClean(ledger))
  }),
)

test('a handler that returns before its transaction is over is waited for, and that transaction decides', LIMIT, () =>
  withLedger(async (ledger) => {
    const log = new FakeLog()
    const engine = await ledger.engine({ tasks: TASKS, log })
    const open = await ledger.close()
    const good = await ledger.put('leave open and commit', { gate: GATE })
    const bad = await ledger.put('leave open', { gate: GATE }, { maxAttempts: 1 })
    const other = await ledger.put('return')
    await ledger.inState(other, 'completed')
    await ledger.until(
      'both were asked about',
      async () => engine.stats().held === 0 && (await ledger.openTransactions()) === 2,
    )
    assert.deepEqual([await ledger.outcomes(good), await ledger.outcomes(bad)], [[], []])
    await ledger.until('it is said of both', async () => {
      const said = log.lines.filter(({ event }) => event === 'job.transaction_open').map(({ facts }) => facts.job)
      return said.includes(good) && said.includes(bad)
    })
    await open()
    await ledger.inState(good, 'completed')
    await ledger.inState(bad, 'failed')
    await engine.drain(30_000)
    assert.deepEqual(
      [await ledger.outcomes(good), await ledger.outcomes(bad)],
      [['completed'], ['failed NOT_COMMITTED']],
    )
    assert.ok(await isClean(ledger))
  }),
)

test(
  'the key goes at once, so that the same transaction enqueues the next with it; the rows of an ephemeral job at the commit',
  LIMIT,
  () =>
    withLedger(async (ledger) => {
      const connection = await ledger.connection()
      const chain = defineTask({
        name: 'chain',
        inline: true,
        run: async (n: number, ctx: TaskContext) => {
          await connection.query('begin')
          await ctx.complete(connection, n)
          if (n < 5)
            await ledger.client.enqueue('chain', n + 1, {
              client: connection,
              idempotencyKey: 'one',
              ephemeral: n % 2 === 0,
            })
          await connection.query('commit')
        },
      })
      await ledger.engine({ tasks: [chain] })
      const first = (await ledger.client.enqueue('chain', 0, { idempotencyKey: 'one' })).id
      await ledger.until('all ran', async () => {
        const rows = await ledger.query('select payload::text as p from millrace.jobs where state = $1 order by id', [
          'completed',
        ])
        return rows.map(({ p }) => p).join() === '0,2,4' && (await isClean(ledger))
      })
      assert.deepEqual(await ledger.outcomes(first), ['completed'])
      assert.equal(await ledger.count('job', 'attempt'), 6, 'nothing is left of the ephemeral ones')
    }),
)

for (const isolation of ['read committed', 'repeatable read', 'serializable'])
  test(`the next of a group runs on another node right after the commit, before any report (${isolation})`, LIMIT, () =>
    withLedger(async (ledger) => {
      const quiet: EngineOptions = { tasks: TASKS, pollMs: 30_000, pollMaxMs: 30_000 } // only hints are quick enough
      await ledger.engine(quiet)
      const open = await ledger.close()
      const first = await ledger.put('linger', { gate: GATE, isolation }, { group: 'a' })
      await ledger.until('it waits', async () => (await ledger.openTransactions()) === 1)
      const other = await ledger.engine(quiet)
      // enqueued after the snapshot of the first one's transaction
      const second = await ledger.put('return', {}, { group: 'a' })
      assert.equal((await ledger.client.console.job(second))?.state, 'blocked')
      await open()
      await ledger.inState(second, 'completed')
      assert.equal((await ledger.client.console.job(first))?.state, 'completed')
      await ledger.until('its node counted it', async () => other.stats().completed === 1)
      assert.equal(await ledger.count('completion'), 1, 'the first has not been reported')
    }),
  )

test('an ephemeral job that was not committed leaves its evidence', LIMIT, () =>
  withLedger(async (ledger) => {
    const engine = await ledger.engine({ tasks: TASKS })
    const id = await ledger.put('roll back', {}, { ephemeral: true, maxAttempts: 1 })
    await ledger.inState(id, 'failed')
    const gone = await ledger.put('throw', {}, { ephemeral: true, maxAttempts: 1 })
    await engine.drain(30_000)
    assert.equal(await ledger.client.console.job(gone), null)
    assert.deepEqual(await ledger.effects(gone), [1])
    assert.ok(await isClean(ledger))
  }),
)

test(
  'an engine stops while a transaction is open: it is waited for, and whoever recovers the lease counts it',
  LIMIT,
  () =>
    withLedger(async (ledger) => {
      const connection = await ledger.connection()
      const pid = (await connection.query('select pg_backend_pid() as pid')).rows[0].pid
      const inline = defineTask({
        name: 'slow-inline',
        inline: true,
        run: async (_: unknown, ctx: TaskContext) => {
          await connection.query('begin')
          await ctx.complete(connection, 1)
          await new Promise(() => {}) // for ever
        },
      })
      const engine = await ledger.engine({ tasks: [inline], nodeHeartbeatMs: 200, nodeLimitMs: 1_500 })
      const id = (await ledger.client.enqueue('slow-inline', 1)).id
      await ledger.until('it is open', async () => {
        const rows = await ledger.query(
          `select from pg_stat_activity where pid = $1 and state = 'idle in transaction' and query like '%.complete(%'`,
          [pid],
        )
        return rows.length === 1
      })
      await engine.stop(1_500)
      await connection.query('commit')
      assert.equal((await ledger.client.console.job(id))?.state, 'completed')
      await ledger.engine({ tasks: TASKS, nodeHeartbeatMs: 200, nodeLimitMs: 1_500 })
      await ledger.until('the lease is recovered', () => isClean(ledger))
      assert.deepEqual(await ledger.outcomes(id), ['completed'])
    }),
)

// ------------------------------------------------------------------ leases that are lost

interface Held {
  readonly it: StoreBundle
  readonly nodeId: number
  readonly chunk: ClaimedChunk
  readonly ids: number[]
  /** Completes the n-th job on the connection. */
  complete(on: pg.Client, nth: number): Promise<unknown>
  connect(): Promise<pg.Client>
}

/** A node that has claimed jobs, and connections of its handlers. */
async function withHeld(jobs: number, work: (held: Held) => Promise<void>): Promise<void> {
  const it = await openStore()
  const open: pg.Client[] = []
  const { default: postgres } = await import('pg')
  try {
    const first = jobs > 0 ? await it.put(jobs) : 0
    const nodeId = await it.join()
    const [chunk] = jobs > 0 ? await it.claim(nodeId) : []
    await work({
      it,
      nodeId,
      chunk: chunk!,
      ids: Array.from({ length: jobs }, (_, at) => first + at),
      complete: (on, nth) =>
        on.query(completeSql(it.db.schema), [
          chunk!.leaseId,
          first + nth,
          chunk!.run,
          0,
          Date.parse('2026-01-01'),
          '{"a":1}',
        ]),
      async connect() {
        const client = new postgres.Client({ connectionString: it.db.url })
        client.on('error', () => {})
        open.push(client)
        await client.connect()
        return client
      },
    })
  } finally {
    for (const client of open) await client.end().catch(() => {})
    await it.close()
  }
}

const sqlStateOf = (call: Promise<unknown>) =>
  call.then(
    () => 'fine',
    (error: { code: string }) => error.code,
  )

test('a job whose lease was lost cannot be completed, nor one whose attempt has ended', LIMIT, () =>
  withHeld(3, async ({ it, nodeId, complete, connect }) => {
    const client = await connect()
    assert.equal(await sqlStateOf(complete(client, 5)), 'MR409', 'not a job of this lease')
    assert.equal((await it.store.rescue(nodeId, 3, true))?.reopened, 3)
    await client.query('begin')
    assert.equal(await sqlStateOf(complete(client, 0)), 'MR409')
    await client.query('rollback')
  }),
)

test(
  'a key belongs to the job that has it now: who had it before and lets go of it a second time takes it from nobody',
  LIMIT,
  () =>
    withHeld(0, async ({ it, nodeId, connect }) => {
      const owner = async () =>
        (await it.query<{ job: number }>('select job_id::float8 as job from millrace.key'))[0]?.job
      const first = await it.put(1, { key: 'one' })
      const [chunk] = await it.claim(nodeId)
      const client = await connect()
      await client.query('begin')
      await client.query(completeSql(it.db.schema), [chunk!.leaseId, first, 1, 0, null, null])
      await client.query('commit') // the key is free, and the flush that counts the job is still to come
      const next = await it.put(1, { key: 'one' })
      assert.equal(await owner(), next)
      const finished = [
        { leaseId: chunk!.leaseId, jobId: first, queueId: it.queueId, keyed: true, ephemeral: false, group: null },
      ]
      await it.store.flush(nodeId, {
        ...completing(1, nodeId, []),
        leaseIds: [chunk!.leaseId],
        leaseDone: [1],
        finished,
      })
      assert.equal(await owner(), next)
      const [again] = await it.query<{ held: number }>(
        `select held_by::float8 as held from millrace.take_keys(json_build_array(json_build_object('q', $1::int, 'k', 'one', 'j', 1)))`,
        [it.queueId],
      )
      assert.equal(again!.held, next)
    }),
)

test(
  'a job is completed by the run that holds it alone: another number of run is refused, and writes nothing',
  LIMIT,
  () =>
    withHeld(2, async ({ it, chunk, ids, complete, connect }) => {
      const client = await connect()
      const wrong = (run: number) =>
        client.query(completeSql(it.db.schema), [chunk.leaseId, ids[0], run, 0, null, 'true'])
      for (const run of [chunk.run - 1, chunk.run + 1])
        assert.equal(await sqlStateOf(wrong(run)), 'MR409', `run ${run}`)
      const rows = await it.query(
        'select (select count(*) from millrace.attempt)::int as attempts, (select count(*) from millrace.completion)::int as completions',
      )
      assert.deepEqual(rows, [{ attempts: 0, completions: 0 }])
      await complete(client, 0)
      assert.deepEqual(await it.query('select run from millrace.attempt'), [{ run: chunk.run }])
    }),
)

test(
  'a rescuer passes by a lease in which a job is being completed, and takes the rest when that is over',
  LIMIT,
  async () => {
    for (const end of ['commit', 'rollback'])
      await withHeld(3, async ({ it, nodeId, complete, connect }) => {
        await it.put(2)
        const [second] = await it.claim(nodeId)
        assert.equal(second!.count, 2)
        const client = await connect()
        await client.query('begin')
        await complete(client, 1)
        assert.deepEqual(
          await it.store.rescue(nodeId, 3, true),
          { reopened: 2, buried: 0, gone: false },
          'the other lease',
        )
        assert.equal(await it.store.rescue(nodeId, 3, true), null, 'nothing new')
        await client.query(end)
        const reopened = end === 'commit' ? 2 : 3
        assert.deepEqual(await it.store.rescue(nodeId, 3, true), { reopened, buried: 0, gone: true })
        const rows = await it.query(
          'select (select count(*) from millrace.completion)::int as left, count(*)::int as done from millrace.attempt where outcome = $1',
          ['c'],
        )
        assert.deepEqual(rows, [{ left: 0, done: end === 'commit' ? 1 : 0 }])
      })
  },
)

test('the transaction of a frozen handler of a silent node is ended, and its job runs again', LIMIT, () =>
  withHeld(2, async ({ it, nodeId, complete, connect }) => {
    const client = await connect()
    await it.query('update millrace.node set limit_ms = 1000 where id = $1', [nodeId])
    await client.query('begin')
    await complete(client, 0)
    const untilMs = Date.now() + 30_000
    let done: Awaited<ReturnType<typeof it.store.rescue>> = null
    while (done === null && Date.now() < untilMs) {
      await it.query(`select pg_sleep(0.1)`)
      done = await it.store.rescue(nodeId, 3, false)
    }
    assert.deepEqual(done, { reopened: 2, buried: 0, gone: true })
    assert.notEqual(await sqlStateOf(client.query('commit')), 'fine')
  }),
)

test('two transactions cannot complete one job, and a flush that comes first closes the door', LIMIT, () =>
  withHeld(2, async ({ it, nodeId, chunk, ids, complete, connect }) => {
    const [a, b] = [await connect(), await connect()]
    await a.query('begin')
    await complete(a, 0)
    assert.equal(await sqlStateOf(complete(b, 0)), 'MR409')
    await a.query('rollback')
    await b.query('begin')
    const states = await it.query('select job::float8 as job, state from millrace.flush_doubts($1, $2) order by job', [
      ids,
      [1, 1],
    ])
    assert.deepEqual(
      states,
      ids.map((job) => ({ job, state: 'none' })),
    )
    await complete(b, 0)
    assert.deepEqual(
      await it.query('select job::float8 as job, state from millrace.flush_doubts($1, $2) order by job', [ids, [1, 1]]),
      [
        { job: ids[0], state: 'open' },
        { job: ids[1], state: 'none' },
      ],
    )
    await b.query('commit')
    await it.store.flush(nodeId, completing(1, nodeId, [{ ...chunk, firstId: ids[1]!, count: 1 }]))
    assert.equal(await sqlStateOf(complete(a, 1)), 'MR400')
  }),
)

test('the commit of a job of a group tells the nodes of the next one, and nothing is told before', LIMIT, () =>
  withHeld(0, async ({ it, connect }) => {
    const first = await it.put(1, { group: 'a' })
    const [chunk] = await it.claim(await it.join())
    await it.put(1, { group: 'a' })
    const [listener, client] = [await connect(), await connect()]
    const heard: string[] = []
    const told = new Promise<void>((resolve) => {
      listener.on('notification', ({ payload = '' }) => {
        heard.push(payload)
        resolve()
      })
    })
    await listener.query(`listen "millrace_${it.db.schema}"`)
    await client.query('begin')
    await client.query(completeSql(it.db.schema), [chunk!.leaseId, first, 1, 0, Date.now(), null])
    assert.equal((await it.claim(await it.join())).length, 0, 'it has the turn of its group until the commit')
    await client.query('commit')
    await told
    assert.deepEqual(heard, [`q${it.queueId}`])
    assert.equal((await it.claim(await it.join())).length, 1)
  }),
)

test('a completion reads its own rows alone, also by plans that were made while the tables were empty', LIMIT, () =>
  withHeld(20, async ({ it, complete, connect }) => {
    await it.query('vacuum (analyze) millrace.attempt_0, millrace.completion, millrace.job_0')
    const client = await connect()
    for (let nth = 0; nth < 20; nth++) {
      await client.query('begin')
      await complete(client, nth)
      const { rows } = await client.query(
        `select relname from pg_stat_xact_user_tables where schemaname = $1 and seq_scan > 0
         and relname in ('attempt_0', 'completion', 'job_0')`,
        [it.db.schema],
      )
      await client.query('commit')
      assert.deepEqual(rows, [], `at the ${nth + 1}th`)
    }
  }),
)

test('a flush sorts doubts out by what PostgreSQL says, and sending it again counts nothing twice', LIMIT, () =>
  withHeld(6, async ({ it, nodeId, chunk, ids, complete, connect }) => {
    const [done, open] = [await connect(), await connect()]
    await done.query('begin')
    await complete(done, 0)
    await done.query('commit')
    await open.query('begin')
    await complete(open, 1)
    // the first three are doubts, as three that were let go; the fourth is one that nobody doubts
    const doubt = (nth: number): DoubtItem => ({
      leaseId: chunk.leaseId,
      jobId: ids[nth]!,
      run: 1,
      otherwise: 'released',
      timedOut: false,
      said: null,
    })
    const rows = new AttemptRows()
    for (const jobId of ids.slice(0, 4))
      rows.add(chunk.leaseId, jobId, 1, 1, OUTCOME.released, nodeId, 0, 1_000, 2_000, Buffer.alloc(0), 0, 0)
    const { rank, seq, rescues } = chunk
    const released = { leaseId: chunk.leaseId, firstId: ids[0]!, count: 4, attempt: 1, run: 2, rescues, rank, seq }
    const flush: Flush = {
      ...completing(1, nodeId, []),
      rows: rows.tuples,
      rowEnds: rows.ends,
      rowLeases: rows.leases,
      rowCount: 4,
      leaseIds: [chunk.leaseId],
      leaseDone: [4],
      releases: [released],
      doubts: [doubt(0), doubt(1), doubt(2)],
    }
    const left = async () =>
      (
        await it.query(
          `select l.open, (select count(*) from millrace.completion)::int as completions,
          (select json_agg(json_build_array(r.first_id - $1, r.count, r.run) order by r.first_id) from millrace.ready r) as ready
          from millrace.lease l`,
          [ids[0]],
        )
      )[0]
    const answer = await it.store.flush(nodeId, flush)
    assert.deepEqual(answer.doubts, { open: [ids[1]], committed: [ids[0]] })
    const expected = { open: 3, completions: 0, ready: [[2, 2, 2]] }
    assert.deepEqual(await left(), expected)

    const again = await it.store.flush(nodeId, flush) // its answer was lost
    assert.deepEqual([again.alreadyDone, again.doubts], [true, { open: ids.slice(0, 3), committed: [] }])
    const asked = await it.store.flush(nodeId, {
      ...flush,
      no: 2,
      leaseDone: [3],
      ...firstRows(flush, 3),
      releases: [{ ...released, count: 3 }],
    })
    assert.deepEqual(asked.doubts, { open: [ids[1]], committed: [ids[0]] })
    assert.deepEqual(await left(), expected)

    await open.query('commit')
    await it.store.flush(nodeId, {
      ...flush,
      no: 3,
      leaseDone: [3],
      ...firstRows(flush, 3),
      releases: [{ ...released, count: 3 }],
    })
    assert.deepEqual(await left(), { ...expected, open: 2 })
    const outcomes = await it.query('select outcome, count(*)::int as n from millrace.attempt group by 1 order by 1')
    assert.deepEqual(outcomes, [
      { outcome: 'c', n: 2 },
      { outcome: 'r', n: 2 },
    ])
  }),
)

/** The first rows of a flush. */
function firstRows(flush: Flush, count: number): Pick<Flush, 'rows' | 'rowEnds' | 'rowLeases' | 'rowCount'> {
  const rowEnds = flush.rowEnds.slice(0, count)
  return {
    rows: flush.rows.subarray(0, rowEnds.at(-1)),
    rowEnds,
    rowLeases: flush.rowLeases.slice(0, count),
    rowCount: count,
  }
}

// ------------------------------------------------------------------ processes that die

function processes(bundle: EngineBundle, count: number, options: EngineOptions = {}, env: Record<string, string> = {}) {
  return Array.from({ length: count }, () =>
    startEngine(
      {
        ...bundle.base,
        tasks: TASKS.href,
        threads: 1,
        nodeHeartbeatMs: 200,
        nodeLimitMs: 1_500,
        ...options,
      } as EngineOptions,
      env,
    ),
  )
}

test(
  'a process that is killed right after the commit: the job is completed, its effect is there once, and it never runs again',
  LIMIT,
  () =>
    withLedger(async (ledger) => {
      const [victim] = processes(ledger, 1) as [EngineProcess]
      try {
        await victim.ready()
        const id = await ledger.put('linger')
        await ledger.until('it is committed', async () => (await ledger.effects(id)).length === 1)
        assert.equal(await ledger.count('completion'), 1, 'it was not reported')
        await victim.kill9()
        const engine = await ledger.engine({ tasks: TASKS, nodeHeartbeatMs: 200, nodeLimitMs: 1_500 })
        await ledger.until('the dead node is recovered', () => isClean(ledger))
        await engine.drain(30_000)
        assert.deepEqual([await ledger.effects(id), await ledger.outcomes(id)], [[1], ['completed']])
        assert.equal((await ledger.client.console.job(id))?.state, 'completed')
      } finally {
        if (!victim.isOver) await victim.kill9()
      }
    }),
)

test(
  'a process that freezes with the transaction of its handler open: another node ends it, and the job has its effect once',
  LIMIT,
  () =>
    withLedger(async (ledger) => {
      const [victim] = processes(ledger, 1) as [EngineProcess]
      try {
        await victim.ready()
        const open = await ledger.close()
        const id = await ledger.put('return', { gate: GATE })
        const other = await ledger.put('return')
        await ledger.until('it waits', async () => (await ledger.openTransactions()) === 1)
        victim.signal('SIGSTOP')
        const engine = await ledger.engine({ tasks: TASKS, threads: 2, nodeHeartbeatMs: 200, nodeLimitMs: 1_500 })
        await ledger.until('its run is lost', async () => (await ledger.outcomes(id)).length === 1)
        await ledger.inState(other, 'completed')
        await open()
        await ledger.inState(id, 'completed')
        await engine.drain(30_000)
        victim.signal('SIGCONT')
        await victim.line('engine.rejoined')
        assert.deepEqual(
          [await ledger.effects(id), await ledger.outcomes(id)],
          [[2], ['lost HOLDER_LOST', 'completed']],
        )
        assert.ok(await isClean(ledger))
      } finally {
        if (!victim.isOver) await victim.kill9()
      }
    }),
)

test(
  'engines are killed all the time: every effect is there exactly once, and every group in order',
  { timeout: 120_000 },
  () =>
    withLedger(async (ledger) => {
      const history = new History()
      const running: EngineProcess[] = []
      const start = () => processes(ledger, 1, { threads: 2, stopTimeoutMs: 2_000, rescuesMax: 100 }, history.env)[0]!
      try {
        running.push(start(), start())
        await Promise.all(running.map((it) => it.ready()))
        const JOBS = 400
        const put = async (task: string, count: number, options: { group?: string }) => {
          const entries = Array.from({ length: count }, (_, at) =>
            ledger.entry(at % 7 === 0 ? 'throw' : 'return', { restMs: at % 20 }),
          )
          history.acknowledgeMany(await ledger.client.enqueueMany(task, entries, options), {
            group: options.group ?? null,
          })
        }
        await put('ledger-shared', JOBS - 60, {})
        for (const group of ['a', 'b', 'c']) await put('ledger-shared', 20, { group })
        const done = async () => Number((await ledger.query('select count(*) as n from millrace.effect'))[0]!.n)
        for (let kill = 1; kill <= 6; kill++) {
          await ledger.until(`some more was done before kill ${kill}`, async () => (await done()) >= (JOBS * kill) / 8)
          await running.shift()!.kill9()
          running.push(start())
        }
        await ledger.until(
          'all is done, and nothing is in the way',
          async () => (await done()) >= JOBS && (await isClean(ledger)),
        )
        const [row] = await ledger.query(`select count(*)::int as effects, count(distinct job)::int as jobs,
        (select count(*)::int from millrace.attempts a where a.outcome = 'completed') as completed,
        (select count(*)::int from millrace.effect e join millrace.attempts a on a.job_id = e.job and a.run = e.run and a.outcome = 'completed') as matching,
        (select count(*)::int from millrace.attempts a where a.outcome = 'lost') as lost from millrace.effect`)
        const { lost, ...rest } = row as Record<string, number>
        assert.deepEqual(rest, { effects: JOBS, jobs: JOBS, completed: JOBS, matching: JOBS })
        assert.ok(lost! > 0, 'a kill took jobs with it')
        await history.check(ledger.query)
      } finally {
        await Promise.all(running.map((it) => it.kill9()))
        history.close()
      }
    }),
)
