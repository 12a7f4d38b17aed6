// The syncer on a real PostgreSQL: what arrives in the tables, lost connections, refused outcomes, a stop without a
// server, and the next life.

import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import pg from 'pg'
import { systemClock } from '../engine/base/clock.ts'
import { EngineError } from '../engine/base/errors.ts'
import { Deadline } from '../engine/base/lifecycle.ts'
import { silentLog } from '../engine/base/log.ts'
import { Store } from '../engine/store/store.ts'
import type { ClaimedChunk, Flush, FlushResult, NewChunk } from '../engine/store/types.ts'
import { Outbox } from '../engine/syncer/outbox.ts'
import { Syncer } from '../engine/syncer/syncer.ts'
import { openTestDatabase, type TestDatabase } from './support/database.ts'

let database: TestDatabase
let store: Store
let temp: string

before(async () => {
  temp = mkdtempSync(join(tmpdir(), 'millrace-syncer-'))
  database = await openTestDatabase()
  const { url, schema } = database
  store = new Store({ url, schema, clock: systemClock, timeoutMs: 30_000, prepared: true, name: 'syncer test' })
  await store.migrate()
})

after(async () => {
  await store.close()
  await database.close()
  rmSync(temp, { recursive: true, force: true })
})

let nodes = 0

/** A node of its own with a queue of its own. */
async function bundle() {
  const uid = `00000000-0000-4000-8000-${String(++nodes).padStart(12, '0')}`
  const facts = { uid, host: 'here', machine: 'm', pid: 1, version: '0', threads: 1, limitMs: 60_000 }
  const nodeId = await store.join(facts)
  const [queueId] = await store.queueIds([`queue-${nodes}`])
  const [taskId] = await store.taskIds(['task'])
  const flush = { real: (flush: Flush) => store.flush(nodeId, flush), calls: 0 }
  const said = { stale: [] as number[] }
  const outbox = new Outbox(
    { folder: join(temp, `outbox-${nodes}`) },
    () => ({ schema: database.schema, storeId: 'store', nodeUid: uid }),
    systemClock,
    silentLog,
  )
  const syncer = new Syncer(
    {
      flush(given): Promise<FlushResult> {
        flush.calls++
        return flush.real(given)
      },
      writeStats: async () => {},
      nodeId: () => nodeId,
      onStale: (leaseIds) => void said.stale.push(...leaseIds),
    },
    outbox,
    {},
    systemClock,
    silentLog,
  )
  await syncer.start()

  /** Enqueues a chunk and claims it. */
  async function claimed(count: number, different: Partial<NewChunk> = {}): Promise<ClaimedChunk> {
    const [firstId] = await store.reserveBlocks(1)
    const chunk: NewChunk = {
      firstId: firstId!,
      count,
      queueId: queueId!,
      taskId: taskId!,
      priority: 0,
      runAtMs: null,
      expiresAtMs: null,
      maxAttempts: 3,
      timeoutMs: null,
      retry: null,
      groupLimit: null,
      retrySkips: false,
      group: null,
      key: null,
      ephemeral: false,
      meta: null,
      payloads: Array.from({ length: count }, () => '{}'),
      ...different,
    }
    assert.deepEqual(await store.enqueue([chunk], true), [])
    const request = { nodeId, queueIds: [queueId!], taskIds: null, jobsMax: 1_000, bytesMax: 1e8, group: null }
    const chunks = await store.claim(request)
    assert.equal(chunks.length, 1)
    return chunks[0]!
  }
  return { nodeId, queueId: queueId!, syncer, outbox, flush, said, claimed }
}

const sql = <Row extends Record<string, unknown>>(text: string, params: unknown[] = []) =>
  database.query<Row>(text.replace(/\bmillrace\./g, `"${database.schema}".`), params)

const attempts = (chunk: ClaimedChunk) =>
  sql<Record<string, unknown>>(
    `select (job_id - $1)::int as job, run, attempt, outcome::text, node_id, lane, started_at, finished_at, error, result
     from millrace.attempt where job_id >= $1 and job_id < $2 order by job_id, run`,
    [chunk.firstId, chunk.firstId + chunk.count],
  )

const openLeases = (nodeId: number) => sql('select id, open from millrace.lease where node_id = $1', [nodeId])

test('every kind of outcome arrives as it was told, and the lease ends with the last one', async () => {
  const { nodeId, syncer, claimed } = await bundle()
  const { outcomes } = syncer
  const chunk = await claimed(9)
  const id = (index: number) => chunk.firstId + index
  const startedAtMs = Date.UTC(2026, 1, 3, 4, 5, 6, 789)
  const finishedAtMs = startedAtMs + 1_234
  const result = Buffer.from('{"text":"ä – 日本","n":[1,2]}')
  const error = Buffer.from('{"code":"TASK_THREW","message":"oh"}')
  outcomes.running(chunk, id(7), 2, startedAtMs, Buffer.from('{"at":40}'))
  outcomes.running(chunk, id(8), 2, startedAtMs, null)
  await syncer.flush()
  assert.deepEqual(
    await sql('select (job_id - $1)::int as job, run, lane, progress from millrace.running order by job_id', [
      chunk.firstId,
    ]),
    [
      { job: 7, run: 1, lane: 2, progress: { at: 40 } },
      { job: 8, run: 1, lane: 2, progress: null },
    ],
  )
  outcomes.completed(chunk, id(0), 3, startedAtMs, finishedAtMs, result, 0, result.length)
  outcomes.completed(chunk, id(1), 3, startedAtMs, finishedAtMs, result, 0, 0)
  outcomes.failed(chunk, id(2), 'f', 'TASK_THREW', 3, startedAtMs, finishedAtMs, error, 0, error.length, 60_000)
  outcomes.failed(chunk, id(3), 't', 'TASK_TIMED_OUT', 3, startedAtMs, finishedAtMs, error, 0, error.length, -1)
  outcomes.cancelled(chunk, id(4), -1, 0, finishedAtMs, 'by the user')
  outcomes.expired(chunk, id(5), finishedAtMs)
  outcomes.release(chunk, id(6), 1, false, -1, 0, finishedAtMs)
  outcomes.release(chunk, id(7), 2, true, 2, startedAtMs, finishedAtMs)
  await syncer.flush()

  const row = (job: number, outcome: string, different: object) => ({
    job,
    run: 1,
    attempt: 1,
    outcome,
    node_id: nodeId,
    lane: 3,
    started_at: new Date(startedAtMs),
    finished_at: new Date(finishedAtMs),
    error: null,
    result: null,
    ...different,
  })
  const cancelled = { code: 'TASK_CANCELLED', type: 'EngineError', message: 'by the user' }
  const expired = { code: 'TASK_EXPIRED', type: 'EngineError', message: 'expiresAt passed before the job could run' }
  assert.deepEqual(await attempts(chunk), [
    row(0, 'c', { result: JSON.parse(result.toString()) }),
    row(1, 'c', {}),
    row(2, 'f', { error: JSON.parse(error.toString()) }),
    row(3, 't', { error: JSON.parse(error.toString()) }),
    row(4, 'x', { lane: -1, started_at: null, error: cancelled }),
    row(5, 'e', { lane: -1, started_at: null, error: expired }),
    row(7, 'r', { lane: 2 }),
    row(8, 'r', { lane: 2 }),
  ])
  assert.deepEqual(
    await sql('select (job_id - $1)::int as job, code, attempts, run from millrace.dead order by job_id', [
      chunk.firstId,
    ]),
    [
      { job: 3, code: 'TASK_TIMED_OUT', attempts: 1, run: 1 },
      { job: 5, code: 'TASK_EXPIRED', attempts: 0, run: 1 },
    ],
  )
  assert.deepEqual(
    await sql('select (first_id - $1)::int as job, attempt, run from millrace.scheduled order by first_id', [
      chunk.firstId,
    ]),
    [{ job: 2, attempt: 2, run: 2 }],
  )
  assert.deepEqual(
    await sql('select (first_id - $1)::int as job, count, attempt, run from millrace.ready order by first_id', [
      chunk.firstId,
    ]),
    [
      { job: 6, count: 1, attempt: 1, run: 1 },
      { job: 7, count: 2, attempt: 1, run: 2 },
    ],
  )
  assert.deepEqual(await openLeases(nodeId), [])
  assert.deepEqual(await sql('select * from millrace.running'), [])
})

test('an ephemeral job leaves nothing behind', async () => {
  const { nodeId, syncer, claimed } = await bundle()
  const chunk = await claimed(3, { ephemeral: true })
  for (let index = 0; index < 3; index++)
    syncer.outcomes.completed(chunk, chunk.firstId + index, 0, 1, 2, Buffer.alloc(0), 0, 0)
  await syncer.flush()
  assert.deepEqual(await attempts(chunk), [])
  assert.deepEqual(await sql('select id from millrace.job where id = $1', [chunk.firstId]), [])
  assert.deepEqual(await openLeases(nodeId), [])
})

test('outcomes of a lease that was taken away are refused and told; the others of that flush are written', async () => {
  const { syncer, said, claimed } = await bundle()
  const lost = await claimed(2)
  const mine = await claimed(2)
  await sql('delete from millrace.lease where id = $1', [lost.leaseId])
  for (const chunk of [lost, mine])
    for (let index = 0; index < 2; index++)
      syncer.outcomes.completed(chunk, chunk.firstId + index, 0, 1, 2, Buffer.from('1'), 0, 1)
  await syncer.flush()
  assert.deepEqual(said.stale, [lost.leaseId])
  assert.equal((await attempts(lost)).length, 0)
  assert.equal((await attempts(mine)).length, 2)
})

test('a connection that is cut in the middle of a flush, then an answer that is lost after the commit: written once', async () => {
  const { syncer, flush, claimed } = await bundle()
  const chunk = await claimed(40)
  const real = flush.real
  const blocker = new pg.Client({ connectionString: database.url })
  await blocker.connect()
  await blocker.query('begin')
  await blocker.query(`select from "${database.schema}".lease where id = ${chunk.leaseId} for update`)
  const answers: string[] = []
  flush.real = async (given) => {
    try {
      const answer = await real(given)
      answers.push(answer.alreadyDone ? 'already done' : 'done')
      if (answers.length === 2) throw new EngineError('STORE_UNREACHABLE', 'the answer was lost')
      return answer
    } catch (error) {
      if (answers.length < 2) answers.push((error as EngineError).code)
      throw error
    }
  }
  for (let index = 0; index < 40; index++)
    syncer.outcomes.completed(chunk, chunk.firstId + index, 0, 1, 2, Buffer.from('1'), 0, 1)
  const flushed = syncer.flush()
  const mine = `application_name = 'syncer test flush' and wait_event_type = 'Lock'`
  let cut = 0
  while (cut === 0)
    cut = (await database.query(`select pg_terminate_backend(pid) from pg_stat_activity where ${mine}`)).length
  await blocker.query('rollback')
  await blocker.end()
  await flushed
  assert.deepEqual(answers, ['STORE_UNREACHABLE', 'done', 'already done'])
  assert.equal(syncer.stats().alreadyDone, 1)
  assert.equal((await attempts(chunk)).length, 40)
})

test('a result that PostgreSQL refuses costs only its own job, which becomes a dead letter with evidence', async () => {
  const { nodeId, syncer, outbox, claimed } = await bundle()
  const chunk = await claimed(100)
  const bad = Buffer.from('{"not json')
  const good = Buffer.from('"fine"')
  for (let index = 0; index < 100; index++) {
    const bytes = index === 37 ? bad : good
    syncer.outcomes.completed(chunk, chunk.firstId + index, 0, 1, 2, bytes, 0, bytes.length)
  }
  await syncer.flush()
  const rows = await attempts(chunk)
  assert.equal(rows.filter((row) => row.outcome === 'c').length, 99)
  assert.equal(rows[37]!.outcome, 'f')
  assert.equal((rows[37]!.error as { details: { sqlState: string } }).details.sqlState, '22P02')
  const dead = await sql('select code from millrace.dead where job_id = $1', [chunk.firstId + 37])
  assert.deepEqual(dead, [{ code: 'STORE_FAILED' }])
  assert.deepEqual(await openLeases(nodeId), [])
  assert.ok((await outbox.deads(9))[0]!.flush.rows.includes(bad))
})

test('an error text that is no JSON, or a progress that is none, harms nobody else', async () => {
  const { nodeId, syncer, claimed } = await bundle()
  const chunk = await claimed(3)
  const bad = Buffer.from('{"not json')
  syncer.outcomes.running(chunk, chunk.firstId + 2, 0, 1, bad)
  syncer.outcomes.failed(chunk, chunk.firstId, 'f', 'TASK_THREW', 0, 1, 2, bad, 0, bad.length, -1)
  syncer.outcomes.completed(chunk, chunk.firstId + 1, 0, 1, 2, bad, 0, 0)
  await syncer.flush()
  assert.deepEqual(
    (await attempts(chunk)).map((row) => [row.job, row.outcome]),
    [
      [0, 'f'],
      [1, 'c'],
    ],
  )
  assert.equal((await sql('select 1 from millrace.dead where job_id = $1', [chunk.firstId])).length, 1)
  assert.deepEqual(
    (await openLeases(nodeId)).map((lease) => lease.open),
    [1],
  )
})

test('what a stop leaves in the outbox is written in the next life, exactly once', async () => {
  const { nodeId, syncer, outbox, flush, claimed } = await bundle()
  const chunk = await claimed(50)
  const real = flush.real
  flush.real = async (given) => {
    if (flush.calls === 1) await real(given) // committed, and nobody hears of it
    throw new EngineError('STORE_UNREACHABLE', 'gone')
  }
  const complete = (from: number, to: number) => {
    for (let index = from; index < to; index++)
      syncer.outcomes.completed(chunk, chunk.firstId + index, 0, 1, 2, Buffer.from('1'), 0, 1)
  }
  complete(0, 20)
  syncer.requestFlush()
  await new Promise((resolve) => setImmediate(resolve))
  complete(20, 50)
  assert.deepEqual(await syncer.finish(new Deadline(systemClock, 500)), { written: 0, outboxed: 50 })
  const report = await outbox.replay((record) => store.flush(record.nodeId, record.flush))
  assert.deepEqual([report.sent, report.left, report.error], [2, 0, null])
  assert.equal((await attempts(chunk)).length, 50)
  assert.deepEqual(await openLeases(nodeId), [])
})

test('what the outbox holds for a node that was taken over is dropped, and its jobs run again', async () => {
  const { nodeId, syncer, outbox, flush, claimed } = await bundle()
  const chunk = await claimed(5)
  flush.real = () => Promise.reject(new EngineError('STORE_UNREACHABLE', 'gone'))
  for (let index = 0; index < 5; index++)
    syncer.outcomes.completed(chunk, chunk.firstId + index, 0, 1, 2, Buffer.from('1'), 0, 1)
  assert.deepEqual(await syncer.finish(new Deadline(systemClock, 200)), { written: 0, outboxed: 5 })
  await sql('select millrace.rescue($1, 3, true)', [nodeId])
  const report = await outbox.replay((record) => store.flush(record.nodeId, record.flush))
  assert.deepEqual([report.sent, report.stale, report.left], [0, 1, 0])
  const rows = await attempts(chunk)
  assert.ok(rows.every((row) => row.outcome === 'l'))
  const again = await sql<{ jobs: number }>(
    'select sum(count)::int as jobs from millrace.ready where first_id between $1 and $2',
    [chunk.firstId, chunk.firstId + 4],
  )
  assert.deepEqual(again, [{ jobs: 5 }])
})
