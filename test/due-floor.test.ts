// Promotions that begin behind what was promoted and cannot be removed yet.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DueFloor, type Promotion } from '../engine/claimer/due-floor.ts'
import { openStore } from './support/store.ts'

const promotion = (change: Partial<Promotion>): Promotion => ({
  moved: 0,
  mayLeave: false,
  atWallMs: 100_000,
  tookMs: 50,
  nowMs: 10_000,
  ...change,
})

/** Two slow ones from the beginning: from then on their cost is believed. */
function slow(): DueFloor {
  const floor = new DueFloor()
  floor.promoted(null, promotion({}))
  assert.equal(floor.next(10_001), null, 'one alone may have been a stall')
  floor.promoted(null, promotion({}))
  return floor
}

test('as long as promotions are quick, every one is from the beginning', () => {
  const floor = new DueFloor()
  assert.equal(floor.next(0), null)
  floor.promoted(null, promotion({ tookMs: 5 }))
  assert.equal(floor.next(10_001), null)
  floor.promoted(null, promotion({ tookMs: 50, moved: 1_000 })) // many take their time
  assert.equal(floor.next(10_001), null)
})

test('a slow one is followed by some that begin a second before it, and by one from the beginning', () => {
  const floor = slow()
  assert.equal(floor.next(10_001), 99_000)
  floor.promoted(99_000, promotion({ atWallMs: 100_500, nowMs: 10_500, tookMs: 1 }))
  assert.equal(floor.next(10_501), 99_500)
  assert.equal(floor.next(11_000), null)
  floor.promoted(null, promotion({ tookMs: 80, nowMs: 11_000 }))
  floor.promoted(null, promotion({ tookMs: 80, nowMs: 11_000 }))
  assert.notEqual(floor.next(12_599), null) // a twentieth of the time
  assert.equal(floor.next(12_600), null)
})

test('however slow they are, one from the beginning follows within two seconds; after clear() at once', () => {
  const floor = slow()
  for (let i = 0; i < 2; i++) floor.promoted(null, promotion({ tookMs: 3_000 }))
  assert.notEqual(floor.next(11_999), null)
  assert.equal(floor.next(12_000), null)
  floor.clear()
  assert.equal(floor.next(10_001), null)
})

test('what was left of more than one promotion moves is not passed over', () => {
  const floor = slow()
  floor.promoted(99_000, promotion({ atWallMs: 100_500, mayLeave: true, moved: 10_000 }))
  assert.equal(floor.next(10_501), 99_000)
  floor.promoted(null, promotion({ mayLeave: true, moved: 10_000, tookMs: 900 }))
  assert.equal(floor.next(10_501), null)
})

test('a promotion moves what is due behind its beginning, and tells of the next; one from the beginning moves the rest', async () => {
  const it = await openStore()
  try {
    const now = (await it.query<{ ms: number }>('select extract(epoch from now())::float8 * 1000 as ms'))[0]!.ms
    const [old, young] = [await it.put(1, { runAtMs: now + 60_000 }), await it.put(1, { runAtMs: now + 60_001 })]
    await it.put(1, { runAtMs: now + 3_600_000 })
    await it.query(`update millrace.scheduled set run_at = now() - interval '10 s' where first_id = ${old}`)
    await it.query(`update millrace.scheduled set run_at = now() - interval '1 s' where first_id = ${young}`)
    const ready = async () =>
      (await it.query<{ id: number }>('select first_id::int as id from millrace.ready')).map(({ id }) => id)
    const first = await it.store.promote(100, now - 5_000)
    assert.equal(first.moved, 1)
    assert.ok(first.nextInMs! > 3_500_000, String(first.nextInMs))
    assert.ok(first.nowMs >= now)
    assert.deepEqual(await ready(), [young])
    assert.equal((await it.store.promote(100)).moved, 1)
    assert.deepEqual((await ready()).sort(), [old, young].sort())
    const nodeId = await it.join()
    const request = { nodeId, queueIds: [it.queueId], taskIds: null, jobsMax: 10, bytesMax: 1e9 }
    await it.query(`update millrace.scheduled set run_at = now() - interval '10 s'`)
    assert.equal((await it.store.claimAhead(request, 1_000, now - 5_000)).nextInMs, null)
    assert.ok((await it.store.claimAhead(request, 1_000)).nextInMs! < 0)
  } finally {
    await it.close()
  }
})
