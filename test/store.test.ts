// The store against a real PostgreSQL: the schema, and what claims, flushes, rescues and groups promise. Races are two
// real sessions.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import pg from 'pg'
import { systemClock } from '../engine/base/clock.ts'
import { EngineError } from '../engine/base/errors.ts'
import { readMigrations } from '../engine/store/statements.ts'
import { Store } from '../engine/store/store.ts'
import type { ClaimedChunk } from '../engine/store/types.ts'
import { openTestDatabase } from './support/database.ts'
import { completing, openStore, PLAIN, type StoreBundle } from './support/store.ts'

let it: StoreBundle
before(async () => {
  it = await openStore()
})
after(() => it.close())

/** A queue of its own per test, so that tests do not meet. */
async function freshQueue(): Promise<number> {
  return (await it.store.queueIds([`q${++queues}`]))[0]!
}
let queues = 0

async function claimFrom(queueId: number, nodeId: number, jobsMax = 1_000, store = it.store) {
  return store.claim({ nodeId, queueIds: [queueId], taskIds: null, jobsMax, bytesMax: 1e9, group: null })
}

test('a fresh schema is made once, however many start at once [TM-136]', async () => {
  const bundle = await openStore({ migrate: false })
  const reports = await Promise.all(Array.from({ length: 4 }, () => bundle.other().migrate()))
  const applied = reports.filter((report) => report.applied.length > 0)
  assert.equal(applied.length, 1)
  assert.equal(applied[0]!.applied.length, readMigrations().length)
  await bundle.close()
})

test('a dry run says what it would do and does nothing', async () => {
  const bundle = await openStore({ migrate: false })
  const report = await bundle.store.migrate(true)
  assert.equal(report.applied.length, readMigrations().length)
  assert.match(report.sql, /create table "test_[^"]+"\.job/)
  const there = await bundle.db.query('select 1 from pg_namespace where nspname = $1', [bundle.db.schema])
  assert.equal(there.length, 0)
  await bundle.close()
})

test('a schema newer than the binary is refused by number', async () => {
  const bundle = await openStore()
  await bundle.query(`insert into millrace.migration (version, name, applied_by) values (999, 'later', 'test')`)
  for (const attempt of [() => bundle.other().migrate(), () => bundle.other().checkVersion()]) {
    await assert.rejects(
      attempt,
      (error: EngineError) =>
        (error.code === 'SCHEMA_NEWER' && error.details.version === 999) || error.details.from === 999,
    )
  }
  await bundle.close()
})

test('an older schema is refused when migrations are off', async () => {
  const bundle = await openStore({ migrate: false })
  await assert.rejects(bundle.store.checkVersion(), (error: EngineError) => error.code === 'SCHEMA_MISSING')
  await bundle.close()
})

test('a role without any rights but those on its schema is enough', async () => {
  const db = await openTestDatabase()
  const role = `role_${db.schema}`
  await db.query(`create role "${role}" login password 'x'`)
  await db.query(`create schema "${db.schema}" authorization "${role}"`)
  const url = new URL(db.url)
  url.username = role
  url.password = 'x'
  const store = new Store({
    url: url.href,
    schema: db.schema,
    clock: systemClock,
    timeoutMs: 20_000,
    prepared: true,
    name: 'test',
  })
  try {
    await store.migrate()
    const [queueId] = await store.queueIds(['default'])
    const [taskId] = await store.taskIds(['t'])
    const [firstId] = await store.reserveBlocks(1)
    await store.enqueue(
      [{ ...PLAIN, firstId: firstId!, count: 1, queueId: queueId!, taskId: taskId!, payloads: ['1'] }],
      true,
    )
    const nodeId = await store.join({
      uid: crypto.randomUUID(),
      host: 'h',
      machine: 'm',
      pid: 1,
      version: '0',
      threads: 1,
      limitMs: 1_000,
    })
    const chunks = await claimFrom(queueId!, nodeId, 10, store)
    assert.equal((await store.flush(nodeId, completing(1, nodeId, chunks))).staleLeases.length, 0)
    assert.equal(await store.leave(nodeId), true)
  } finally {
    await store.close()
    await db.query(`drop schema "${db.schema}" cascade`)
    await db.query(`drop role "${role}"`)
    await db.close()
  }
})

test('everything works without prepared statements and session settings', async () => {
  const bundle = await openStore({ prepared: false })
  await bundle.put(3)
  const nodeId = await bundle.join()
  const chunks = await bundle.claim(nodeId)
  assert.equal(chunks[0]!.count, 3)
  await bundle.store.flush(nodeId, completing(1, nodeId, chunks))
  const rows = await bundle.query<{ state: string }>('select state from millrace.jobs')
  assert.deepEqual(
    rows.map((row) => row.state),
    ['completed', 'completed', 'completed'],
  )
  await bundle.close()
})

test('a claim takes part of a chunk and leaves the rest in place', async () => {
  const queueId = await freshQueue()
  const firstId = await it.put(10, { queueId })
  const nodeId = await it.join()
  const [part] = await claimFrom(queueId, nodeId, 4)
  assert.deepEqual([part!.firstId, part!.count], [firstId, 4])
  assert.equal(part!.payloads, ['0', '1', '2', '3'].join('\u001e'))
  const [rest] = await claimFrom(queueId, nodeId, 100)
  assert.deepEqual([rest!.firstId, rest!.count, rest!.seq], [firstId + 4, 6, part!.seq])
  assert.deepEqual(await claimFrom(queueId, nodeId), [])
})

test('a claim takes no more bytes than it may, but always one job', async () => {
  const queueId = await freshQueue()
  await it.put(4, { queueId, payloads: Array.from({ length: 4 }, () => JSON.stringify('x'.repeat(998))) })
  const nodeId = await it.join()
  const claim = (bytesMax: number) =>
    it.store.claim({ nodeId, queueIds: [queueId], taskIds: null, jobsMax: 100, bytesMax, group: null })
  assert.equal((await claim(10))[0]!.count, 1)
  assert.equal((await claim(2_500))[0]!.count, 2)
})

test('two sessions that claim at once never get the same job [TM-087] [PC-064]', async () => {
  const queueId = await freshQueue()
  for (let at = 0; at < 20; at++) await it.put(1, { queueId })
  const [a, b] = [await it.join(), await it.join()]
  const other = it.other()
  // one session holds its claim open while the other claims
  const holding = new pg.Client({ connectionString: it.db.url })
  await holding.connect()
  try {
    await holding.query('begin')
    const held = await holding.query(`select first_id from "${it.db.schema}".claim($1, $2, null, 5, 1000000, null)`, [
      a,
      [queueId],
    ])
    const taken = await claimFrom(queueId, b, 100, other)
    const ids = new Set([...held.rows.map((row) => Number(row.first_id)), ...taken.map((chunk) => chunk.firstId)])
    assert.equal(held.rows.length, 5)
    assert.equal(taken.length, 15)
    assert.equal(ids.size, 20)
  } finally {
    await holding.end()
  }
  assert.equal((await claimFrom(queueId, b, 100, other)).length, 5)
})

test('[TM-087] three workers claim at once, as nodes do: nobody waits, nobody gets what another has, and all of it is processed', async () => {
  const queueId = await freshQueue()
  const ids: number[] = []
  for (let at = 0; at < 10; at++) ids.push(await it.put(1, { queueId }))
  const nodes = await Promise.all([it.join(), it.join(), it.join()])
  // nodes claim jobs of the tasks that they know, and begin behind what they have claimed when old rows are in the way
  const open: pg.Client[] = []
  const claims: Record<string, unknown>[][] = []
  try {
    for (const [nth, call] of [
      'claim_of_tasks($1, $2, $3, 3, 1000000, null)',
      'claim_after($1, $2, $3, 3, 1000000, null, $2, array[-9223372036854775808], array[-1], array[9223372036854775807])',
      'claim_of_tasks($1, $2, $3, 100, 1000000, null)',
    ].entries()) {
      const session = new pg.Client({ connectionString: it.db.url })
      open.push(session)
      await session.connect()
      await session.query('begin')
      await session.query('set local lock_timeout = 1')
      const { rows } = await session.query(`select * from "${it.db.schema}".${call}`, [
        nodes[nth],
        [queueId],
        [it.taskId],
      ])
      claims.push(rows)
    }
    assert.deepEqual(
      claims.map((rows) => rows.map((row) => Number(row.first_id))),
      [ids.slice(0, 3), ids.slice(3, 6), ids.slice(6)],
    )
    for (const session of open) await session.query('commit')
  } finally {
    for (const session of open) await session.end()
  }
  for (const [nth, rows] of claims.entries()) {
    const chunks = rows.map((row) => ({
      leaseId: Number(row.lease_id),
      firstId: Number(row.first_id),
      count: 1,
      run: 1,
      attempt: 1,
    }))
    await it.store.flush(nodes[nth]!, completing(1, nodes[nth]!, chunks as ClaimedChunk[]))
  }
  const done = await it.query(
    `select count(*)::int as attempts, count(distinct job_id)::int as jobs from millrace.attempt where outcome = 'c' and job_id = any ($1)`,
    [ids],
  )
  assert.deepEqual(done, [{ attempts: 10, jobs: 10 }])
})

test('higher priority first, then the order of enqueueing', async () => {
  const queueId = await freshQueue()
  const low = await it.put(1, { queueId, priority: -50 })
  const first = await it.put(1, { queueId })
  const second = await it.put(1, { queueId })
  const high = await it.put(1, { queueId, priority: 50 })
  const chunks = await claimFrom(queueId, await it.join())
  assert.deepEqual(
    chunks.map((chunk) => chunk.firstId),
    [high, first, second, low],
  )
})

test('a claim that takes a part takes the first of that order, not any of them', async () => {
  const queueId = await freshQueue()
  const nodeId = await it.join()
  const low = await it.put(1, { queueId, priority: -50 })
  const first = await it.put(2, { queueId })
  const high = await it.put(1, { queueId, priority: 50 })
  const order: number[] = []
  for (let n = 0; n < 4; n++) order.push((await claimFrom(queueId, nodeId, 1))[0]!.firstId)
  assert.deepEqual(order, [high, first, first + 1, low])
})

test('a node claims only tasks that it knows, and a paused queue gives nothing', async () => {
  const queueId = await freshQueue()
  const [known, unknown] = await it.store.taskIds(['known', 'unknown'])
  await it.put(1, { queueId, taskId: unknown! })
  const mine = await it.put(1, { queueId, taskId: known! })
  const nodeId = await it.join()
  const claim = () =>
    it.store.claim({ nodeId, queueIds: [queueId], taskIds: [known!], jobsMax: 10, bytesMax: 1e9, group: null })
  await it.query('update millrace.queue set paused = true where id = $1', [queueId])
  assert.deepEqual(await claim(), [])
  await it.query('update millrace.queue set paused = false where id = $1', [queueId])
  assert.deepEqual(
    (await claim()).map((chunk) => chunk.firstId),
    [mine],
  )
  assert.deepEqual(await claim(), [])
})

test('the same flush sent twice is written once', async () => {
  const queueId = await freshQueue()
  await it.put(5, { queueId })
  const nodeId = await it.join()
  const chunks = await claimFrom(queueId, nodeId)
  const flush = completing(1, nodeId, chunks)
  assert.deepEqual(await it.store.flush(nodeId, flush), { staleLeases: [], alreadyDone: false })
  assert.deepEqual(await it.store.flush(nodeId, flush), { staleLeases: [], alreadyDone: true })
  const [row] = await it.query<{ n: number }>(
    'select count(*)::int as n from millrace.attempt where job_id >= $1 and job_id < $1 + 5',
    [chunks[0]!.firstId],
  )
  assert.equal(row!.n, 5)
})

test('a flush about a part of a lease that is sent twice counts once: the lease stays open for the others', async () => {
  for (const count of [2, 500]) {
    const queueId = await freshQueue()
    await it.put(count + 1, { queueId })
    const nodeId = await it.join()
    const [chunk] = await claimFrom(queueId, nodeId)
    const part = completing(1, nodeId, [{ ...chunk!, count }])
    assert.deepEqual(await it.store.flush(nodeId, part), { staleLeases: [], alreadyDone: false })
    assert.deepEqual(await it.store.flush(nodeId, part), { staleLeases: [], alreadyDone: true })
    const open = await it.query('select open from millrace.lease where id = $1', [chunk!.leaseId])
    assert.deepEqual(open, [{ open: 1 }], `${count} of ${count + 1}`)
    const last = completing(2, nodeId, [{ ...chunk!, firstId: chunk!.firstId + count, count: 1 }])
    assert.deepEqual(await it.store.flush(nodeId, last), { staleLeases: [], alreadyDone: false })
    assert.deepEqual(await it.query('select from millrace.lease where id = $1', [chunk!.leaseId]), [])
  }
})

test('many or few, what a node reports is judged alike: twice is once, and after its death it counts for nothing', async () => {
  for (const count of [1, 500]) {
    const queueId = await freshQueue()
    const firstId = await it.put(count, { queueId })
    const [zombie, other] = [await it.join(), await it.join()]
    const done = completing(1, zombie, await claimFrom(queueId, zombie))
    assert.deepEqual(await it.store.flush(zombie, done), { staleLeases: [], alreadyDone: false })
    assert.deepEqual(await it.store.flush(zombie, done), { staleLeases: [], alreadyDone: true })
    assert.deepEqual(
      await it.query('select from millrace.lease where node_id = $1', [zombie]),
      [],
      'its last job ended',
    )
    const againId = await it.put(count, { queueId })
    const late = completing(2, zombie, await claimFrom(queueId, zombie))
    assert.equal((await it.store.rescue(zombie, 3, true))!.reopened, count)
    const refused = { code: 'NODE_FENCED' }
    await assert.rejects(it.store.flush(zombie, late), refused, `${count} jobs`)
    const [row] = await it.query<{ done: number; late: number }>(
      `select count(*) filter (where outcome = 'c' and job_id >= $1 and job_id < $1 + $3)::int as done,
         count(*) filter (where outcome = 'c' and job_id >= $2 and job_id < $2 + $3)::int as late from millrace.attempt`,
      [firstId, againId, count],
    )
    assert.deepEqual(row, { done: count, late: 0 })
    assert.equal((await claimFrom(queueId, other)).length, 1)
  }
})

test('a report under a lost lease is refused, its neighbours are written', async () => {
  const queueId = await freshQueue()
  const [lost, kept] = [await it.put(2, { queueId }), await it.put(2, { queueId })]
  const nodeId = await it.join()
  const [a] = await claimFrom(queueId, nodeId, 2)
  const [b] = await claimFrom(queueId, nodeId, 2)
  await it.query('delete from millrace.lease where id = $1', [a!.leaseId])
  const result = await it.store.flush(nodeId, completing(1, nodeId, [a!, b!]))
  assert.deepEqual(result.staleLeases, [a!.leaseId])
  const rows = await it.query<{ job_id: number }>(
    'select job_id::int from millrace.attempt where job_id = any($1) order by 1',
    [[lost, lost + 1, kept, kept + 1]],
  )
  assert.deepEqual(
    rows.map((row) => row.job_id),
    [kept, kept + 1],
  )
})

test('a dead node reports nothing and claims nothing; its jobs run again in their place', async () => {
  const queueId = await freshQueue()
  const firstId = await it.put(6, { queueId })
  const [zombie, other] = [await it.join(), await it.join()]
  const [chunk] = await claimFrom(queueId, zombie, 4)
  const done = completing(1, zombie, [{ ...chunk!, count: 1 }])
  await it.store.flush(zombie, done)
  assert.equal(await it.store.rescue(zombie, 3, false), null, 'it is not silent yet')
  assert.deepEqual(await it.store.rescue(zombie, 3, true), { reopened: 3, buried: 0, gone: true })
  await assert.rejects(
    it.store.flush(zombie, completing(2, zombie, [chunk!])),
    (error: EngineError) => error.code === 'NODE_FENCED',
  )
  await assert.rejects(claimFrom(queueId, zombie), (error: EngineError) => error.code === 'NODE_FENCED')
  const again = await claimFrom(queueId, other)
  assert.deepEqual(
    again.map(({ firstId, count, run, attempt, rescues }) => ({ firstId, count, run, attempt, rescues })),
    [
      { firstId: firstId + 1, count: 3, run: 2, attempt: 1, rescues: 1 },
      { firstId: firstId + 4, count: 2, run: 1, attempt: 1, rescues: 0 },
    ],
  )
  const lost = await it.query<{ outcome: string; run: number }>(
    'select outcome, run from millrace.attempts where job_id = $1',
    [firstId + 1],
  )
  assert.deepEqual(lost, [{ outcome: 'lost', run: 1 }])
})

test('only a job that had begun is charged with further deaths, and the third makes it a dead letter', async () => {
  const queueId = await freshQueue()
  const firstId = await it.put(3, { queueId })
  for (let death = 1; death <= 3; death++) {
    const nodeId = await it.join()
    const chunks = await claimFrom(queueId, nodeId)
    const guilty = chunks.find((chunk) => chunk.firstId <= firstId + 1 && chunk.firstId + chunk.count > firstId + 1)!
    if (death > 1)
      await it.store.markRunning([{ leaseId: guilty.leaseId, jobId: firstId + 1, run: guilty.run, lane: 0 }])
    const done = await it.store.rescue(nodeId, 3, true)
    assert.deepEqual(done, death < 3 ? { reopened: 3, buried: 0, gone: true } : { reopened: 2, buried: 1, gone: true })
  }
  const dead = await it.query<{ job_id: number; code: string }>(
    'select job_id::int, code from millrace.dead where queue_id = $1',
    [queueId],
  )
  assert.deepEqual(dead, [{ job_id: firstId + 1, code: 'POISON' }])
  const left = await claimFrom(queueId, await it.join())
  assert.deepEqual(
    left.map((chunk) => [chunk.firstId, chunk.rescues]),
    [
      [firstId, 1],
      [firstId + 2, 1],
    ],
  )
})

test('a node that lives on reopens what it held without charging a job', async () => {
  const queueId = await freshQueue()
  const firstId = await it.put(2, { queueId })
  for (let fence = 1; fence <= 3; fence++) {
    const nodeId = await it.join()
    const [chunk] = await claimFrom(queueId, nodeId)
    await it.store.markRunning([{ leaseId: chunk!.leaseId, jobId: firstId, run: chunk!.run, lane: 0 }])
    assert.deepEqual(await it.store.rescue(nodeId, 1, true, false), { reopened: 2, buried: 0, gone: true })
  }
  const [again] = await claimFrom(queueId, await it.join())
  const { count, attempt, run, rescues } = again!
  assert.deepEqual({ count, attempt, run, rescues }, { count: 2, attempt: 1, run: 4, rescues: 0 })
  const lost = await it.query('select outcome from millrace.attempts where job_id = $1', [firstId])
  assert.deepEqual(
    lost,
    [1, 2, 3].map(() => ({ outcome: 'lost' })),
  )
})

test('released jobs go back to their place, uncharged, and the lease forgets them', async () => {
  const queueId = await freshQueue()
  const firstId = await it.put(5, { queueId })
  const nodeId = await it.join()
  const [chunk] = await claimFrom(queueId, nodeId)
  const { leaseId, attempt, run, rescues, rank, seq } = chunk!
  await it.store.flush(nodeId, {
    ...completing(1, nodeId, [{ ...chunk!, count: 1 }]),
    leaseIds: [leaseId],
    leaseDone: [3],
    releases: [{ leaseId, firstId: firstId + 1, count: 2, attempt, run, rescues, rank, seq }],
  })
  const states = await it.query<{ state: string }>('select state from millrace.jobs where queue = $1 order by id', [
    `q${queues}`,
  ])
  assert.deepEqual(
    states.map((row) => row.state),
    ['completed', 'queued', 'queued', 'assigned', 'assigned'],
  )
  const [back] = await claimFrom(queueId, await it.join())
  assert.deepEqual([back!.firstId, back!.count, back!.attempt, back!.run, back!.seq], [firstId + 1, 2, 1, 1, seq])
  assert.deepEqual(await it.store.rescue(nodeId, 3, true), { reopened: 2, buried: 0, gone: true })
})

test('a retry waits in scheduled and becomes ready when due', async () => {
  const queueId = await freshQueue()
  const firstId = await it.put(1, { queueId })
  const nodeId = await it.join()
  const [chunk] = await claimFrom(queueId, nodeId)
  const retry = { leaseId: chunk!.leaseId, jobId: firstId, delayMs: 3_600_000, attempt: 2, run: 2, rescues: 0 }
  await it.store.flush(nodeId, {
    ...completing(1, nodeId, []),
    leaseIds: [chunk!.leaseId],
    leaseDone: [1],
    retries: [retry],
  })
  const state = async () =>
    (
      await it.query<{ state: string; attempt: number }>('select state, attempt from millrace.jobs where id = $1', [
        firstId,
      ])
    )[0]
  assert.deepEqual(await state(), { state: 'retrying', attempt: 2 })
  await it.store.promote(100)
  assert.deepEqual(await claimFrom(queueId, nodeId), [])
  await it.query(`update millrace.scheduled set run_at = now() - interval '1 s' where first_id = $1`, [firstId])
  const { moved } = await it.store.promote(100)
  assert.equal(moved, 1)
  const [again] = await claimFrom(queueId, nodeId)
  assert.deepEqual([again!.firstId, again!.attempt, again!.run], [firstId, 2, 2])
})

test('of a group one job is held at a time, by priority and then in order [TM-097] [TM-103]', async () => {
  const queueId = await freshQueue()
  const ids: number[] = []
  for (const priority of [0, 0, 10]) ids.push(await it.put(1, { queueId, group: 'g', priority }))
  const nodeId = await it.join()
  const order: number[] = []
  for (let no = 1; no <= 3; no++) {
    const chunks = await claimFrom(queueId, nodeId)
    assert.equal(chunks.length, 1, 'one of the group, whatever is asked for')
    assert.deepEqual(await claimFrom(queueId, nodeId), [], 'and none while it is held')
    order.push(chunks[0]!.firstId)
    const { leaseId, firstId } = chunks[0]!
    await it.store.flush(
      nodeId,
      completing(no, nodeId, chunks, {
        finished: [{ leaseId, jobId: firstId, queueId, keyed: false, ephemeral: false, group: 'g' }],
      }),
    )
  }
  assert.deepEqual(order, [ids[2], ids[0], ids[1]])
  assert.deepEqual(await it.query('select 1 as x from millrace.hold where queue_id = $1', [queueId]), [])
})

test('groups are independent of each other [TM-098]', async () => {
  const queueId = await freshQueue()
  for (const group of ['a', 'b', 'a', 'b', 'c']) await it.put(1, { queueId, group })
  const chunks = await claimFrom(queueId, await it.join())
  assert.deepEqual(chunks.map((chunk) => chunk.group).sort(), ['a', 'b', 'c'])
})

test('a job that joins a group while the turn is being let go is not forgotten: two sessions', async () => {
  const queueId = await freshQueue()
  const first = await it.put(1, { queueId, group: 'g' })
  const nodeId = await it.join()
  const held = await claimFrom(queueId, nodeId)
  assert.equal(held[0]!.firstId, first)
  // A claim meets the new job's ticket while the group is held and throws the ticket away, but has not committed yet...
  const second = await it.put(1, { queueId, group: 'g' })
  const claiming = new pg.Client({ connectionString: it.db.url })
  await claiming.connect()
  await claiming.query('begin')
  await claiming.query(`select first_id from "${it.db.schema}".claim($1, $2, null, 5, 1000000, null)`, [
    nodeId,
    [queueId],
  ])
  // ...when the holder lets go: it must wait for that claim, or it would not know that the ticket is gone.
  const finished = [{ leaseId: held[0]!.leaseId, jobId: first, queueId, keyed: false, ephemeral: false, group: 'g' }]
  const letting = it.store.flush(nodeId, completing(1, nodeId, held, { finished }))
  const waits = async () => {
    const rows = await it.query(`select 1 as x from pg_locks where locktype = 'advisory' and not granted`)
    return rows.length > 0
  }
  for (let tries = 0; !(await waits()); tries++) assert.ok(tries < 5_000, 'the holder waits for the claim')
  await claiming.query('commit')
  await claiming.end()
  await letting
  const next = await claimFrom(queueId, nodeId)
  assert.deepEqual(
    next.map((chunk) => chunk.firstId),
    [second],
  )
})

test('a retrying job keeps its group to itself [TM-101]', async () => {
  const queueId = await freshQueue()
  const first = await it.put(1, { queueId, group: 'g' })
  await it.put(1, { queueId, group: 'g' })
  const nodeId = await it.join()
  const [chunk] = await claimFrom(queueId, nodeId)
  const retry = { leaseId: chunk!.leaseId, jobId: first, delayMs: 0, attempt: 2, run: 2, rescues: 0 }
  await it.store.flush(nodeId, {
    ...completing(1, nodeId, []),
    leaseIds: [chunk!.leaseId],
    leaseDone: [1],
    retries: [retry],
  })
  assert.deepEqual(await claimFrom(queueId, nodeId), [])
  await it.store.promote(10)
  const again = await claimFrom(queueId, nodeId)
  assert.deepEqual(
    again.map((it) => [it.firstId, it.attempt]),
    [[first, 2]],
  )
})

test('a key is taken by one unfinished job per queue, and free again afterwards [TM-012] [TM-013] [TM-014]', async () => {
  const [queueId, otherQueue] = [await freshQueue(), await freshQueue()]
  const holder = await it.put(1, { queueId, key: 'k' })
  const tryPut = async (queue: number) => {
    const [firstId] = await it.store.reserveBlocks(1)
    return it.store.enqueue(
      [{ ...PLAIN, queueId: queue, taskId: it.taskId, firstId: firstId!, count: 1, key: 'k', payloads: ['1'] }],
      false,
    )
  }
  assert.deepEqual(
    (await tryPut(queueId)).map((it) => it.heldBy),
    [holder],
  )
  assert.deepEqual(await tryPut(otherQueue), [])
  const nodeId = await it.join()
  const chunks = await claimFrom(queueId, nodeId)
  const finished = chunks.map(({ leaseId, firstId }) => ({
    leaseId,
    jobId: firstId,
    queueId,
    keyed: true,
    ephemeral: false,
    group: null,
  }))
  await it.store.flush(nodeId, completing(1, nodeId, chunks, { finished }))
  assert.deepEqual(await tryPut(queueId), [])
})

test('of ten sessions that take the same key at once, one succeeds [TM-090]', async () => {
  const queueId = await freshQueue()
  const sessions = Array.from({ length: 10 }, () => it.other())
  const firsts = await it.store.reserveBlocks(10)
  const answers = await Promise.all(
    sessions.map((store, at) =>
      store.enqueue(
        [{ ...PLAIN, queueId, taskId: it.taskId, firstId: firsts[at]!, count: 1, key: 'race', payloads: ['1'] }],
        true,
      ),
    ),
  )
  assert.equal(answers.filter((duplicates) => duplicates.length === 0).length, 1)
  const [row] = await it.query<{ n: string }>('select count(*) as n from millrace.job where queue_id = $1', [queueId])
  assert.equal(Number(row!.n), 1)
  for (const duplicates of answers) for (const { heldBy } of duplicates) assert.ok(heldBy > 0)
})

test('a batch with one taken key writes nothing, and does not spoil the transaction around it [TM-017]', async () => {
  const queueId = await freshQueue()
  const holder = await it.put(1, { queueId, key: 'k' })
  const client = new pg.Client({ connectionString: it.db.url })
  await client.connect()
  await client.query('begin')
  const [firstId] = await it.store.reserveBlocks(1)
  const base = { ...PLAIN, queueId, taskId: it.taskId, count: 1, payloads: ['1'] }
  const duplicates = await it.store.enqueue(
    [
      { ...base, firstId: firstId!, key: 'new' },
      { ...base, firstId: firstId! + 1, key: 'k' },
    ],
    true,
    client,
  )
  assert.deepEqual(duplicates, [{ firstId: firstId! + 1, heldBy: holder }])
  await client.query('select 1')
  await client.query('commit')
  await client.end()
  const jobs = await it.query<{ id: number }>('select id::int from millrace.job where queue_id = $1', [queueId])
  assert.deepEqual(
    jobs.map((row) => row.id),
    [holder],
  )
  const keys = await it.query<{ key: string }>('select key from millrace.key where queue_id = $1', [queueId])
  assert.deepEqual(
    keys.map((row) => row.key),
    ['k'],
  )
})

test('COPY and the statement write the same facts', async () => {
  const queueId = await freshQueue()
  const firsts = await it.store.reserveBlocks(2)
  const chunk = {
    ...PLAIN,
    queueId,
    taskId: it.taskId,
    count: 2,
    payloads: ['{"a":"ü\\u0001"}', '[1e400, 12345678901234567890]'],
    priority: 7,
    maxAttempts: 9,
    timeoutMs: 5,
    retry: '{"kind":"none"}',
    meta: '{"traceparent":"x"}',
    expiresAtMs: 4_102_444_800_000,
    runAtMs: 4_102_444_700_000,
    ephemeral: true,
  }
  await it.store.enqueue([{ ...chunk, firstId: firsts[0]! }], true)
  await it.store.copyChunks([{ ...chunk, firstId: firsts[1]! }])
  const columns =
    'queue_id, task_id, priority, max_attempts, timeout_ms, payload_bytes, payload::text, retry::text, meta::text, expires_at, run_at, ephemeral, group_key, key'
  const rows = await it.query(`select ${columns} from millrace.job where queue_id = $1 order by id`, [queueId])
  assert.equal(rows.length, 4)
  assert.deepEqual(rows.slice(0, 2), rows.slice(2))
  const places = await it.query('select count, bytes, rank, run_at from millrace.scheduled where queue_id = $1', [
    queueId,
  ])
  assert.deepEqual(places[0], places[1])
})

test('SQL enqueues in its own transaction with ids dealt densely, and refuses what breaks a limit', async () => {
  const client = new pg.Client({ connectionString: it.db.url })
  await client.connect()
  const enqueue = async (args: string) =>
    Number((await client.query(`select "${it.db.schema}".enqueue(${args}) as id`)).rows[0].id)
  const first = await enqueue(`'from-sql', '{"a":1}'`)
  assert.equal(await enqueue(`'from-sql', '{"a":2}'`), first + 1)
  await client.query('begin')
  assert.equal(await enqueue(`'from-sql'`), first + 2)
  await client.query('rollback')
  const rows = await it.query<{ n: string }>('select count(*) as n from millrace.job where id between $1 and $2', [
    first,
    first + 10,
  ])
  assert.equal(Number(rows[0]!.n), 2)
  const kept = await enqueue(`'from-sql', '1', idempotency_key => 'sql'`)
  assert.equal(await enqueue(`'from-sql', '2', idempotency_key => 'sql'`), kept, 'the holder of the key')
  for (const bad of [
    `''`,
    `'t', '1', priority => 101`,
    `'t', '1', max_attempts => 0`,
    `'t', '1', idempotency_key => ''`,
    `'t', '{"a":"\\u0000"}'`,
  ]) {
    await assert.rejects(
      client.query(`select "${it.db.schema}".enqueue(${bad})`),
      (error: { code: string }) => error.code === 'MR400',
    )
  }
  await client.end()
})

test('new partitions are made ahead of the ids', async () => {
  const bundle = await openStore()
  await bundle.query(`select setval('millrace.id_block', 29995)`)
  const [firstId] = await bundle.store.reserveBlocks(1)
  await bundle.put(1, { firstId: firstId! })
  const rows = await bundle.query<{ name: string }>(
    'select tableoid::regclass::text as name from millrace.job where id = $1',
    [firstId!],
  )
  assert.match(rows[0]!.name, /job_2"?$/)
  const spans = await bundle.query<{ name: string }>(
    `select relname as name from pg_class where relnamespace = $1::regnamespace and relname ~ '^job_[0-9]+$' order by 1`,
    [bundle.db.schema],
  )
  assert.ok(
    spans.some((span) => span.name === 'job_4'),
    'two spans ahead',
  )
  await bundle.close()
})

test('a job in the middle of a chunk is cancelled alone', async () => {
  const queueId = await freshQueue()
  const firstId = await it.put(5, { queueId })
  const cancel = async (id: number) =>
    (await it.query<{ outcome: string }>(`select millrace.cancel($1, 'test') as outcome`, [id]))[0]!.outcome
  assert.equal(await cancel(firstId + 2), 'cancelled')
  assert.equal(await cancel(firstId + 2), 'finished')
  assert.equal(await cancel(999_999_999), 'unknown')
  const chunks = await claimFrom(queueId, await it.join())
  assert.deepEqual(
    chunks.map((chunk) => [chunk.firstId, chunk.count]),
    [
      [firstId, 2],
      [firstId + 3, 2],
    ],
  )
  assert.equal(await cancel(firstId), 'held')
  const [row] = await it.query<{ state: string }>('select state from millrace.jobs where id = $1', [firstId + 2])
  assert.equal(row!.state, 'cancelled')
})

test('a lost connection is a retryable error, and the next call has a new one', async () => {
  const bundle = await openStore()
  const [me] = await bundle.store.ask<{ pid: number }>('select pg_backend_pid() as pid')
  await bundle.db.query('select pg_terminate_backend($1)', [me!.pid])
  for (let tries = 0; ; tries++) {
    try {
      const [now] = await bundle.store.ask<{ pid: number }>('select pg_backend_pid() as pid')
      assert.notEqual(now!.pid, me!.pid)
      break
    } catch (error) {
      assert.ok(error instanceof EngineError && error.code === 'STORE_UNREACHABLE' && error.retry)
      assert.ok(tries < 3)
    }
  }
  await bundle.close()
})

test('a call that takes too long ends with STORE_TIMEOUT and does not hold the next one up', async () => {
  const store = new Store({
    url: it.db.url,
    schema: it.db.schema,
    clock: systemClock,
    timeoutMs: 300,
    prepared: true,
    name: 'test',
  })
  await assert.rejects(store.ask('select pg_sleep(60)'), (error: EngineError) => error.code === 'STORE_TIMEOUT')
  assert.deepEqual(await store.ask('select 1 as one'), [{ one: 1 }])
  await store.close()
})
