// What an administrator sees and does through the console: queues as a whole, results, dead letters, against a real
// PostgreSQL. Races are two real sessions.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import pg from 'pg'
import type { DeadRow } from '../engine/index.ts'
import { codeFrom, type EngineBundle, TASKS, withEngines } from './support/engine.ts'
import { openStore } from './support/store.ts'

const MISBEHAVED = new URL('./tasks/misbehaved.js', import.meta.url)
const ZEROS = {
  paused: false,
  available: 0,
  inFlight: 0,
  scheduled: 0,
  retrying: 0,
  blocked: 0,
  dead: 0,
  oldestWaitingMs: null,
}
const HOUR = 3_600_000

/** Dead letters of a queue: 'careful' tasks that were allowed one attempt. */
async function letters(bundle: EngineBundle, queue: string, count: number): Promise<number[]> {
  const ids: number[] = []
  for (let at = 0; at < count; at++)
    ids.push((await bundle.client.enqueue('careful', at, { queue, maxAttempts: 1 })).id)
  for (const id of ids) await bundle.inState(id, 'failed')
  return ids
}

async function outcomesOf({ query }: EngineBundle, id: number): Promise<string[]> {
  const rows = await query<{ outcome: string }>(
    'select outcome from millrace.attempts where job_id = $1 order by run',
    [id],
  )
  return rows.map((row) => row.outcome)
}

test('[TM-057] [TM-058] [TM-059] queues are listed by name, also when their jobs are gone; one that nobody named is all zeros', async () => {
  await withEngines(async (bundle) => {
    const { console } = bundle.client
    assert.deepEqual(await console.queue.names(), [])
    assert.deepEqual(await console.queue.stats('queue'), { queue: 'queue', ...ZEROS })
    assert.deepEqual(await console.queue.names(), [], 'looking names nothing')

    await bundle.client.enqueue('nobody', 1, { queue: 'queue-b' })
    const { id } = await bundle.client.enqueue('echo', 1, { queue: 'queue-a' })
    await bundle.client.enqueue('nobody', 1, { queue: 'Queue-c' })
    assert.deepEqual(await console.queue.names(), ['Queue-c', 'queue-a', 'queue-b'])
    await bundle.engine()
    await bundle.inState(id, 'completed')
    assert.deepEqual(await console.queue.stats('queue-a'), { queue: 'queue-a', ...ZEROS })
    assert.deepEqual(await console.queue.names(), ['Queue-c', 'queue-a', 'queue-b'])
    assert.equal(await codeFrom(() => console.queue.stats('')), 'VALIDATION')
  })
})

test('[TM-060] [TM-108] the buckets of a queue are exclusive and right, alone as among all queues', async () => {
  await withEngines(async (bundle) => {
    const { client } = bundle
    await bundle.engine()
    const queue = 'mixed'
    await letters(bundle, queue, 3)
    const { id: retried } = await client.enqueue('careful', 1, { queue })
    await bundle.inState(retried, 'retrying')
    await client.enqueueMany('nobody', [1, 2, 3, 4], { queue })
    await client.enqueueMany('echo', [1, 2], { queue, delayMs: HOUR })
    for (const payload of [1, 2, 3]) await client.enqueue('nobody', payload, { queue, group: 'g' })
    for (const payload of [1, 2]) await client.enqueue('wait', payload, { queue })
    await client.enqueue('nobody', 1, { queue: 'other' })
    const stats = await bundle.until('both run', async () => {
      const seen = await client.console.queue.stats(queue)
      return seen.inFlight === 2 && seen
    })
    const { oldestWaitingMs, ...counts } = stats
    assert.deepEqual(counts, {
      queue,
      paused: false,
      available: 5, // four, and one whose group's turn it is
      inFlight: 2,
      scheduled: 2,
      retrying: 1,
      blocked: 2,
      dead: 3,
    })
    assert.ok(oldestWaitingMs! > 0)
    const listed = (await client.console.queues()).find((row) => row.queue === queue)!
    assert.deepEqual({ ...listed, oldestWaitingMs: null }, { ...stats, oldestWaitingMs: null })
  })
})

test('a paused queue is not claimed until it is resumed; one may be paused before its first job', async () => {
  await withEngines(async (bundle) => {
    const { client } = bundle
    await client.console.queue.pause('slow')
    await client.console.queue.pause('slow')
    await bundle.engine({ pollMs: 60_000, pollMaxMs: 60_000 })
    const { id } = await client.enqueue('echo', 1, { queue: 'slow' })
    const { id: witness } = await client.enqueue('echo', 1, { queue: 'other' })
    await bundle.inState(witness, 'completed')
    assert.equal((await client.console.job(id))!.state, 'queued')
    assert.deepEqual(
      (await client.console.queues()).map(({ queue, paused }) => [queue, paused]),
      [
        ['other', false],
        ['slow', true],
      ],
    )
    await client.console.queue.resume('slow') // no poll comes: resuming says it
    await bundle.inState(id, 'completed')
  })
})

test('[TM-061] purge ends what waits and nothing else: dead letters, results and held jobs stay', async () => {
  await withEngines(async (bundle) => {
    const { client } = bundle
    await bundle.engine()
    const dead = await letters(bundle, 'queue', 2)
    const { id: done } = await client.enqueue('echo', 1, { queue: 'queue' })
    await bundle.inState(done, 'completed')
    const { id: held } = await client.enqueue('wait', 1, { queue: 'queue' })
    await bundle.until('it is held', async () => (await client.console.queue.stats('queue')).inFlight === 1)
    const { ids } = await client.enqueueMany('nobody', [1, 2, 3, 4, 5], { queue: 'queue' })
    const { id: other } = await client.enqueue('nobody', 1, { queue: 'queue-b' })

    assert.equal(await client.console.queue.purge('queue', 'not needed'), 5)
    const { available, dead: left, inFlight } = await client.console.queue.stats('queue')
    assert.deepEqual([available, left, inFlight], [0, 2, 1])
    const gone = await client.console.job(ids[0]!.first + 4)
    assert.equal(gone!.state, 'cancelled')
    assert.deepEqual(gone!.error, { code: 'TASK_CANCELLED', message: 'not needed' })
    assert.deepEqual(
      (await client.console.dead.list({ queue: 'queue' })).map((row) => row.id),
      dead.toReversed(),
    )
    assert.equal((await client.console.job(done))!.state, 'completed')
    assert.equal((await client.console.job(other))!.state, 'queued')
    await client.console.cancel(held)
    await bundle.inState(held, 'cancelled')
    assert.equal(await client.console.queue.purge('queue'), 0)
    assert.equal(await client.console.queue.purge('never heard of'), 0)
  })
})

test('purge reaches delayed, retrying and blocked jobs, lets go of keys and groups, and leaves no trace of ephemeral ones', async () => {
  await withEngines(async (bundle) => {
    const { client } = bundle
    const engine = await bundle.engine()
    const queue = 'queue'
    await client.enqueueMany('echo', [1, 2, 3], { queue, delayMs: HOUR })
    const { id: keyed } = await client.enqueue('nobody', 1, { queue, idempotencyKey: 'k' })
    // the head of its group waits for a retry and keeps its turn; two wait behind it
    const { id: head } = await client.enqueue('careful', 1, { queue, group: 'g' })
    await bundle.inState(head, 'retrying')
    for (const payload of [2, 3]) await client.enqueue('echo', payload, { queue, group: 'g' })
    await client.enqueue('nobody', 1, { queue, ephemeral: true, idempotencyKey: 'e' })

    // what the head lets go of may be claimed before the purge comes to it, and is then left alone; here nobody claims
    await client.console.queue.pause(queue)
    assert.equal(await client.console.queue.purge(queue), 8)
    await client.console.queue.resume(queue)
    assert.equal(await bundle.count('scheduled', 'blocked', 'key', 'hold', 'dead'), 0)
    assert.deepEqual(await client.console.queue.stats(queue), { queue, ...ZEROS })
    assert.deepEqual(await outcomesOf(bundle, head), ['failed', 'cancelled'])
    assert.deepEqual(await outcomesOf(bundle, keyed), ['cancelled'])
    assert.equal((await bundle.query('select from millrace.job where ephemeral')).length, 0)

    // both are free again, and nobody waits for a turn that never comes
    await client.enqueue('nobody', 1, { queue, idempotencyKey: 'k' })
    const { id: next } = await client.enqueue('echo', 4, { queue, group: 'g' })
    await bundle.inState(next, 'completed')
    assert.equal(engine.stats().completed, 1)
  })
})

test('a claim does not wait for a job that is being taken out, nor does it take it', async () => {
  const it = await openStore()
  const other = new pg.Client({ connectionString: it.db.url })
  await other.connect()
  try {
    const node = await it.join()
    const head = await it.put(1, { group: 'g' })
    const next = await it.put(1, { group: 'g' })
    await other.query('begin')
    await other.query(`select "${it.db.schema}".cancel($1, 'by hand')`, [head])
    assert.deepEqual(await it.claim(node), [], 'the head is being taken out, the next is not next yet')
    await other.query('commit')
    const claimed = await it.claim(node)
    assert.deepEqual(
      claimed.map((chunk) => chunk.firstId),
      [next],
    )
  } finally {
    await other.end()
    await it.close()
  }
})

test('a purge of many chunks goes on in batches until nothing waits that waited at its start', async () => {
  const it = await openStore()
  try {
    const firsts = await it.store.reserveBlocks(3)
    await it.query(
      `insert into millrace.job (id, queue_id, task_id, payload_bytes, priority, max_attempts, payload)
        select f + i, $2, $3, 1, 0, 3, '1' from unnest($1::bigint[]) f, generate_series(0, 999) i`,
      [firsts, it.queueId, it.taskId],
    )
    await it.query(
      `insert into millrace.ready (first_id, rank, queue_id, task_id, bytes, count, attempt, run, rescues)
        select f + i, 0, $2, $3, 1, 1, 1, 1, 0 from unnest($1::bigint[]) f, generate_series(0, 999) i`,
      [firsts, it.queueId, it.taskId],
    )
    const call = `select jobs, last from millrace.purge_waiting($1, 'ready', 0, clock_timestamp(), $2, 'x')`
    const jobs: number[] = []
    for (let last: unknown = 0; last !== null; ) {
      const [batch] = await it.query<{ jobs: number; last: unknown }>(call, [it.queueId, 400])
      jobs.push(batch!.jobs)
      last = batch!.last
    }
    assert.deepEqual(jobs, [400, 400, 400, 400, 400, 400, 400, 200, 0])
    assert.deepEqual(await it.query(`select count(*)::int as n from millrace.attempt where outcome = 'x'`), [
      { n: 3_000 },
    ])
  } finally {
    await it.close()
  }
})

test('[TM-062] purging the dead letters of a queue leaves what waits, and the attempts of the dead', async () => {
  await withEngines(async (bundle) => {
    const { client } = bundle
    await bundle.engine()
    const dead = await letters(bundle, 'queue', 2)
    await letters(bundle, 'queue-b', 1)
    await client.enqueueMany('nobody', [1, 2, 3, 4, 5], { queue: 'queue' })
    assert.equal(await client.console.dead.purge({ queue: 'queue' }), 2)
    const { available, dead: left } = await client.console.queue.stats('queue')
    assert.deepEqual([available, left], [5, 0])
    assert.equal((await client.console.queue.stats('queue-b')).dead, 1)
    assert.deepEqual(await outcomesOf(bundle, dead[0]!), ['failed'])
  })
})

test('[TM-063] [TM-064] [TM-065] [TM-111] requeue gives a dead letter its attempts anew; what is not dead or not there is an error', async () => {
  await withEngines(async (bundle) => {
    const { client } = bundle
    const engine = await bundle.engine()
    const { id } = await client.enqueue('flaky', { failures: 9 }, { maxAttempts: 3 })
    assert.equal((await bundle.inState(id, 'failed')).attempt, 3)
    const { id: pending } = await client.enqueue('nobody', 1)
    const { id: done } = await client.enqueue('echo', 1)
    await bundle.inState(done, 'completed')
    await engine.stop()

    const { requeue } = client.console.dead
    assert.equal(await codeFrom(() => requeue({ id: pending })), 'NOT_DEAD')
    assert.equal(await codeFrom(() => requeue({ id: done })), 'NOT_DEAD')
    assert.equal(await codeFrom(() => requeue({ id: 999_999_999 })), 'JOB_NOT_FOUND')
    assert.equal((await requeue({ id })).requeued, 1)
    const job = await client.console.job(id)
    assert.deepEqual([job!.state, job!.attempt], ['queued', 1])
    assert.equal(await bundle.count('dead'), 0)
    assert.equal(await codeFrom(() => requeue({ id })), 'NOT_DEAD')
    assert.equal((await outcomesOf(bundle, id)).length, 3, 'the history stays')
  })
})

test('a job that is requeued when its key is taken stays dead and names who has it; many go on without it', async () => {
  await withEngines(async (bundle) => {
    const { client } = bundle
    await bundle.engine()
    const options = { queue: 'queue', maxAttempts: 1, idempotencyKey: 'k' }
    const { id } = await client.enqueue('flaky', { failures: 0 }, options)
    await bundle.inState(id, 'completed')
    const { id: dead } = await client.enqueue('careful', 1, options)
    await bundle.inState(dead, 'failed')
    const { id: holder } = await client.enqueue('nobody', 1, options)
    await assert.rejects(client.console.dead.requeue({ id: dead }), {
      code: 'DUPLICATE_TASK',
      details: { jobId: holder },
    })
    const [other] = await letters(bundle, 'queue', 1)
    assert.deepEqual(await client.console.dead.requeue({ queue: 'queue' }), {
      requeued: 1,
      taken: 1,
      takenBy: [{ id: dead, heldBy: holder }],
      notDead: 0,
      notDeadIds: [],
    })
    await bundle.inState(other!, 'failed') // it fails again
    assert.equal((await client.console.job(dead))!.state, 'failed')
    await client.console.cancel(holder)
    assert.equal((await client.console.dead.requeue({ id: dead })).requeued, 1)
  })
})

test('a requeue of many counts all that it left, and names so many of them as can be read', async () => {
  await withEngines(async ({ client, query }) => {
    const { requeue } = client.console.dead
    const keyed = async (count: number) => {
      const items = Array.from({ length: count }, (_, no) => ({
        task: 'nobody',
        payload: no,
        options: { idempotencyKey: `k${no}` },
      }))
      const { ids } = await client.enqueueMany(items)
      return ids.flatMap((span) => Array.from({ length: span.count }, (_, no) => span.first + no))
    }
    const first = await keyed(130)
    await query(`delete from millrace.ready`)
    await query(`delete from millrace.key`)
    await query(`insert into millrace.dead (job_id, queue_id, task_id, attempts, run, code, reason)
      select id, queue_id, task_id, 1, 1, 'TEST', '{}' from millrace.job`)
    const second = await keyed(120)
    const done = await requeue({ task: 'nobody' })
    assert.deepEqual([done.requeued, done.taken, done.takenBy.length], [10, 120, 100])
    assert.deepEqual(done.takenBy[99], { id: first[99], heldBy: second[99] })
  })
})

test('a list of ids is requeued as far as they are dead letters; each other id is named with what it is', async () => {
  await withEngines(async (bundle) => {
    const { requeue } = bundle.client.console.dead
    const engine = await bundle.engine()
    const [one, two, three] = await letters(bundle, 'queue', 3)
    await engine.stop()
    const { id: waiting } = await bundle.client.enqueue('nobody', 1)
    assert.deepEqual(await requeue({ ids: [999_999_999, two!, waiting, one!, two!] }), {
      requeued: 2,
      taken: 0,
      takenBy: [],
      notDead: 2,
      notDeadIds: [
        { id: 999_999_999, state: null },
        { id: waiting, state: 'queued' },
      ],
    })
    const { notDead, notDeadIds } = await requeue({ ids: Array.from({ length: 150 }, (_, no) => 5_000_000 + no) })
    assert.deepEqual([notDead, notDeadIds.length], [150, 100])
    assert.deepEqual(
      (await bundle.client.console.dead.list()).map((row) => row.id),
      [three],
    )
    for (const ids of [[], [0], ['1' as unknown as number], Array(10_001).fill(1)])
      assert.equal(await codeFrom(() => requeue({ ids })), 'VALIDATION')
    assert.equal(await codeFrom(() => requeue({ ids: [three!], queue: 'queue' })), 'VALIDATION')
  })
})

test('many dead letters requeued at a rate become due one after the other, and all of them run', async () => {
  await withEngines(async (bundle) => {
    const { client } = bundle
    const engine = await bundle.engine()
    await letters(bundle, 'queue', 20)
    await engine.stop()
    assert.equal((await client.console.dead.requeue({ queue: 'queue' }, { perSecond: 50 })).requeued, 20)
    const spread = await bundle.query<{ ms: number }>(
      `select (extract(epoch from max(run_at) - min(run_at)) * 1000)::float8 as ms from millrace.scheduled`,
    )
    assert.ok(spread[0]!.ms > 350 && spread[0]!.ms < 10_000, `${spread[0]!.ms} ms`)
    assert.deepEqual([await bundle.count('ready'), await bundle.count('scheduled')], [1, 19])
    await bundle.engine()
    await bundle.until('all of them died again', async () => (await bundle.count('dead')) === 20)
    assert.equal(await codeFrom(() => client.console.dead.requeue({}, { perSecond: 0 })), 'VALIDATION')
  })
})

test('[TM-071] [TM-072] [TM-073] results are listed newest first, of a queue, a task or a group, and a page at a time', async () => {
  await withEngines(async (bundle) => {
    const { client } = bundle
    await bundle.engine()
    const ids: number[] = []
    for (let at = 0; at < 10; at++) {
      const { id } = await client.enqueue('echo', at, {
        queue: at < 5 ? 'queue-a' : 'queue-b',
        ...(at === 3 ? { group: 'g' } : {}),
      })
      await bundle.inState(id, 'completed')
      ids.push(id)
    }
    await letters(bundle, 'queue-a', 1)
    const { list } = client.console.results
    const listed = async (filter: Parameters<typeof list>[0]) => (await list(filter)).map((row) => row.result)
    const [newest] = await list()
    assert.deepEqual([newest!.id, newest!.task, newest!.queue, newest!.attempt], [ids[9], 'echo', 'queue-b', 1])
    assert.ok(newest!.completedAt >= newest!.startedAt!)
    assert.deepEqual(await listed({ queue: 'queue-a', limit: 10 }), [4, 3, 2, 1, 0])
    assert.deepEqual(await listed({ limit: 3, offset: 2 }), [7, 6, 5])
    assert.deepEqual(await listed({ limit: 3, offset: 9 }), [0])
    assert.deepEqual(await listed({ offset: 10 }), [])
    assert.deepEqual(await listed({ group: 'g' }), [3])
    assert.deepEqual(await listed({ task: 'echo', queue: 'queue-b', limit: 1 }), [9])
    assert.deepEqual(await listed({ queue: 'unknown' }), [])
    for (const filter of [{ limit: 0 }, { limit: 1_001 }, { offset: -1 }, { completedAfter: Number.NaN }])
      assert.equal(await codeFrom(() => list(filter)), 'VALIDATION')
  })
})

/** Completed jobs of queue 'q<i % 2>' whose times go back by an hour each. */
async function aged(bundle: EngineBundle, count: number): Promise<number> {
  const { ids } = await bundle.client.enqueueMany(
    Array.from({ length: count }, (_, at) => ({ task: 'echo', payload: at, options: { queue: `q${at % 2}` } })),
  )
  const engine = await bundle.engine()
  await engine.drain()
  await engine.stop()
  const now = Date.now()
  const all = ids.flatMap(({ first, count }) => Array.from({ length: count }, (_, at) => first + at))
  await bundle.query(
    `update millrace.attempt a set finished_at = to_timestamp($2 / 1000.0) - o.nth * interval '1 hour'
      from unnest($1::bigint[]) with ordinality as o(id, nth) where a.job_id = o.id`,
    [all, now],
  )
  await bundle.query(
    `update millrace.job j set created_at = to_timestamp($2 / 1000.0) - o.nth * interval '1 hour'
      from unnest($1::bigint[]) with ordinality as o(id, nth) where j.id = o.id`,
    [all, now],
  )
  return now
}

test('[TM-074] results of a time: from its first moment on, and before its last', async () => {
  await withEngines(async (bundle) => {
    const now = await aged(bundle, 10) // payload 0 an hour ago, payload 9 ten hours ago
    const { list } = bundle.client.console.results
    const listed = async (filter: Parameters<typeof list>[0]) => (await list(filter)).map((row) => row.result)
    assert.deepEqual(await listed({}), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert.deepEqual(await listed({ completedAfter: now - 3 * HOUR }), [0, 1, 2])
    assert.deepEqual(await listed({ completedBefore: now - 8 * HOUR }), [8, 9])
    assert.deepEqual(await listed({ completedAfter: now - 5 * HOUR, completedBefore: now - 2 * HOUR }), [2, 3, 4])
    assert.deepEqual(
      await listed({ completedAfter: new Date(now - 8 * HOUR), queue: 'q1', limit: 2, offset: 1 }),
      [3, 5],
    )
    assert.deepEqual(await listed({ completedBefore: now - 20 * HOUR }), [])
  })
})

test('pages of results follow each other without a gap, also among those that completed at the same moment', async () => {
  await withEngines(async (bundle) => {
    const { client, query } = bundle
    await aged(bundle, 10)
    await query(`update millrace.attempt set finished_at = date_trunc('minute', now()) where job_id % 3 > 0`)
    const { list, page } = client.console.results
    const all = (await list()).map((row) => row.id)
    for (const filter of [{}, { queue: 'q1' }]) {
      const seen: number[] = []
      let cursor: string | undefined
      do {
        const { rows, older } = await page({ ...filter, limit: 3, ...(cursor && { cursor }) })
        seen.push(...rows.map((row) => row.id))
        cursor = older ?? undefined
      } while (cursor !== undefined)
      const wanted = (await list(filter)).map((row) => row.id)
      assert.deepEqual(seen, wanted)
    }
    assert.equal(all.length, 10)
    assert.equal(await codeFrom(() => page({ cursor: 'yesterday' })), 'VALIDATION')
  })
})

test('what is rare is looked for among so many completed jobs at a time; the answer says where to go on', async () => {
  await withEngines(async (bundle) => {
    await aged(bundle, 10) // payload 9 is the oldest
    const ask = (before: Date | null, scan: number) =>
      bundle.query<{ job_id: string | null; result: unknown; finished_at: Date }>(
        'select job_id, result, finished_at from millrace.results($1, null, null, null, $2, 10, 0, 0, $3)',
        ['rare', before, scan],
      )
    const [queue] = await bundle.query(`select millrace.queue_id('rare') as id`)
    await bundle.query('update millrace.job set queue_id = $1 where id = (select max(id) from millrace.job)', [
      queue!.id,
    ])
    const [mark, ...none] = await ask(null, 4)
    assert.equal(mark!.job_id, null)
    assert.deepEqual(none, [])
    const [found] = await ask(mark!.finished_at, 100)
    assert.equal(found!.result, 9)
  })
})

test('[TM-075] [TM-076] cleaning up forgets completed jobs by age or by queue, and wants to be told which', async () => {
  await withEngines(async (bundle) => {
    const now = await aged(bundle, 10)
    const { results, job } = bundle.client.console
    assert.equal(await codeFrom(() => results.cleanup({})), 'VALIDATION')
    const old = (await results.list({ completedBefore: now - 8 * HOUR }))[0]!
    assert.equal(await results.cleanup({ completedBefore: now - 8 * HOUR }), 2)
    assert.equal((await results.list()).length, 8)
    assert.equal(await job(old.id), null)
    assert.equal(await results.cleanup({ queue: 'q1', completedBefore: now - 6 * HOUR }), 1)
    assert.equal(await results.cleanup({ queue: 'q0' }), 4)
    assert.deepEqual(
      (await results.list()).map(({ queue, result }) => [queue, result]),
      [1, 3, 5].map((payload) => ['q1', payload]),
    )
    assert.equal(await results.cleanup({ queue: 'unknown' }), 0)
    assert.deepEqual([await bundle.count('job'), await bundle.count('attempt')], [3, 3])
  })
})

test('[TM-104] [TM-105] [TM-106] [TM-107] a dead letter says why: code, type, message, stack, attempts; for a failure, a crash, an expiry', async () => {
  await withEngines(async (bundle) => {
    const { client } = bundle
    await bundle.engine({ tasks: [TASKS.href, MISBEHAVED.href] })
    const letterOf = async (
      id: number,
      state: 'failed' | 'expired',
    ): Promise<DeadRow & { reason: Record<string, string> }> => {
      await bundle.inState(id, state)
      return (await client.console.dead.list({ id }))[0] as DeadRow & { reason: Record<string, string> }
    }
    const { id: threw } = await client.enqueue('throws', 'error', {
      maxAttempts: 2,
      retry: { kind: 'fixed', delayMs: 0 },
    })
    const error = await letterOf(threw, 'failed')
    assert.equal(error.code, 'TASK_THREW')
    assert.equal(error.attempts, 2)
    assert.deepEqual(
      [error.reason.code, error.reason.type, error.reason.message],
      ['TASK_THREW', 'TypeError', 'wrong type'],
    )
    assert.match(error.reason.stack!, /misbehaved\.js/)

    const { id: exited } = await client.enqueue('exits', 3, { maxAttempts: 1 })
    const crash = await letterOf(exited, 'failed')
    assert.deepEqual([crash.code, crash.reason.code, crash.attempts], ['THREAD_EXITED', 'THREAD_EXITED', 1])
    assert.match(crash.reason.message!, /3/)

    const { id: late } = await client.enqueue('echo', 1, { expiresAt: Date.now() - 1 })
    const expired = await letterOf(late, 'expired')
    assert.equal(expired.code, 'TASK_EXPIRED')
    assert.equal(expired.reason.code, 'TASK_EXPIRED')
  })
})

test('a filter that is misspelt, or only for lists, chooses nothing: it is refused', async () => {
  await withEngines(async (bundle) => {
    await bundle.engine()
    await letters(bundle, 'queue', 2)
    const { requeue, purge } = bundle.client.console.dead
    for (const filter of [{ que: 'other' }, { before: 1 }, undefined, null] as never[]) {
      assert.equal(await codeFrom(() => purge(filter)), 'VALIDATION')
      assert.equal(await codeFrom(() => requeue(filter)), 'VALIDATION')
    }
    assert.equal(await bundle.count('dead'), 2)
  })
})

test('[TM-109] dead letters are never claimed, and are found by when they died', async () => {
  await withEngines(async (bundle) => {
    const { client } = bundle
    const engine = await bundle.engine()
    const ids = await letters(bundle, 'queue', 3)
    await engine.drain()
    const { list, purge } = client.console.dead
    await bundle.query(`update millrace.dead set died_at = now() - interval '2 hours' where job_id = $1`, [ids[0]])
    const { id: witness } = await client.enqueue('echo', 1, { queue: 'queue' })
    await bundle.inState(witness, 'completed')
    for (const id of ids) assert.deepEqual(await outcomesOf(bundle, id), ['failed'])
    const hourAgo = Date.now() - HOUR
    assert.deepEqual(
      (await list({ diedBefore: hourAgo })).map((row) => row.id),
      [ids[0]],
    )
    assert.deepEqual(
      (await list({ diedAfter: hourAgo })).map((row) => row.id),
      [ids[2], ids[1]],
    )
    // of a time they come in the order of their deaths, a page at a time
    await bundle.query(`update millrace.dead set died_at = now() + interval '1 hour' where job_id = $1`, [ids[1]])
    const pages: number[] = []
    for (let before: number | undefined; pages.length < 9; before = pages.at(-1)) {
      const page = await list({ diedAfter: 0, limit: 1, ...(before && { before }) })
      if (page.length === 0) break
      pages.push(...page.map((row) => row.id))
    }
    assert.deepEqual(pages, [ids[1], ids[2], ids[0]])
    assert.equal(await purge({ diedBefore: new Date(hourAgo) }), 1)
    assert.equal((await list()).length, 2)
  })
})
