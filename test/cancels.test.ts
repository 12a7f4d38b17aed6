// The wish to end a job that somebody holds is never lost: not when no call can arrive, not when its holder dies, and not
// when the job moves at the same moment. Races are played with two sessions: one keeps its transaction open.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import type pg from 'pg'
import { silentLog } from '../engine/base/log.ts'
import { Cancels } from '../engine/cancels.ts'
import type { Flush } from '../engine/store/types.ts'
import { AttemptRows, OUTCOME } from '../engine/syncer/attempt-rows.ts'
import { withBundle } from './support/bundle.ts'
import { withEngines } from './support/engine.ts'
import { gate } from './support/gate.ts'
import { ManualClock } from './support/manual-clock.ts'
import { completing, openStore, type StoreBundle } from './support/store.ts'
import { until } from './support/until.ts'

const NEVER_MS = 60_000

// ------------------------------------------------------------------ engines that no call reaches

test('an engine that does not listen ends a running job that is cancelled', async () => {
  await withEngines(async ({ client, engine, inState, query, until }) => {
    const worker = await engine({ listen: false, pollMs: 50 })
    const { id } = await client.enqueue('wait', 1)
    await until('it runs', async () => worker.stats().running === 1)
    assert.equal(await client.console.cancel(id, 'no longer wanted'), 'signalled')
    assert.match(JSON.stringify((await inState(id, 'cancelled')).error), /no longer wanted/)
    await until('the wish is gone', async () => (await query('select from millrace.cancelling')).length === 0)
  })
})

test('[TM-100] a cancel before the first LISTEN is up ends the job, and the next of its group runs', async () => {
  await withEngines(async ({ client, engine, inState, until }) => {
    const nobody = 'postgres://127.0.0.1:1/nobody'
    const never = { nodeLimitMs: 180_000, nodeHeartbeatMs: NEVER_MS }
    const worker = await engine({ ...never, directDatabase: nobody, pollMs: 50 })
    const first = await client.enqueue('wait', 1, { group: 'g' })
    const second = await client.enqueue('echo', 2, { group: 'g' })
    await until('it runs', async () => worker.stats().running === 1)
    assert.equal(await client.console.cancel(first.id), 'signalled')
    await inState(first.id, 'cancelled')
    await inState(second.id, 'completed')
  })
})

test('a cancel while the connection that listens is cut ends the job when it is back', async () => {
  await withEngines(async ({ client, engine, inState, query, schema, url, until }) => {
    const way = await gate(url)
    try {
      const never = { pollMs: NEVER_MS, pollMaxMs: NEVER_MS, nodeLimitMs: 180_000, nodeHeartbeatMs: NEVER_MS }
      const worker = await engine({ ...never, directDatabase: way.url })
      const { id } = await client.enqueue('wait', 1)
      await until('it runs', async () => worker.stats().running === 1)
      const listens = async () =>
        (await query(`select from pg_stat_activity where query = 'listen "millrace_${schema}"'`)).length
      await until('it listens', async () => (await listens()) === 1)
      way.cut()
      await until('it is cut off', async () => (await listens()) === 0)
      assert.equal(await client.console.cancel(id), 'signalled')
      assert.notEqual((await client.console.job(id))!.state, 'cancelled')
      way.open()
      await inState(id, 'cancelled')
    } finally {
      way.close()
    }
  })
})

test('a holder that dies with the wish unread: the job ends as cancelled and never runs again', async () => {
  await withBundle(async (it) => {
    const holder = it.engine()
    await holder.ready()
    const { id } = await it.client.enqueue('witness', { restMs: 60_000 })
    await until('it runs', async () => (await holder.stats()).running === 1)
    holder.signal('SIGSTOP')
    assert.equal(await it.client.console.cancel(id, 'enough'), 'signalled')
    await holder.kill9()
    const heir = it.engine()
    await heir.ready()
    await it.empty()
    const { events, job } = await it.client.console.explain(id)
    assert.equal(job.state, 'cancelled')
    assert.deepEqual(
      events.slice(-2).map((event) => event.state),
      ['lost', 'cancelled'],
    )
    assert.deepEqual(await it.query('select from millrace.cancelling'), [])
  })
})

// ------------------------------------------------------------------ races of two sessions

let it: StoreBundle
before(async () => {
  it = await openStore()
})
after(() => it.close())

const stateOf = async (id: number) => (await it.query('select state from millrace.jobs where id = $1', [id]))[0]!.state
const wishes = async () =>
  (await it.query<{ job_id: number }>('select job_id::int from millrace.cancelling')).map((row) => row.job_id)
const cancel = async (id: number, reason = 'enough') =>
  (await it.store.ask<{ outcome: string }>('select millrace.cancel($1, $2) as outcome', [id, reason]))[0]!.outcome

/** A flush of one failed attempt that is to be tried again at once. */
function failing(no: number, nodeId: number, leaseId: number, jobId: number): Flush {
  const rows = new AttemptRows()
  const error = Buffer.from('{"code":"TASK_THREW"}')
  rows.add(leaseId, jobId, 1, 1, OUTCOME.failed, nodeId, 0, 1, 2, error, 0, error.length)
  const retry = { leaseId, jobId, delayMs: 0, attempt: 2, run: 2, rescues: 0 }
  return { ...completing(no, nodeId, []), ...written(rows), leaseIds: [leaseId], leaseDone: [1], retries: [retry] }
}

const written = (rows: AttemptRows) => ({
  rows: rows.tuples,
  rowEnds: rows.ends,
  rowLeases: rows.leases,
  rowCount: rows.count,
})

/** Does `first` in an open transaction, lets `second` come until it waits, and commits. */
async function meanwhile<T>(first: (client: pg.ClientBase) => Promise<unknown>, second: () => Promise<T>): Promise<T> {
  const waiting = async () =>
    (
      await it.query(
        `select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query like '%"${it.db.schema}"%'`,
      )
    ).length > 0
  const other = it.other()
  return other.session('ask').exclusive('open', async (client) => {
    await client.query('begin')
    await first(client as unknown as pg.ClientBase)
    const done = second()
    done.catch(() => {})
    await until('the second waits for the first', waiting)
    await client.query('commit')
    return done
  })
}

const sql = (text: string) => text.replace(/\bmillrace\./g, `"${it.db.schema}".`)

test('a cancel that meets the give-back of the job ends it where it was put', async () => {
  const nodeId = await it.join()
  const id = await it.put(3)
  const [chunk] = await it.claim(nodeId)
  const rest = JSON.stringify({
    releases: [{ l: chunk!.leaseId, f: id, n: 3, a: 1, r: 1, s: 0, k: chunk!.rank, q: chunk!.seq }],
  })
  const outcome = await meanwhile(
    async (client) => {
      await client.query(sql('select millrace.flush_begin($1, 1, $2)'), [nodeId, [chunk!.leaseId]])
      await client.query(sql('select millrace.flush_end($1, 1, $2, $3, $4)'), [nodeId, [chunk!.leaseId], [3], rest])
    },
    () => cancel(id + 1),
  )
  assert.equal(outcome, 'cancelled')
  assert.equal(await stateOf(id + 1), 'cancelled')
  assert.deepEqual([await stateOf(id), await stateOf(id + 2)], ['queued', 'queued'])
  assert.deepEqual(await wishes(), [])
  await it.query('delete from millrace.ready')
})

test('a give-back that meets the cancel of one of its jobs ends that one; the others go on', async () => {
  const nodeId = await it.join()
  const id = await it.put(3)
  const [chunk] = await it.claim(nodeId)
  const { leaseId, rank, seq } = chunk!
  const released = { leaseId, firstId: id, count: 3, attempt: 1, run: 1, rescues: 0, rank, seq }
  await meanwhile(
    async (client) => {
      const { rows } = await client.query(sql(`select millrace.cancel($1, 'enough') as outcome`), [id + 1])
      assert.equal(rows[0].outcome, 'held')
    },
    () =>
      it.store.flush(nodeId, {
        ...completing(1, nodeId, []),
        leaseIds: [leaseId],
        leaseDone: [3],
        releases: [released],
      }),
  )
  assert.deepEqual([await stateOf(id), await stateOf(id + 1), await stateOf(id + 2)], ['queued', 'cancelled', 'queued'])
  assert.deepEqual(await wishes(), [])
  await it.query('delete from millrace.ready')
})

test('a job that fails after it was to be cancelled is not tried again', async () => {
  const nodeId = await it.join()
  const id = await it.put(1, { key: 'again', group: 'g' })
  const [chunk] = await it.claim(nodeId)
  assert.equal(await cancel(id), 'held')
  await it.store.flush(nodeId, failing(1, nodeId, chunk!.leaseId, id))
  assert.equal(await stateOf(id), 'cancelled')
  const attempts = await it.query('select outcome, run::int from millrace.attempts where job_id = $1 order by run', [
    id,
  ])
  assert.deepEqual(attempts, [
    { outcome: 'failed', run: 1 },
    { outcome: 'cancelled', run: 2 },
  ])
  const left = await it.query('select job_id from millrace.key union all select job_id from millrace.hold')
  assert.deepEqual(left, [], 'its key and the turn of its group are free')
  assert.deepEqual(await wishes(), [])
})

test('a cancel that meets the failure of the job ends it before its retry', async () => {
  const nodeId = await it.join()
  const id = await it.put(1)
  const [chunk] = await it.claim(nodeId)
  const rest = JSON.stringify({ retries: [{ j: id, d: 0, a: 2, r: 2, s: 0 }] })
  const row = JSON.stringify([
    { j: id, r: 1, a: 1, o: 'f', i: nodeId, n: 0, s: 1, f: 2, e: [{ code: 'TASK_THREW' }], v: [null] },
  ])
  const outcome = await meanwhile(
    (client) =>
      client.query(sql('select millrace.flush_few($1, 1, $2, $3, $4, $5, false)'), [
        nodeId,
        [chunk!.leaseId],
        [1],
        row,
        rest,
      ]),
    () => cancel(id),
  )
  assert.equal(outcome, 'cancelled')
  assert.equal(await stateOf(id), 'cancelled')
})

test('a cancel that meets the promotion of the job finds it', async () => {
  const id = await it.put(2, { runAtMs: Date.now() + 300 })
  await until(
    'it is due',
    async () => (await it.query('select from millrace.scheduled where run_at > clock_timestamp()')).length === 0,
  )
  const outcome = await meanwhile(
    (client) => client.query(sql('select * from millrace.promote(100)')),
    () => cancel(id),
  )
  assert.equal(outcome, 'cancelled')
  assert.deepEqual([await stateOf(id), await stateOf(id + 1)], ['cancelled', 'queued'])
  await it.query('delete from millrace.ready')
})

test('a cancel that meets the claim of the job asks its new holder', async () => {
  const nodeId = await it.join()
  const id = await it.put(2)
  const outcome = await meanwhile(
    (client) =>
      client.query(sql('select * from millrace.claim($1, $2, null, 10, 1000000, null)'), [nodeId, [it.queueId]]),
    () => cancel(id, 'you'),
  )
  assert.equal(outcome, 'held')
  assert.deepEqual(await it.store.cancelsOf(nodeId), [{ jobId: id, reason: 'you' }])
  assert.equal((await it.store.beat(nodeId, 'live')).cancels, true)
  await it.store.rescue(nodeId, 3, true)
  assert.deepEqual([await stateOf(id), await stateOf(id + 1)], ['cancelled', 'queued'])
  await it.query('delete from millrace.ready')
})

test('a job that completes all the same stays completed, and the wish does not stay', async () => {
  const nodeId = await it.join()
  const id = await it.put(2)
  const chunks = await it.claim(nodeId)
  assert.equal(await cancel(id), 'held')
  assert.equal(await cancel(id), 'held')
  assert.equal((await it.store.beat(nodeId, 'live')).cancels, true)
  await it.store.flush(nodeId, completing(1, nodeId, chunks))
  assert.equal(await stateOf(id), 'completed')
  assert.equal(await cancel(id + 1), 'finished')
  assert.deepEqual(await it.store.cancelsOf(nodeId), [])
  assert.deepEqual(await wishes(), [])
  assert.equal((await it.store.beat(nodeId, 'live')).cancels, false)
  assert.equal(await stateOf(id), 'completed')
})

test('a cancel does not wait for a handler that is completing its job in a transaction of its own', async () => {
  const nodeId = await it.join()
  const id = await it.put(1)
  const [chunk] = await it.claim(nodeId)
  const other = it.other()
  await other.session('ask').exclusive('open', async (client) => {
    await client.query('begin')
    await client.query(sql('select millrace.complete($1, $2, 1)'), [chunk!.leaseId, id])
    assert.equal(await cancel(id), 'held')
    await client.query('commit')
  })
  assert.equal(await stateOf(id), 'completed')
  assert.deepEqual(await it.store.cancelsOf(nodeId), [])
  assert.deepEqual(await wishes(), [])
})

test('a job that would be a dead letter with its holder is cancelled instead, when that was asked for', async () => {
  const nodeId = await it.join()
  const id = await it.put(2)
  await it.claim(nodeId)
  assert.equal(await cancel(id), 'held')
  assert.deepEqual(await it.store.rescue(nodeId, 1, true), { reopened: 1, buried: 1, gone: true })
  assert.deepEqual([await stateOf(id), await stateOf(id + 1)], ['cancelled', 'failed'])
  assert.deepEqual(await wishes(), [])
})

// ------------------------------------------------------------------ when the holder looks

function watcher(answers: { jobId: number; reason: string }[][]) {
  const clock = new ManualClock()
  const state = { holding: false, told: true, here: new Set<number>(), reads: 0, ended: [] as number[] }
  const cancels = new Cancels(
    {
      clock,
      log: silentLog,
      async read() {
        state.reads++
        return answers.shift() ?? []
      },
      cancel(jobId) {
        if (!state.here.delete(jobId)) return false
        state.ended.push(jobId)
        return true
      },
      isHolding: () => state.holding,
      isTold: () => state.told,
    },
    { pollMs: 500 },
  )
  cancels.start()
  const pass = async (ms: number) => {
    clock.advance(ms)
    await new Promise(setImmediate)
  }
  return { cancels, state, pass }
}

test('nothing is read while calls arrive or nothing is held; without calls it is, as long as jobs are here', async () => {
  const { cancels, state, pass } = watcher([])
  state.holding = true
  for (let at = 0; at < 5; at++) await pass(500)
  assert.equal(state.reads, 0)
  state.told = false
  for (let at = 0; at < 5; at++) await pass(500)
  assert.equal(state.reads, 5)
  state.holding = false
  for (let at = 0; at < 5; at++) await pass(500)
  assert.equal(state.reads, 5)
  await cancels.stop()
})

test('a wish for a job that has not arrived yet is done when it arrives, and told once', async () => {
  const wish = { jobId: 7, reason: 'x' }
  const { cancels, state, pass } = watcher([[wish], [wish], [wish], []])
  cancels.ask()
  await pass(0)
  assert.deepEqual([state.reads, state.ended.length], [1, 0])
  state.here.add(7)
  cancels.arrived()
  await pass(0)
  assert.deepEqual(state.ended, [7])
  state.here.add(7)
  cancels.ask()
  await pass(0)
  assert.deepEqual(state.ended, [7], 'it ends already')
  await pass(500)
  assert.equal(state.reads, 3)
  cancels.arrived()
  await pass(0)
  assert.equal(state.reads, 3, 'no wish is open')
  await cancels.stop()
})

test('a wish that could not be read, or not be done, is asked for again', async () => {
  const wish = { jobId: 7, reason: 'x' }
  const { cancels, state, pass } = watcher([[wish], [wish]])
  cancels.ask()
  await pass(0)
  await pass(500)
  assert.equal(state.reads, 2)
  await pass(500)
  assert.equal(state.reads, 3)
  await pass(500)
  assert.equal(state.reads, 3, 'it is gone')
  await cancels.stop()
})
