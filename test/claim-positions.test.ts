// Claims that begin behind what cannot be removed yet: the ranges that they walk, when they are used, what they find in
// PostgreSQL while somebody holds an old snapshot, and that nothing is passed over for good.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import pg from 'pg'
import { type Claimed, ClaimPositions } from '../engine/claimer/positions.ts'
import { rangesOf } from '../engine/store/claim-ranges.ts'
import type { Position } from '../engine/store/types.ts'
import { type EngineBundle, withEngines } from './support/engine.ts'
import { openStore } from './support/store.ts'

const at = (seq: number, rank = 0, queueId = 1): Claimed => ({ queueId, rank, seq, group: null })
const TAKEN = { queueIds: [1], chunks: [], jobs: 0, mayLeave: false, tookMs: 0 }
const SLOW = { ...TAKEN, tookMs: 100 }

/** Positions after three slow claims up to the number 1,000 of rank 0, each old enough. */
function learnt(): ClaimPositions {
  const positions = new ClaimPositions()
  for (const [seq, nowMs] of [
    [1_000, 1_000],
    [1_001, 1_300],
    [1_002, 1_600],
  ] as const)
    positions.claimed(null, { ...SLOW, chunks: [at(seq)], jobs: 1, nowMs })
  return positions
}

test('ranges walk everything but what stands before the positions, each row once and in its order', () => {
  const row = fc.record({
    queueId: fc.integer({ min: 1, max: 3 }),
    rank: fc.integer({ min: -3, max: 3 }),
    seq: fc.integer({ min: 0, max: 9 }),
  })
  const key = ({ queueId, rank }: Position) => `${queueId} ${rank}`
  const positions = fc.uniqueArray(row, { maxLength: 9, selector: key })
  fc.assert(
    fc.property(positions, fc.array(row, { maxLength: 40 }), (after, rows) => {
      const sorted = rows.toSorted((a, b) => a.queueId - b.queueId || a.rank - b.rank || a.seq - b.seq)
      const ranges = rangesOf([1, 2, 3], after)
      const walked = ranges.queueIds.flatMap((queueId, i) =>
        sorted.filter(
          (it) =>
            it.queueId === queueId &&
            (it.rank > ranges.ranks[i]! || (it.rank === ranges.ranks[i]! && it.seq > ranges.seqs[i]!)) &&
            it.rank <= ranges.lastRanks[i]!,
        ),
      )
      const limits = new Map(after.map((it) => [key(it), it.seq]))
      assert.deepEqual(
        walked,
        sorted.filter((it) => it.seq > (limits.get(key(it)) ?? -1)),
      )
    }),
  )
})

test('as long as claims from the beginning are quick, every claim is one', () => {
  const positions = new ClaimPositions()
  for (let nowMs = 0; nowMs < 5_000; nowMs += 100) {
    assert.equal(positions.next(nowMs), null)
    positions.claimed(null, { ...TAKEN, chunks: [at(nowMs + 1)], jobs: 1, tookMs: 5, nowMs })
  }
  positions.claimed(null, { ...TAKEN, chunks: [at(9_000)], jobs: 1_000, tookMs: 40, nowMs: 5_000 }) // many are slow by themselves
  assert.equal(positions.next(5_001), null)
})

test('a slow claim is followed by claims behind what was taken a quarter of a second before, and by one from the beginning', () => {
  const positions = learnt()
  const [first] = positions.next(1_610)!
  assert.deepEqual(first, { queueId: 1, rank: 0, seq: 999 }) // 1,001 and 1,002 are too young
  for (const nowMs of [1_700, 2_500, 3_000]) {
    const from = positions.next(nowMs)
    assert.notEqual(from, null)
    positions.claimed(from, { ...TAKEN, chunks: [at(nowMs)], jobs: 1, nowMs })
  }
  assert.equal(positions.next(1_600 + 20 * 100), null) // it took 100 ms: a twentieth of the time
  assert.notEqual(positions.next(1_600 + 20 * 100 - 10), null)
})

test('after an empty claim the next one from the beginning comes sooner, and what was quick ends it', () => {
  const positions = learnt()
  positions.claimed(positions.next(1_700), { ...TAKEN, nowMs: 1_700 })
  assert.notEqual(positions.next(1_600 + 5 * 100 - 10), null)
  assert.equal(positions.next(1_600 + 5 * 100), null)
  positions.claimed(null, { ...TAKEN, nowMs: 2_100, tookMs: 1 }) // the snapshot is gone, and so is what was in the way
  assert.equal(positions.next(2_101), null)
})

test('what a claim from the beginning has left is not passed over', () => {
  const positions = learnt()
  positions.claimed(null, { ...SLOW, chunks: [at(500, -1), at(600)], jobs: 2, mayLeave: true, nowMs: 2_000 })
  assert.deepEqual(positions.next(2_001), [{ queueId: 1, rank: 0, seq: 599 }])
  positions.claimed(null, { ...SLOW, chunks: [at(500, -1)], jobs: 1, mayLeave: true, nowMs: 2_002 })
  assert.deepEqual(positions.next(2_003)?.filter(({ rank }) => rank === 0) ?? [], [])
})

test('jobs of groups say nothing of how far a claim came, and what may be claimed now makes everything forgotten', () => {
  const positions = learnt()
  positions.claimed(positions.next(1_700), { ...TAKEN, chunks: [{ ...at(9_000), group: 'g' }], jobs: 1, nowMs: 1_700 })
  for (const nowMs of [2_000, 2_300, 2_600]) assert.ok(positions.next(nowMs)!.every(({ seq }) => seq < 2_000))
  positions.clear()
  assert.equal(positions.next(2_601), null)
})

test('a claim that left nothing passes over what had been dealt a quarter of a second before, of groups too', () => {
  const positions = new ClaimPositions()
  const grouped = [
    { ...at(7), group: 'g' },
    { ...at(7, 0, 2), group: 'g' },
  ]
  positions.claimed(null, { ...SLOW, nowMs: 900 })
  assert.ok(!positions.wantsMark(901), 'one slow claim may have been a stall')
  positions.claimed(null, { ...SLOW, queueIds: [1, 2], chunks: grouped, jobs: 2, nowMs: 1_000 })
  assert.ok(positions.wantsMark(1_001))
  positions.mark(500, 1_001)
  assert.ok(!positions.wantsMark(1_200))
  positions.claimed(null, { ...SLOW, nowMs: 1_200 })
  assert.equal(positions.next(1_201), null) // the mark is too young
  positions.mark(600, 1_300)
  positions.claimed(null, { ...SLOW, mayLeave: true, nowMs: 1_300 })
  assert.equal(positions.next(1_301), null)
  positions.claimed(null, { ...SLOW, nowMs: 1_302 }) // the second queue was not asked
  assert.deepEqual(positions.next(1_303), [{ queueId: 1, rank: 0, seq: 500 }])
  positions.claimed(null, { ...SLOW, chunks: grouped, jobs: 2, mayLeave: true, nowMs: 1_304 })
  assert.equal(positions.next(1_305), null)
})

test('behind positions a claim takes what stands there, in order over the ranks, and leaves what stands before', async () => {
  const it = await openStore()
  try {
    const nodeId = await it.join()
    const first = new Map<number, number>()
    const seqs: number[] = []
    for (const [i, priority] of [0, -5, 0, 3, -5, 0].entries()) {
      first.set(await it.put(1, { priority }), i)
      seqs.push((await it.query<{ seq: number }>('select max(seq)::int as seq from millrace.ready'))[0]!.seq)
    }
    const request = { nodeId, queueIds: [it.queueId], taskIds: [it.taskId], jobsMax: 3, bytesMax: 1e9, group: null }
    const after = [
      { queueId: it.queueId, rank: 5, seq: seqs[1]! },
      { queueId: it.queueId, rank: 0, seq: seqs[0]! },
    ]
    const taken = async () => (await it.store.claim(request, after)).map(({ firstId }) => first.get(firstId))
    assert.deepEqual(await taken(), [3, 2, 5])
    assert.deepEqual(await taken(), [4])
    assert.deepEqual(await taken(), [])
    const rest = await it.store.claim(request)
    assert.deepEqual(
      rest.map(({ firstId }) => first.get(firstId)),
      [0, 1],
    )
  } finally {
    await it.close()
  }
})

/** Jobs that were, and that a session's snapshot keeps in the way of every claim from the beginning. */
async function putInTheWay({ query, url, client }: EngineBundle, count: number): Promise<pg.Client> {
  const snapshot = new pg.Client({ connectionString: url })
  await snapshot.connect()
  await snapshot.query('begin isolation level repeatable read')
  await snapshot.query('select count(*) from pg_class')
  await client.enqueue('echo', 0) // makes the queue and the task
  await query(
    `insert into millrace.ready (first_id, count, rank, queue_id, task_id, bytes, attempt, run, rescues)
     select -i, 1, 0, r.queue_id, r.task_id, 1, 1, 1, 0 from (select * from millrace.ready limit 1) r, generate_series(1, $1) i`,
    [count],
  )
  await query('delete from millrace.ready where first_id < 0')
  return snapshot
}

for (const kind of ['plain', 'grouped'] as const)
  test(`while an old snapshot is held, claims begin behind what was claimed, and a job that becomes visible late is found: ${kind}`, () =>
    withEngines(async (bundle) => {
      const snapshot = await putInTheWay(bundle, 300_000)
      try {
        const engine = await bundle.engine()
        const late = await bundle.connection()
        const group = (name: string) => (kind === 'grouped' ? { group: name } : {})
        await late.query('begin')
        const { id } = await bundle.client.enqueue('echo', 'late', { client: late, ...group('late') })
        let count = 0
        await bundle.until('claims begin behind positions', async () => {
          const job = await bundle.client.enqueue('echo', 1, group(`g${count++}`))
          await bundle.inState(job.id, 'completed')
          return engine.stats().claimsBehind >= 20
        })
        await late.query('commit')
        await bundle.inState(id, 'completed')
        assert.ok(engine.stats().claimsBehind < engine.stats().claims)
      } finally {
        await snapshot.end()
      }
    }))
