// Spans of ids: made ahead, found by their id, dropped when they are old; what has not ended outlives its span.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import pg from 'pg'
import { systemClock } from '../engine/base/clock.ts'
import { silentLog } from '../engine/base/log.ts'
import { Retention } from '../engine/retention.ts'
import { RetentionStore } from '../engine/store/retention-store.ts'
import { completing, openStore, PLAIN, type StoreBundle } from './support/store.ts'

const SPAN = 10_000_000
const DAY = 86_400_000

async function withStore(run: (it: StoreBundle) => Promise<void>): Promise<void> {
  const it = await openStore()
  try {
    await run(it)
  } finally {
    await it.close()
  }
}

/** New ids come from span `no` on. */
async function wander(it: StoreBundle, no: number): Promise<void> {
  await it.query(`select setval('millrace.id_block', $1)`, [(no * SPAN) / 1_000])
  await it.query('select millrace.make_spans($1)', [no * SPAN + 1])
}

async function age(it: StoreBundle, days: number): Promise<void> {
  await it.query(`update millrace.job set created_at = created_at - $1 * interval '1 day'`, [days])
  await it.query(`update millrace.attempt set finished_at = finished_at - $1 * interval '1 day'`, [days])
}

async function complete(it: StoreBundle, node: number, no: number): Promise<number[]> {
  const chunks = await it.claim(node)
  await it.store.flush(node, completing(no, node, chunks))
  const ids = chunks.flatMap((chunk) => Array.from({ length: chunk.count }, (_, at) => chunk.firstId + at))
  await it.query('update millrace.attempt set finished_at = now() where job_id = any ($1)', [ids])
  return chunks.map((chunk) => chunk.firstId)
}

async function spans(it: StoreBundle, table = 'job'): Promise<string[]> {
  const rows = await it.query<{ name: string }>(
    `select c.relname as name from pg_inherits i join pg_class c on c.oid = i.inhrelid where i.inhparent = $1::regclass order by 1`,
    [`"${it.db.schema}".${table}`],
  )
  return rows.map((row) => row.name)
}

async function withRetention<T>(it: StoreBundle, run: (store: RetentionStore) => Promise<T>): Promise<T> {
  const store = new RetentionStore(it.store)
  try {
    return await run(store)
  } finally {
    await store.close()
  }
}

test('[PC-061] spans are made ahead of the ids, and a row is found in the span of its id, or in the attic', async () => {
  await withStore(async (it) => {
    assert.deepEqual(await spans(it), ['job_0', 'job_1', 'job_2', 'job_attic'])
    await it.query('select millrace.make_spans($1)', [SPAN + 1])
    assert.deepEqual(await spans(it), ['job_0', 'job_1', 'job_2', 'job_3', 'job_attic'])
    assert.deepEqual(await spans(it, 'attempt'), [0, 1, 2, 3].map((no) => `attempt_${no}`).concat('attempt_attic'))
    for (const firstId of [1, SPAN - 1, SPAN, 3 * SPAN, 90 * SPAN])
      await it.store.enqueue(
        [{ ...PLAIN, queueId: it.queueId, taskId: it.taskId, firstId, count: 1, payloads: ['1'] }],
        true,
      )
    const rows = await it.query<{ span: string }>(
      `select split_part(tableoid::regclass::text, '.', 2) as span from millrace.job order by id`,
    )
    assert.deepEqual(
      rows.map((row) => row.span),
      ['job_0', 'job_0', 'job_1', 'job_3', 'job_attic'],
    )
  })
})

test('[PC-061] an old span goes with all that ended; what waits, is held or is dead goes on from the attic, with its attempts', async () => {
  await withStore(async (it) => {
    const node = await it.join()
    const done = await it.put(1_000)
    await complete(it, node, 1)
    const held = await it.put(3)
    const claimed = await it.claim(node)
    const dead = await it.put(1)
    await it.query(`delete from millrace.ready where first_id = $1`, [dead])
    await it.query(
      `insert into millrace.attempt (job_id, run, attempt, outcome, node_id, lane, finished_at) values ($1, 1, 1, 'f', 0, 0, now())`,
      [dead],
    )
    await it.query(
      `insert into millrace.dead (job_id, queue_id, task_id, attempts, run, code, reason) values ($1, $2, $3, 1, 1, 'X', '{}')`,
      [dead, it.queueId, it.taskId],
    )
    const waiting = await it.put(5)
    const delayed = await it.put(2, { runAtMs: systemClock.wallMs() + DAY })
    const blocked = await it.put(1, { group: 'g' })
    await withRetention(it, async (store) => {
      await age(it, 30)
      assert.equal(await store.retireSpan(DAY, 100), null, 'ids still come from it')
      await wander(it, 2)
      const late = await it.put(1)
      assert.equal(await store.retireSpan(60 * DAY, 100), null, 'it is not old enough')
      assert.equal((await store.retireSpan(DAY, 5))!.outcome, 'held back', 'too much has not ended')
      assert.deepEqual(await store.retireSpan(DAY, 100), { span: 0, outcome: 'dropped', moved: 3 + 1 + 5 + 2 + 1 })
      assert.deepEqual((await spans(it))[0], 'job_1')
      assert.deepEqual((await spans(it, 'attempt'))[0], 'attempt_1')
      const left = await it.query<{ id: number | string }>('select id from millrace.job order by id')
      assert.deepEqual(
        left.map(({ id }) => Number(id)),
        [
          ...[0, 1, 2].map((at) => held + at),
          dead,
          ...[0, 1, 2, 3, 4].map((at) => waiting + at),
          delayed,
          delayed + 1,
          blocked,
          late,
        ],
      )
      assert.deepEqual(await it.query('select job_id::int, outcome from millrace.attempt'), [
        { job_id: dead, outcome: 'f' },
      ])
      assert.equal((await it.query('select from millrace.jobs where id = $1', [done])).length, 0)
      assert.deepEqual((await store.retireSpan(DAY, 100))?.moved, 0, 'the empty span between goes, too')
      assert.equal(await store.retireSpan(DAY, 100), null, 'the newest stays')
    })

    // life goes on: the held ones complete, the waiting ones are claimed, the dead one comes back
    await it.store.flush(node, completing(2, node, claimed))
    const ids = await complete(it, node, 3)
    assert.ok(ids.includes(waiting) && ids.includes(blocked))
    await it.query('select millrace.requeue($1)', [[dead]])
    assert.deepEqual(
      (await it.claim(node)).map((chunk) => [chunk.firstId, chunk.run]),
      [[dead, 2]],
    )

    // what ended meanwhile is kept for its own time, then swept; the job that is held is not
    await withRetention(it, async (store) => {
      await it.query('update millrace.attempt set finished_at = now()')
      assert.equal(await store.sweepAttic(DAY, 100), 0)
      await it.query(`update millrace.attempt set finished_at = now() - interval '2 days'`)
      assert.equal(await store.sweepAttic(DAY, 4), 4)
      assert.equal(await store.sweepAttic(DAY, 100), 3 + 5 + 1 - 4)
      const left = await it.query<{ id: number | string }>('select id from millrace.job_attic order by id')
      assert.deepEqual(
        left.map(({ id }) => Number(id)),
        [dead, delayed, delayed + 1],
      )
    })
  })
})

test('[PC-061] a job that ended late keeps its result when its span goes', async () => {
  await withStore(async (it) => {
    const node = await it.join()
    await it.put(10)
    await complete(it, node, 1)
    await age(it, 30)
    const late = await it.put(1)
    await it.query(`update millrace.job set created_at = now() - interval '30 days'`)
    await complete(it, node, 2)
    await wander(it, 1)
    await withRetention(it, async (store) => {
      assert.deepEqual(await store.retireSpan(DAY, 100), { span: 0, outcome: 'dropped', moved: 1 })
    })
    const rows = await it.query<{ id: number | string; state: string }>('select id, state from millrace.jobs')
    assert.deepEqual(
      rows.map(({ id, state }) => [Number(id), state]),
      [[late, 'completed']],
    )
  })
})

test('a span does not go while somebody is in the midst of writing; it makes nobody wait, and goes later', async () => {
  await withStore(async (it) => {
    await it.put(1)
    await it.query('delete from millrace.ready')
    await age(it, 30)
    await wander(it, 1)
    const other = new pg.Client({ connectionString: it.db.url })
    await other.connect()
    try {
      await withRetention(it, async (store) => {
        await other.query('begin')
        await other.query(`select "${it.db.schema}".enqueue('t')`)
        assert.deepEqual(await store.retireSpan(DAY, 100), { span: 0, outcome: 'busy', moved: 0 })
        assert.equal((await spans(it))[0], 'job_0', 'neither table is detached')
        assert.equal((await spans(it, 'attempt'))[0], 'attempt_0')
        await other.query('commit')
        assert.equal((await store.retireSpan(DAY, 100))!.outcome, 'dropped')
      })
    } finally {
      await other.end()
    }
  })
})

test('a pass drops every old span, counts the rows of the parents anew, and ends at once when told to', async () => {
  await withStore(async (it) => {
    await it.put(1)
    await it.query('delete from millrace.ready')
    await age(it, 30)
    await wander(it, 3)
    const open = () => new RetentionStore(it.store)
    const needs = { clock: systemClock, log: silentLog, open }
    const keeper = new Retention(needs, { retentionMs: DAY })
    await keeper.pass()
    assert.deepEqual(keeper.counts, { passes: 1, spans: 3, moved: 0, swept: 0, errors: 0 })
    assert.deepEqual(await spans(it), ['job_3', 'job_4', 'job_5', 'job_attic'])
    const analyzed = () =>
      it.query<{ relname: string }>(
        `select relname from pg_stat_user_tables where schemaname = $1 and relname in ('job', 'attempt') and last_analyze is not null order by 1`,
        [it.db.schema],
      )
    assert.deepEqual(
      (await analyzed()).map((row) => row.relname),
      ['attempt', 'job'],
    )

    const forEver = new Retention(needs, { retentionMs: 0 })
    await it.put(1)
    await it.query('delete from millrace.ready')
    await age(it, 30)
    await wander(it, 4)
    await forEver.pass()
    assert.equal(forEver.counts.spans, 0, 'nothing goes unless it is asked for')
    forEver.start()
    await forEver.stop()
    await keeper.stop()
  })
})
