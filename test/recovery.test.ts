// Nothing is lost and nothing is doubled when engines are killed, frozen or cut off, and when PostgreSQL itself goes
// away: real processes, a real server, through the public API. What happened is judged by support/history.ts.

import assert from 'node:assert/strict'
import { randomInt, randomUUID } from 'node:crypto'
import { after, test } from 'node:test'
import pg from 'pg'
import { systemClock } from '../engine/base/clock.ts'
import { Store } from '../engine/store/store.ts'
import type { ClaimedChunk } from '../engine/store/types.ts'
import { type Bundle, withBundle, withServer } from './support/bundle.ts'
import { openOwnServer } from './support/database.ts'
import { type Dice, diceOf } from './support/dice.ts'
import { type EngineProcess, endAll } from './support/engine-process.ts'
import { checkFacts } from './support/facts.ts'
import type { Acknowledged } from './support/history.ts'
import { completing, openStore, PLAIN } from './support/store.ts'
import { until } from './support/until.ts'

const MINUTE = 60_000

const JOBS = 10_000
/** One job's computing: 10,000 of them keep two threads busy for about two seconds. */
const SPIN = { spinMs: 0.3 }

async function putTenThousand({ client, history }: Bundle): Promise<void> {
  const payloads = Array.from({ length: JOBS }, () => SPIN)
  history.acknowledgeMany(await client.enqueueMany('witness', payloads))
}

/** The handlers have written so much: about a third of everything. */
function inTheMiddle({ history }: Bundle): Promise<void> {
  return until('a third of the jobs has run', () => history.bytes > JOBS * 60 * 0.3, 2)
}

after(endAll)

test(
  '[PC-048] [PS-048] [PS-051] an engine killed amid 10,000 jobs: the next one finishes each exactly once',
  {
    timeout: 3 * MINUTE,
  },
  () =>
    withBundle(async (bundle) => {
      await putTenThousand(bundle)
      const first = bundle.engine()
      await inTheMiddle(bundle)
      await first.kill9()
      const committed = await completed(bundle)
      assert.ok(committed > 0 && committed < JOBS, `${committed} were committed before the kill`)
      const second = bundle.engine()
      await bundle.empty()
      const verdict = await bundle.history.check(bundle.query)
      assert.ok(verdict.lost > 0, 'the runs that died are on record')
      assert.equal(verdict.dead, 0)
      await second.stop()
    }),
)

test(
  '[PC-049] [PC-004] [PS-040] of two engines one is killed: the other takes over its jobs',
  { timeout: 3 * MINUTE },
  () =>
    withBundle(async (bundle) => {
      const engines = [bundle.engine(), bundle.engine()]
      await Promise.all(engines.map((engine) => engine.ready()))
      await putTenThousand(bundle)
      await inTheMiddle(bundle)
      await engines[0]!.kill9()
      const rescued = await engines[1]!.line('node.rescued')
      assert.ok(Number(rescued.facts.reopened) > 0)
      await bundle.empty()
      const verdict = await bundle.history.check(bundle.query)
      assert.ok(verdict.lost > 0)
      assert.equal(verdict.dead, 0)
      await engines[1]!.stop()
      assert.deepEqual(await bundle.query('select id from millrace.node'), [])
    }),
)

test(
  'jobs that wait, and whose holder was killed, run side by side again as before',
  {
    timeout: 2 * MINUTE,
  },
  () =>
    withBundle(async (bundle) => {
      const waiting = Array.from({ length: 40 }, () => ({ restMs: 2_000 }))
      bundle.history.acknowledgeMany(await bundle.client.enqueueMany('witness-shared', waiting))
      const first = bundle.engine()
      await until('all run', () => bundle.history.executions().length === waiting.length)
      await first.kill9()
      const second = bundle.engine()
      await bundle.empty()
      const again = bundle.history.executions().filter(({ run }) => run === 2)
      assert.equal(again.length, waiting.length)
      const firstEndMs = Math.min(...again.map(({ endMs }) => endMs))
      const together = again.filter(({ startMs }) => startMs < firstEndMs).length
      assert.ok(together >= 30, `${together} of ${again.length} ran together`)
      await bundle.history.check(bundle.query)
      await second.stop()
    }),
)

for (const mode of ['fast', 'immediate'] as const) {
  test(
    `[PC-009] [PC-040] [PC-041] PostgreSQL is stopped (${mode}) amid 10,000 jobs: the engines survive and finish`,
    {
      timeout: 3 * MINUTE,
    },
    () =>
      withServer(async (bundle, server) => {
        const engine = bundle.engine({ nodeLimitMs: 30_000 })
        await engine.ready()
        await putTenThousand(bundle)
        await inTheMiddle(bundle)
        await server.stop(mode)
        await engine.line('flush.failed')
        await server.start()
        await bundle.empty()
        assert.equal(engine.isOver, false)
        const verdict = await bundle.history.check(bundle.query, { runsAreUnique: mode === 'fast' })
        assert.equal(verdict.lost, 0, 'the node was never silent for too long')
        assert.equal(verdict.dead, 0)
        await engine.stop()
      }),
  )
}

test(
  '[PC-045] PostgreSQL is away for longer than the node limit: the engine drops what it held, rejoins, and finishes',
  {
    timeout: 3 * MINUTE,
  },
  () =>
    withServer(async (bundle, server) => {
      // one charged holder would be the end of a job: this engine has not died of any
      const engine = bundle.engine({ rescuesMax: 1, nodeLimitMs: 3_000 })
      await engine.ready()
      await putTenThousand(bundle)
      await inTheMiddle(bundle)
      // these are held at the cut, however slow the machine is
      const resting = Array.from({ length: 10 }, () => ({ restMs: 5_000 }))
      bundle.history.acknowledgeMany(await bundle.client.enqueueMany('witness-shared', resting, { priority: 1 }))
      const firstId = bundle.history.ids.at(-resting.length)!
      await until('they run', () => bundle.history.executions().some(({ jobId }) => jobId >= firstId))
      await server.stop('fast')
      await engine.line('engine.fenced')
      await server.start()
      await engine.line('engine.rejoined')
      await bundle.empty()
      const verdict = await bundle.history.check(bundle.query)
      assert.ok(verdict.lost > 0)
      assert.equal(verdict.dead, 0)
      await engine.stop()
    }),
)

test(
  '[PC-049] [PS-042] an engine frozen beyond its limit is fenced: its late reports are refused, it rejoins and works on',
  {
    timeout: 3 * MINUTE,
  },
  () =>
    withBundle(async (bundle) => {
      const frozen = bundle.engine()
      await frozen.ready()
      await putTenThousand(bundle)
      await inTheMiddle(bundle)
      // these end while it is frozen: their reports are the first thing that it has to say afterwards
      const late = Array.from({ length: 10 }, () => ({ restMs: 500 }))
      const options = { priority: 1 }
      bundle.history.acknowledgeMany(await bundle.client.enqueueMany('witness-shared', late, options))
      const firstId = bundle.history.ids.at(-late.length)!
      await until('they run', () => bundle.history.executions().some(({ jobId }) => jobId >= firstId))
      frozen.signal('SIGSTOP')
      const other = bundle.engine()
      await other.line('node.rescued')
      frozen.signal('SIGCONT')
      await frozen.line('engine.rejoined')
      await bundle.empty()
      const { stale, lateReports } = await frozen.stats()
      assert.ok(stale + lateReports > 0, 'it reported too late')
      assert.deepEqual(
        frozen.lines.filter(({ event }) => event === 'failed to write job run update'),
        [],
        'late reports are refused for their lease, before they can get in the way of another row',
      )
      // it is whole again: alone, it finishes new work
      await other.stop()
      bundle.history.acknowledgeMany(
        await bundle.client.enqueueMany(
          'witness',
          Array.from({ length: 100 }, () => SPIN),
        ),
      )
      await bundle.empty()
      const verdict = await bundle.history.check(bundle.query)
      assert.ok(verdict.lost > 0)
      assert.equal(verdict.dead, 0)
      const pids = new Set(
        bundle.history
          .executions()
          .slice(-50)
          .map(({ pid }) => pid),
      )
      assert.deepEqual([...pids], [frozen.pid])
      await frozen.stop()
    }),
)

for (const [neighbours, payload] of [
  ['witness', SPIN],
  ['witness-shared', { restMs: 20 }],
] as const)
  test(
    `a job that kills its process is a dead letter after three holders; those who were claimed with it complete (${neighbours})`,
    {
      timeout: 3 * MINUTE,
    },
    () =>
      withBundle(async (bundle) => {
        const { client, history, query } = bundle
        const payloads = Array.from({ length: 300 }, () => payload)
        history.acknowledgeMany(await client.enqueueMany(neighbours, payloads))
        const killer = await client.enqueue('killer', null)
        history.acknowledge(killer.id, { end: 'failed' })
        history.acknowledgeMany(await client.enqueueMany(neighbours, payloads))
        let starts = 0
        let engine: EngineProcess
        for (;;) {
          assert.ok(++starts < 10, 'the engine was killed nine times')
          engine = bundle.engine()
          const survived = await Promise.race([engine.ended.then(() => false), bundle.empty().then(() => true)])
          if (survived) break
          assert.equal((await engine.ended).signal, 'SIGKILL')
        }
        assert.equal(starts, 4, 'three holders died with it')
        const [letter] = await client.console.dead.list({ id: killer.id })
        assert.equal(letter?.code, 'POISON')
        const attempts = await query('select attempt, outcome from millrace.attempts where job_id = $1 order by run', [
          killer.id,
        ])
        assert.deepEqual(
          attempts,
          [1, 2, 3].map(() => ({ attempt: 1, outcome: 'lost' })),
        )
        const verdict = await history.check(query)
        assert.equal(verdict.dead, 1, 'nobody else is dead')
        await engine.stop()
      }),
  )

const CHAOS_JOBS = 2_000
const CHAOS_MS = Number(process.env.CHAOS_MS ?? 10_000)

test(
  '[TM-094] a job that runs for longer than the node limit is not run again while its holder lives',
  {
    timeout: 2 * MINUTE,
  },
  () =>
    withBundle(async (bundle) => {
      const engines = [bundle.engine(), bundle.engine()]
      await Promise.all(engines.map((engine) => engine.ready()))
      const long = Array.from({ length: 4 }, () => ({ restMs: 3_000 }))
      bundle.history.acknowledgeMany(await bundle.client.enqueueMany('witness', long))
      await bundle.empty()
      const verdict = await bundle.history.check(bundle.query)
      assert.equal(verdict.executions, long.length)
    }),
)

test('[PC-035] [PC-036] [PS-047] [TM-086] [TM-099] chaos: engines killed and frozen, sessions cut, and every job ends once, in its order, not before its time', {
  timeout: 3 * MINUTE + CHAOS_MS,
}, async (t) => {
  const seed = Number(process.env.CHAOS_SEED ?? randomInt(1, 2 ** 31))
  t.diagnostic(`CHAOS_SEED=${seed}`)
  const dice = diceOf(seed)
  await withBundle(async (bundle) => {
    const { client, history, query } = bundle
    await putRandom(bundle, dice, CHAOS_JOBS / 2)
    const begunAtMs = systemClock.wallMs()
    // no job is poison here: whoever dies, dies by our hand
    const launch = () => bundle.engine({ rescuesMax: 100 })
    const engines = [launch(), launch(), launch()]
    await Promise.all(engines.map((engine) => engine.ready()))
    const faults = { kill: 0, freeze: 0, cut: 0 }
    const untilMs = systemClock.steadyMs() + CHAOS_MS
    while (systemClock.steadyMs() < untilMs) {
      await systemClock.sleep(dice.whole(50, 500))
      await putRandom(bundle, dice, CHAOS_JOBS / 40).catch(() => {}) // not acknowledged: it may be there or not
      const at = dice.whole(0, engines.length - 1)
      const fault = dice.pick(['kill', 'freeze', 'cut', 'cut'] as const)
      faults[fault]++
      if (fault === 'kill') {
        await engines[at]!.kill9()
        engines[at] = launch()
      } else if (fault === 'freeze') {
        const frozen = engines[at]!
        frozen.signal('SIGSTOP')
        await systemClock.sleep(dice.pick([100, 1_500]))
        frozen.signal('SIGCONT')
      } else {
        await query(
          `select pg_terminate_backend(pid) from (select pid from pg_stat_activity
          where pid <> pg_backend_pid() and application_name like 'millrace%' and query like $1 order by random() limit $2) as picked`,
          [`%${bundle.schema}%`, dice.whole(1, 4)],
        )
      }
    }
    await bundle.empty()
    const verdict = await history.check(query, { orderedBeforeMs: begunAtMs })
    t.diagnostic(JSON.stringify({ ...faults, ...verdict }))
    assert.ok(verdict.lost > 0 && verdict.again > 0, 'the faults were felt')
    assert.deepEqual(
      engines.filter((engine) => engine.isOver),
      [],
    )
    await Promise.all(engines.map((engine) => engine.stop()))
    assert.deepEqual(await query('select id from millrace.node'), [])
    assert.equal((await client.console.jobs({ state: 'running' })).length, 0)
  })
})

/** Jobs of every kind, with what is known of how they must end. */
async function putRandom({ client, history }: Bundle, dice: Dice, count: number): Promise<void> {
  const items = Array.from({ length: count }, () => {
    const failures = dice.pick([0, 0, 0, 0, 1, 2, 9])
    const group = dice.next() < 0.3 ? `group ${dice.whole(1, 20)}` : null
    const runAtMs = group === null && dice.next() < 0.1 ? systemClock.wallMs() + dice.whole(100, 3_000) : null
    const priority = dice.whole(-2, 2)
    const options = { priority, ...(group === null ? {} : { group }), ...(runAtMs === null ? {} : { runAt: runAtMs }) }
    const payload = { failures, ...dice.pick([{ spinMs: dice.whole(0, 4) }, { restMs: dice.whole(0, 60) }]) }
    const task = dice.pick(['witness', 'witness-shared'])
    const end: Acknowledged['end'] = failures >= 3 ? 'failed' : 'completed'
    return { item: { task, payload, options }, facts: { group, priority, runAtMs, end } }
  })
  const done = await client.enqueueMany(items.map(({ item }) => item))
  const ids = done.ids.flatMap(({ first, count }) => Array.from({ length: count }, (_, at) => first + at))
  for (const [at, { facts }] of items.entries()) history.acknowledge(ids[at]!, facts)
}

test('a node frozen amid a transaction, even amid a COPY, does not keep its jobs from being rescued', {
  timeout: MINUTE,
}, async () => {
  const it = await openStore()
  const frozen: pg.Client[] = []
  try {
    for (const statement of ['select 1', `copy "${it.db.schema}".attempt from stdin`]) {
      await it.put(3)
      const nodeId = await it.store.join({ ...NODE, uid: randomUUID() })
      const [chunk] = await it.claim(nodeId)
      const client = new pg.Client({ connectionString: it.db.url })
      frozen.push(client)
      client.on('error', () => {})
      await client.connect()
      await client.query(`begin; select "${it.db.schema}".flush_begin(${nodeId}, 1, '{${chunk!.leaseId}}')`)
      client.query(statement).catch(() => {}) // a COPY never gets its rows
      await until('the node is rescued', async () => (await it.store.rescue(nodeId, 3, false)) !== null)
      const again = await it.claim(await it.join())
      assert.deepEqual(
        again.map(({ count, run }) => [count, run]),
        [[3, 2]],
      )
    }
    await checkFacts(it.query)
  } finally {
    for (const client of frozen) client.connection.stream.destroy()
    await it.close()
  }
})

test('a claim that a crash of the server forgot fences nobody out and lets nobody in: its number is not dealt again', {
  timeout: 2 * MINUTE,
}, async () => {
  // what is written without waiting for the disk stays in memory for so long
  const server = await openOwnServer({ wal_writer_delay: '10000ms' })
  const store = new Store({
    url: server.url,
    schema: 'forgot',
    clock: systemClock,
    timeoutMs: 20_000,
    prepared: true,
    name: 'test',
  })
  try {
    await store.migrate()
    const [queueId] = await store.queueIds(['default'])
    const [taskId] = await store.taskIds(['noop'])
    const [firstId] = await store.reserveBlocks(1)
    const chunk = {
      ...PLAIN,
      queueId: queueId!,
      taskId: taskId!,
      firstId: firstId!,
      count: 3,
      payloads: ['1', '2', '3'],
    }
    await store.enqueue([chunk], true)
    const nodeId = await store.join({ ...NODE, uid: randomUUID(), limitMs: 60_000 })
    const request = { nodeId, queueIds: [queueId!], taskIds: null, jobsMax: 100, bytesMax: 1e9, group: null }
    const before = await store.claim(request)
    assert.equal(before.length, 1)
    await server.stop('immediate')
    await server.start()
    let again: ClaimedChunk[] = []
    await until('the server answers', async () => {
      again = await store.claim(request)
      return true
    })
    assert.deepEqual(
      again.map(({ firstId, count, run }) => [firstId, count, run]),
      [[firstId, 3, 1]],
      'it was forgotten',
    )
    assert.notEqual(again[0]!.leaseId, before[0]!.leaseId)
    const late = await store.flush(nodeId, completing(1, nodeId, before))
    assert.deepEqual(late.staleLeases, [before[0]!.leaseId])
    const right = await store.flush(nodeId, completing(2, nodeId, again))
    assert.deepEqual(right.staleLeases, [])
    assert.equal((await server.query('select from forgot.attempt')).length, 3)
  } finally {
    await store.close()
    await server.close()
  }
})

test('a suspect whose lease is lost is not noted, and so never runs', { timeout: MINUTE }, async () => {
  const it = await openStore()
  try {
    const firstId = await it.put(2)
    const nodeId = await it.join()
    const [chunk] = await it.claim(nodeId)
    const item = { leaseId: chunk!.leaseId, jobId: firstId, run: chunk!.run, lane: 0 }
    await it.store.markRunning([item])
    await it.store.rescue(nodeId, 3, true)
    const [next] = await it.claim(await it.join())
    await assert.rejects(it.store.markRunning([item]), { code: 'HOLDER_LOST' })
    // all or nothing: with one that is lost no other is noted
    const good = { leaseId: next!.leaseId, jobId: firstId, run: next!.run, lane: 0 }
    await assert.rejects(it.store.markRunning([item, good]), { code: 'HOLDER_LOST' })
    assert.deepEqual(await it.query('select * from millrace.running'), [])
    await it.store.markRunning([good])
  } finally {
    await it.close()
  }
})

const NODE = { host: 'test', machine: 'test', pid: 1, version: '0', threads: 1, limitMs: 1_000 }

async function completed({ query }: Bundle): Promise<number> {
  const [row] = await query<{ n: number }>(
    `select count(*)::int as n from millrace.attempts where outcome = 'completed'`,
  )
  return row!.n
}
