// Groups with a limit above one, and retries that let their group go on, as PostgreSQL decides them: claims and flushes
// by hand, one after the other, so that every step has one right answer. What whole engines make of it under faults is
// in fifo.test.ts.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { systemClock } from '../engine/base/clock.ts'
import type { ClaimedChunk, Flush, NewChunk } from '../engine/store/types.ts'
import { completing, openStore, type StoreBundle } from './support/store.ts'

let it: StoreBundle
let nodeId: number
let flushNo = 0
let queues = 0

before(async () => {
  it = await openStore()
  nodeId = await it.join()
})

after(() => it.close())

/** A queue of its own, short ways to put jobs of the group g in, to claim, and to end them. */
async function groupOf() {
  const [queueId] = await it.store.queueIds([`q${++queues}`])
  const claim = async (jobsMax = 100, taskIds: number[] | null = null): Promise<ClaimedChunk[]> =>
    it.store.claim({ nodeId, queueIds: [queueId!], taskIds, jobsMax, bytesMax: 1e9, group: null })
  const flush = (chunks: readonly ClaimedChunk[], extra: Partial<Flush>) =>
    it.store.flush(nodeId, completing(++flushNo, nodeId, chunks, extra))
  return {
    queueId: queueId!,
    put: (groupLimit: number | null, options: Partial<NewChunk> = {}) =>
      it.put(1, { queueId: queueId!, group: 'g', groupLimit, ...options }),
    claim,
    ids: async (jobsMax?: number) => (await claim(jobsMax)).map((chunk) => chunk.firstId),
    /** As after a good end. */
    end: (...chunks: ClaimedChunk[]) =>
      flush(chunks, {
        finished: chunks.map(({ leaseId, firstId, group }) => ({
          leaseId,
          jobId: firstId,
          queueId: queueId!,
          keyed: false,
          ephemeral: false,
          group,
        })),
      }),
    /** As after a failure, to be tried again at once. */
    retry: ({ leaseId, firstId, attempt, run, rescues }: ClaimedChunk) =>
      it.store.flush(nodeId, {
        ...completing(++flushNo, nodeId, []),
        leaseIds: [leaseId],
        leaseDone: [1],
        retries: [{ leaseId, jobId: firstId, delayMs: 0, attempt: attempt + 1, run: run + 1, rescues }],
      }),
    /** Given back unstarted. */
    release: ({ leaseId, firstId, count, attempt, run, rescues, rank, seq }: ClaimedChunk) =>
      it.store.flush(nodeId, {
        ...completing(++flushNo, nodeId, []),
        leaseIds: [leaseId],
        leaseDone: [1],
        releases: [{ leaseId, firstId, count, attempt, run, rescues, rank, seq }],
      }),
    holders: async () =>
      (
        await it.query<{ id: number }>(
          'select job_id::float8 as id from millrace.hold where queue_id = $1 order by seat',
          [queueId],
        )
      ).map(({ id }) => id),
    async empty() {
      assert.deepEqual(await claim(), [])
      const left = await it.query(
        `select 'ready' as place from millrace.ready where queue_id = $1 union all select 'blocked' from millrace.blocked where queue_id = $1
         union all select 'hold' from millrace.hold where queue_id = $1`,
        [queueId],
      )
      assert.deepEqual(left, [])
    },
  }
}

test('a group with a limit of three has three holders at most, started in order, over several claims', async () => {
  const g = await groupOf()
  const jobs: number[] = []
  for (let at = 0; at < 6; at++) jobs.push(await g.put(3))
  const two = await g.claim(2)
  assert.deepEqual(
    two.map((chunk) => chunk.firstId),
    [jobs[0], jobs[1]],
  )
  const [third] = await g.claim()
  assert.equal(third!.firstId, jobs[2])
  assert.deepEqual(await g.ids(), [])
  await g.end(two[1]!)
  const [fourth, ...more] = await g.claim()
  assert.deepEqual([fourth!.firstId, more.length], [jobs[3], 0])
  assert.deepEqual(await g.holders(), [jobs[0], jobs[3], jobs[2]], 'the seat that became free was taken')
  await g.end(two[0]!, third!, fourth!) // three let go at once, and both that wait may start
  const rest = await g.claim()
  assert.deepEqual(
    rest.map((chunk) => chunk.firstId),
    [jobs[4], jobs[5]],
  )
  await g.end(...rest)
  await g.empty()
})

test('one claim fills a group up to its limit, and a claim with no more room leaves the turn to the next', async () => {
  const g = await groupOf()
  const jobs: number[] = []
  for (let at = 0; at < 5; at++) jobs.push(await g.put(5))
  const first = await g.claim(1)
  const second = await g.claim(1)
  const others = await g.claim()
  assert.deepEqual(
    [...first, ...second, ...others].map((chunk) => chunk.firstId),
    jobs,
  )
  await g.end(...first, ...second, ...others)
  await g.empty()
})

test('where jobs of a group name different limits, the smallest among the held and the next one counts', async () => {
  const g = await groupOf()
  const wide = [await g.put(3), await g.put(3)]
  const alone = await g.put(1)
  const behind = [await g.put(3), await g.put(3), await g.put(2), await g.put(3)]
  const held = await g.claim()
  assert.deepEqual(
    held.map((chunk) => chunk.firstId),
    wide,
  )
  await g.end(held[0]!)
  assert.deepEqual(await g.ids(), [], 'it is not alone yet, and nobody passes it')
  await g.end(held[1]!)
  const [only, ...more] = await g.claim()
  assert.deepEqual([only!.firstId, more.length], [alone, 0], 'while it is held it is alone')
  await g.end(only!)
  const three = await g.claim()
  assert.deepEqual(
    three.map((chunk) => chunk.firstId),
    behind.slice(0, 2),
    'the third says two, and two are held',
  )
  await g.end(three[0]!)
  const [two] = await g.claim()
  assert.equal(two!.firstId, behind[2])
  assert.deepEqual(await g.ids(), [], 'the last would allow three, one that is held allows two')
  await g.end(two!)
  const [last] = await g.claim()
  assert.equal(last!.firstId, behind[3])
  await g.end(three[1]!, last!)
  await g.empty()
})

test('a job with a large limit that joins one with a small limit brings nobody along', async () => {
  const g = await groupOf()
  const jobs = [await g.put(2), await g.put(3), await g.put(3)]
  const two = await g.claim()
  assert.deepEqual(
    two.map((chunk) => chunk.firstId),
    jobs.slice(0, 2),
  )
  await g.end(two[1]!)
  const [third] = await g.claim()
  await g.end(two[0]!, third!)
  await g.empty()
})

test('who is cancelled while it waits with a small limit lets those behind it start', async () => {
  const g = await groupOf()
  await g.put(2)
  const small = await g.put(1)
  const behind = await g.put(2)
  const [held] = await g.claim()
  assert.deepEqual(await g.ids(), [])
  await it.query('select millrace.cancel($1, $2)', [small, 'not needed'])
  const [next] = await g.claim()
  assert.equal(next!.firstId, behind)
  await g.end(held!, next!)
  await g.empty()
})

test('a retry keeps its seat while it waits, and one that skips gives it to the next and queues again', async () => {
  const g = await groupOf()
  const keeps = await g.put(2)
  const skips = await g.put(2, { retrySkips: true })
  const next = [await g.put(2), await g.put(2)]
  const [a, b] = await g.claim()
  await g.retry(a!)
  assert.deepEqual(await g.ids(), [])
  await g.retry(b!)
  const [c] = await g.claim()
  assert.equal(c!.firstId, next[0], 'the one after it goes on')
  assert.deepEqual((await g.holders()).sort(), [keeps, next[0]])
  await it.store.promote(100)
  const [again, ...more] = await g.claim()
  assert.deepEqual([again!.firstId, again!.attempt, more.length], [keeps, 2, 0], 'it had its seat all the time')
  assert.deepEqual(await g.ids(), [])
  await g.end(c!)
  const [d] = await g.claim()
  assert.equal(d!.firstId, next[1], 'who waited is before who comes back')
  await g.end(again!)
  const [last] = await g.claim()
  assert.deepEqual([last!.firstId, last!.attempt, last!.run], [skips, 2, 2])
  await g.end(d!, last!)
  await g.empty()
})

test('of a group with a limit of one, a retry that skips lets the next one pass, and both end', async () => {
  const g = await groupOf()
  const skips = await g.put(null, { retrySkips: true })
  const next = await g.put(null)
  const [a] = await g.claim()
  await g.retry(a!)
  const [b] = await g.claim()
  assert.equal(b!.firstId, next)
  await it.store.promote(100)
  assert.deepEqual(await g.ids(), [], 'due, and behind the one that runs')
  await g.end(b!)
  const [again] = await g.claim()
  assert.equal(again!.firstId, skips)
  await g.end(again!)
  await g.empty()
})

test('what becomes due, is purged, or returns from the dead letters, keeps the limit', async () => {
  const g = await groupOf()
  const later = [
    await g.put(2, { runAtMs: systemClock.wallMs() + 60_000 }),
    await g.put(2, { runAtMs: systemClock.wallMs() + 60_000 }),
  ]
  const now = await g.put(2)
  const [held] = await g.claim()
  assert.equal(held!.firstId, now)
  await it.query('update millrace.scheduled set run_at = clock_timestamp() where queue_id = $1', [g.queueId])
  await it.store.promote(100)
  const [first, ...more] = await g.claim()
  assert.ok(later.includes(first!.firstId) && more.length === 0)
  await it.store.flush(nodeId, {
    ...completing(++flushNo, nodeId, []),
    leaseIds: [first!.leaseId],
    leaseDone: [1],
    deads: [{ leaseId: first!.leaseId, jobId: first!.firstId, code: 'TASK_THREW', reason: '{}', attempts: 1, run: 1 }],
    finished: [
      {
        leaseId: first!.leaseId,
        jobId: first!.firstId,
        queueId: g.queueId,
        keyed: false,
        ephemeral: false,
        group: 'g',
      },
    ],
  })
  const [second] = await g.claim()
  assert.ok(later.includes(second!.firstId))
  await it.query('select * from millrace.requeue($1)', [[first!.firstId]])
  assert.deepEqual(await g.ids(), [], 'it waits behind two that are held')
  await g.end(held!)
  const [back] = await g.claim()
  assert.equal(back!.firstId, first!.firstId)
  await g.put(2)
  const rows = await it.query<{ jobs: number }>(
    `select jobs from millrace.purge_waiting($1, 'blocked', 0, clock_timestamp(), 100, 'gone')`,
    [g.queueId],
  )
  assert.equal(rows[0]!.jobs, 1)
  await g.end(second!, back!)
  await g.empty()
})

test('what a dead node held is held on by those who take it over', async () => {
  const g = await groupOf()
  const jobs = [await g.put(2), await g.put(2), await g.put(2)]
  const dying = await it.join()
  const taken = await it.store.claim({
    nodeId: dying,
    queueIds: [g.queueId],
    taskIds: null,
    jobsMax: 10,
    bytesMax: 1e9,
    group: null,
  })
  assert.equal(taken.length, 2)
  await it.query('select * from millrace.rescue($1, 3, true)', [dying])
  const again = await g.claim()
  assert.deepEqual(
    again.map((chunk) => [chunk.firstId, chunk.run]),
    [
      [jobs[0], 2],
      [jobs[1], 2],
    ],
  )
  await g.end(...again)
  const [last] = await g.claim()
  await g.end(last!)
  await g.empty()
})

test('a ticket that was left behind never stands in the way of the job that it was written for', async () => {
  const g = await groupOf()
  await g.put(1)
  const b = await g.put(1)
  const [a] = await g.claim() // and the ticket of b is spent
  const c = await g.put(1)
  await g.end(a!) // a new ticket for b, behind that of c
  const [started] = await g.claim(1)
  assert.equal(started!.firstId, b)
  await g.release(started!)
  const [again] = await g.claim(1)
  assert.equal(again!.firstId, b)
  await g.end(again!)
  const [last] = await g.claim(1)
  assert.equal(last!.firstId, c)
  await g.end(last!)
  await g.empty()
})

test('what is waiting and might start now is shown as queued, what is behind the limit as blocked', async () => {
  const g = await groupOf()
  const jobs: number[] = []
  for (let at = 0; at < 4; at++) jobs.push(await g.put(2))
  const states = async () =>
    (await it.query<{ state: string }>('select state from millrace.jobs where id = any ($1) order by id', [jobs])).map(
      ({ state }) => state,
    )
  const buckets = async () =>
    (
      await it.query('select available::int, blocked::int, in_flight::int from millrace.queues where queue = $1', [
        `q${queues}`,
      ])
    )[0]
  assert.deepEqual(await states(), ['queued', 'queued', 'blocked', 'blocked'])
  assert.deepEqual(await buckets(), { available: 2, blocked: 2, in_flight: 0 })
  const [held] = await g.claim(1)
  assert.deepEqual(await states(), ['assigned', 'queued', 'blocked', 'blocked'])
  assert.deepEqual(await buckets(), { available: 1, blocked: 2, in_flight: 1 })
  await it.query('select millrace.cancel($1, $2)', [jobs[1]!, 'x'])
  await it.query('select millrace.cancel($1, $2)', [jobs[2]!, 'x'])
  await it.query('select millrace.cancel($1, $2)', [jobs[3]!, 'x'])
  await g.end(held!)
  await g.empty()
})

async function holdOne(queueId: number, nodeId: number, group: string): Promise<ClaimedChunk> {
  await it.put(1, { queueId, group, groupLimit: 2 })
  const [chunk] = await it.store.claim({
    nodeId,
    queueIds: [queueId],
    taskIds: null,
    jobsMax: 1,
    bytesMax: 1e9,
    group: null,
  })
  assert.equal(chunk!.group, group)
  return chunk!
}

/** Lets two calls go on at once from where both have come as far as to read the wishes; neither fails. */
async function crossing(calls: () => Promise<unknown>[]): Promise<void> {
  let flying: Promise<PromiseSettledResult<unknown>[]>
  await it
    .other()
    .session('ask')
    .exclusive('open', async (client) => {
      await client.query('begin')
      await client.query(`lock table "${it.db.schema}".cancelling in access exclusive mode`)
      flying = Promise.allSettled(calls())
      for (let tries = 0; ; tries++) {
        const [row] = await it.query<{ n: number }>(
          `select count(*)::int as n from pg_locks where not granted and relation = '"${it.db.schema}".cancelling'::regclass`,
        )
        if (row!.n === 2) break
        assert.ok(tries < 20_000, 'both wait')
      }
      await client.query('commit')
    })
  for (const result of await flying!) if (result.status === 'rejected') throw result.reason
}

test("two flushes that let go of groups and cancel in each other's take the groups in one order", async () => {
  const [queueId] = await it.store.queueIds(['crossed'])
  const second = await it.join()
  const held = (node: number, group: string) => holdOne(queueId!, node, group)
  const [endsA, goesOnA] = [await held(nodeId, 'two'), await held(nodeId, 'one')]
  const [endsB, goesOnB] = [await held(second, 'one'), await held(second, 'two')]
  for (const { firstId } of [goesOnA, goesOnB]) await it.query(`select millrace.cancel($1, 'x')`, [firstId])
  const flushOf = (node: number, no: number, ends: ClaimedChunk, goesOn: ClaimedChunk): Flush => ({
    ...completing(no, node, [ends], {
      finished: [
        {
          leaseId: ends.leaseId,
          jobId: ends.firstId,
          queueId: queueId!,
          keyed: false,
          ephemeral: false,
          group: ends.group,
        },
      ],
      retries: [
        {
          leaseId: goesOn.leaseId,
          jobId: goesOn.firstId,
          delayMs: 0,
          attempt: goesOn.attempt + 1,
          run: goesOn.run + 1,
          rescues: 0,
        },
      ],
    }),
    leaseIds: [ends.leaseId, goesOn.leaseId],
    leaseDone: [1, 1],
  })
  const sent = [
    { store: it.store, node: nodeId, flush: flushOf(nodeId, ++flushNo, endsA, goesOnA) },
    { store: it.other(), node: second, flush: flushOf(second, 1, endsB, goesOnB) },
  ]
  await crossing(() => sent.map(({ store, node, flush }) => store.flush(node, flush)))
  const states = await it.query<{ state: string }>('select state from millrace.jobs where id = any ($1) order by id', [
    [endsA, goesOnA, endsB, goesOnB].map((chunk) => chunk.firstId),
  ])
  assert.deepEqual(
    states.map((row) => row.state),
    ['completed', 'cancelled', 'completed', 'cancelled'],
  )
})

test("two rescues that bury jobs of groups and cancel in each other's take the groups in one order", async () => {
  const [queueId] = await it.store.queueIds(['crossed rescues'])
  const [first, second] = [await it.join(), await it.join()]
  const held = (node: number, group: string) => holdOne(queueId!, node, group)
  const [endsA, wishedA] = [await held(first, 'two'), await held(first, 'one')]
  const [endsB, wishedB] = [await held(second, 'one'), await held(second, 'two')]
  for (const { firstId } of [wishedA, wishedB]) await it.query(`select millrace.cancel($1, 'x')`, [firstId])
  await crossing(() => [it.store.rescue(first, 1, true), it.other().rescue(second, 1, true)])
  const states = await it.query<{ state: string }>('select state from millrace.jobs where id = any ($1) order by id', [
    [endsA, wishedA, endsB, wishedB].map((chunk) => chunk.firstId),
  ])
  assert.deepEqual(
    states.map((row) => row.state),
    ['failed', 'cancelled', 'failed', 'cancelled'],
  )
})
