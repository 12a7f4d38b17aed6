// A job whose time has passed becomes a dead letter also where nobody claims it, whatever it waits for; what is held, or
// just being claimed, is left to who has it.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { withEngines } from './support/engine.ts'
import { completing, openStore, type StoreBundle } from './support/store.ts'

const QUICK = { nodeHeartbeatMs: 200, nodeLimitMs: 1_000 }
const HOUR = 3_600_000

test('[TM-085] [TM-105] what waits in a paused queue expires: at once, for its time, behind its group, and for its retry', async () => {
  await withEngines(async ({ client, engine, inState, query, until }) => {
    await engine(QUICK)
    const again = { maxAttempts: 2, retry: { kind: 'fixed', delayMs: HOUR }, queue: 'default' } as const
    const retrying = await client.enqueue('careful', 1, { ...again, expiresAt: Date.now() + 2_000 })
    await inState(retrying.id, 'retrying')
    await client.console.queue.pause('default')
    const expiresAt = Date.now() + 700
    const ids = [
      (await client.enqueue('echo', 1, { expiresAt, idempotencyKey: 'k' })).id,
      (await client.enqueue('echo', 1, { expiresAt, runAt: expiresAt - 1 })).id,
      (await client.enqueue('echo', 1, { expiresAt, group: 'g' })).id,
      (await client.enqueue('echo', 1, { expiresAt, group: 'g' })).id,
    ]
    const next = await client.enqueue('echo', 'next', { group: 'g' })
    const { first } = (await client.enqueueMany('echo', [1, 2, 3], { expiresAt })).ids[0]!
    ids.push(first, first + 1, first + 2)
    for (const id of [...ids, retrying.id]) {
      const job = await inState(id, 'expired')
      assert.match(JSON.stringify(job.error), /TASK_EXPIRED/)
    }
    assert.deepEqual(
      (await client.console.dead.list()).map(({ id, code, attempts }) => [id, code, attempts]).sort(),
      [...ids.map((id) => [id, 'TASK_EXPIRED', 0]), [retrying.id, 'TASK_EXPIRED', 1]].sort(),
    )
    assert.equal((await client.console.queue.stats('default')).available, 1)
    assert.equal((await client.enqueue('echo', 1, { idempotencyKey: 'k' })).duplicate, false)
    await client.console.queue.resume('default')
    await inState(next.id, 'completed')
    await until('nothing is watched', async () => (await query('select from millrace.expiring')).length === 0)
    const { events } = await client.console.explain(ids[0]!)
    assert.equal(events.at(-1)!.state, 'expired')
  })
})

test('what no node serves expires, however it was enqueued; requeued with a new expiry, it expires again', async () => {
  await withEngines(async ({ client, engine, inState, query, until }) => {
    const expiresAt = Date.now() + 300
    const many = await client.enqueueMany(
      'unknown',
      Array.from({ length: 2_500 }, () => 1),
      { expiresAt },
    )
    const rows = await query<{ id: number }>(
      `select millrace.enqueue('unknown', expires_at => now() + interval '300 ms')::int as id`,
    )
    await engine({ ...QUICK, queues: ['other'] })
    await inState(rows[0]!.id, 'expired')
    await until('all have expired', async () => (await client.console.queue.stats('default')).dead === 2_501)
    assert.equal(many.count, 2_500)
    const past = client.console.dead.requeue({ id: rows[0]!.id }, { expiresAt: Date.now() - 60_000 })
    await assert.rejects(past, { code: 'VALIDATION' })
    await client.console.dead.requeue({ id: rows[0]!.id }, { expiresAt: Date.now() + 1_000 })
    await until('it expired again', async () => (await client.console.queue.stats('default')).dead === 2_501)
    const [{ n }] = (await query(`select count(*)::int as n from millrace.attempts where job_id = ${rows[0]!.id}`)) as [
      { n: number },
    ]
    assert.equal(n, 2)
  })
})

test('what expired is requeued for a life without an expiry: it waits as long as it must, and runs', async () => {
  await withEngines(async ({ client, engine, inState, query, until }) => {
    await client.console.queue.pause('default')
    const { first } = (await client.enqueueMany('echo', [1, 2, 3], { expiresAt: Date.now() + 300 })).ids[0]!
    const ids = [first, first + 1, first + 2]
    await engine(QUICK)
    for (const id of ids) await inState(id, 'expired')
    assert.equal((await client.console.dead.requeue({ ids })).requeued, 3)
    assert.deepEqual(await query('select expires_at from millrace.job where expires_at is not null'), [])
    await client.console.queue.resume('default')
    for (const id of ids) await inState(id, 'completed')
    await until('nothing is watched', async () => (await query('select from millrace.expiring')).length === 0)
  })
})

// ------------------------------------------------------------------ what somebody has

let it: StoreBundle
before(async () => {
  it = await openStore()
})
after(() => it.close())

const states = async (first: number, count: number) =>
  (
    await it.query<{ state: string }>('select state from millrace.jobs where id >= $1 and id < $2 order by id', [
      first,
      first + count,
    ])
  ).map((row) => row.state)
const look = () => it.query('update millrace.expiring set look_at = now()')
const watched = async () => (await it.query('select from millrace.expiring')).length

test('of a chunk that is held in part only the rest expires, and what is given back later expires then', async () => {
  const nodeId = await it.join()
  const id = await it.put(4, { expiresAtMs: Date.now() - 1 })
  const [chunk] = await it.claim(nodeId, 2)
  assert.equal((await it.store.beat(nodeId, 'live')).overdue, true)
  assert.deepEqual(await it.store.expireDue(10), { expired: 2, more: false })
  assert.deepEqual(await states(id, 4), ['assigned', 'assigned', 'expired', 'expired'])
  assert.equal((await it.store.beat(nodeId, 'live')).overdue, false)
  await look()
  assert.deepEqual(await it.store.expireDue(10), { expired: 0, more: false })
  const { leaseId, rank, seq } = chunk!
  const released = { leaseId, firstId: id + 1, count: 1, attempt: 1, run: 1, rescues: 0, rank, seq }
  const rest = completing(1, nodeId, [{ ...chunk!, count: 1 }])
  await it.store.flush(nodeId, { ...rest, leaseDone: [2], releases: [released] })
  assert.deepEqual(await states(id, 2), ['completed', 'queued'])
  assert.equal(await watched(), 1)
  await look()
  assert.deepEqual(await it.store.expireDue(10), { expired: 1, more: false })
  assert.deepEqual(await states(id, 4), ['completed', 'expired', 'expired', 'expired'])
  assert.equal(await watched(), 0)
})

test('a sweep waits for nobody: what is just being claimed is left, and two sweeps do not meet', async () => {
  const nodeId = await it.join()
  const id = await it.put(3, { expiresAtMs: Date.now() - 1 })
  const other = it.other()
  await other.session('ask').exclusive('open', async (client) => {
    await client.query('begin')
    await client.query(`select * from "${it.db.schema}".claim($1, $2, null, 1, 1000000, null)`, [nodeId, [it.queueId]])
    assert.deepEqual(await it.store.expireDue(10), { expired: 0, more: false })
    assert.equal(await watched(), 1)
    await client.query('rollback')
    await client.query('begin')
    await look()
    await client.query(`select * from "${it.db.schema}".expire_due(10)`)
    assert.deepEqual(await it.store.expireDue(10), { expired: 0, more: false }, 'somebody else is at it')
    assert.deepEqual(await it.claim(nodeId), [], 'a claim passes by')
    await client.query('commit')
  })
  assert.deepEqual(await states(id, 3), ['expired', 'expired', 'expired'])
})

test('batches are bounded, and say that there is more', async () => {
  for (let at = 0; at < 5; at++) await it.put(1, { expiresAtMs: Date.now() - 1 })
  assert.deepEqual(await it.store.expireDue(3), { expired: 3, more: true })
  assert.deepEqual(await it.store.expireDue(3), { expired: 2, more: false })
})

test('jobs without an expiry are not watched, and what has ended is forgotten when its time comes', async () => {
  const nodeId = await it.join()
  await it.put(2)
  const done = await it.put(2, { expiresAtMs: Date.now() + HOUR })
  assert.equal(await watched(), 1)
  await it.store.flush(nodeId, completing(1, nodeId, await it.claim(nodeId)))
  await look()
  assert.deepEqual(await it.store.expireDue(10), { expired: 0, more: false })
  assert.deepEqual(await states(done, 2), ['completed', 'completed'])
  assert.equal(await watched(), 0)
})

test('a dead letter that comes back is no longer watched with its chunk; an expiry that is ahead stays its own', async () => {
  const first = await it.put(5, { expiresAtMs: Date.now() + HOUR })
  const bury = (id: number, code: string) =>
    it.query(
      `insert into millrace.dead (job_id, queue_id, task_id, attempts, run, code, reason)
       select id, queue_id, task_id, 1, 1, $2, '{}' from millrace.job where id = $1`,
      [id, code],
    )
  await it.query('delete from millrace.ready')
  await bury(first + 2, 'TASK_EXPIRED')
  await bury(first + 3, 'TASK_FAILED')
  await it.query('select millrace.requeue($1)', [[first + 2, first + 3]])
  assert.deepEqual(
    await it.query(`select (first_id - $1)::int as at, count::int from millrace.expiring order by 1`, [first]),
    [
      { at: 0, count: 2 },
      { at: 3, count: 1 },
      { at: 4, count: 1 },
    ],
  )
  await it.query('update millrace.expiring set look_at = now()')
  await it.query('select millrace.expire_due(100)')
  assert.deepEqual(await states(first + 2, 2), ['queued', 'expired'])
})

// ------------------------------------------------------------------ within its second

/** No beat comes within the time that a test waits. */
const NO_BEAT = { nodeHeartbeatMs: 120_000, nodeLimitMs: 600_000 }

test('an expiry that is near is obeyed without a beat: enqueued here, elsewhere, by SQL, in a transaction, requeued', async () => {
  await withEngines(async ({ client, engine, inState, query, connection, schema }) => {
    await client.console.queue.pause('default')
    const node = await engine(NO_BEAT)
    const near = () => ({ expiresAt: Date.now() + 300 })
    const dead = [(await node.enqueue('echo', 1, near())).id, (await client.enqueue('echo', 2, near())).id]
    const [{ id: sql }] = (await query(
      "select millrace.enqueue('echo', '3', expires_at => now() + interval '300 ms') as id",
    )) as [{ id: string }]
    dead.push(Number(sql))
    dead.push((await client.enqueueMany('echo', [4], near())).ids[0]!.first)
    const own = await connection()
    await own.query('begin')
    dead.push((await client.enqueue('echo', 5, { ...near(), client: own })).id)
    await own.query(`select "${schema}".enqueue('echo', '6', expires_at => now() + interval '300 ms')`)
    await own.query('commit')
    for (const id of dead) await inState(id, 'expired')
    await client.console.dead.requeue({ id: dead[0]! }, near())
    await inState(dead[0]!, 'expired')
    const late = (await client.enqueue('echo', 7, { expiresAt: Date.now() + 3_600_000 })).id
    assert.equal((await client.console.job(late))!.state, 'queued')
  })
})

test('a beat tells of an expiry that comes before the next one', async () => {
  await withEngines(async ({ client, engine, inState, query }) => {
    await client.console.queue.pause('default')
    await engine({ listen: false, nodeHeartbeatMs: 8_000, nodeLimitMs: 100_000 })
    const { id } = await client.enqueue('echo', 1, { expiresAt: Date.now() + 11_000 })
    await inState(id, 'expired')
    const [row] = await query(
      'select extract(epoch from died_at - expires_at)::float8 as late from millrace.dead d join millrace.job j on j.id = d.job_id',
    )
    assert.ok((row!.late as number) >= 0 && (row!.late as number) < 4, `${row!.late} s late`) // the beat after comes 5 s after it
  })
})

test('what a node holds and cannot begin in time is a dead letter while its lane is still busy', async () => {
  await withEngines(async ({ client, engine, inState, until }) => {
    const node = await engine({ ...NO_BEAT, threads: 1 })
    const busy = (await client.enqueue('wait', 1)).id // its thread runs nothing else meanwhile
    const isHeld = async () => ['assigned', 'running'].includes((await client.console.job(busy))!.state)
    await until('it runs', isHeld)
    const { ids } = await node.enqueueMany('echo', [1, 2, 3], { expiresAt: Date.now() + 300 })
    const grouped = (await node.enqueue('echo', 4, { group: 'g', expiresAt: Date.now() + 400 })).id
    const next = (await node.enqueue('echo', 5, { group: 'g' })).id
    for (const id of [ids[0]!.first, ids[0]!.first + 2, grouped]) await inState(id, 'expired')
    assert.ok(await isHeld())
    assert.ok(node.stats().dead >= 3) // those that it held
    await client.console.cancel(busy)
    await inState(next, 'completed')
  })
})

test('a job that is held again after it had expired and was requeued is held, for lists and for overlaps', async () => {
  const own = await openStore()
  try {
    const nodeId = await own.join()
    const id = await own.put(1, { expiresAtMs: Date.now() + HOUR })
    await own.query('update millrace.expiring set look_at = clock_timestamp()')
    assert.equal((await own.store.expireDue(10)).expired, 1)
    await own.query('select from millrace.requeue(array[$1::bigint])', [id])
    assert.equal((await own.claim(nodeId)).length, 1)
    const [row] = await own.query('select state, millrace.is_unfinished(id) as open from millrace.jobs')
    assert.deepEqual(row, { state: 'assigned', open: true })
  } finally {
    await own.close()
  }
})
