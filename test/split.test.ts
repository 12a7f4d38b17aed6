// Taking a flush apart by job, and putting parts of it together again.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { OutcomePage } from '../engine/syncer/outcome-page.ts'
import { flushOf, substituteOf, unitsOf } from '../engine/syncer/split.ts'
import { chunkOf, rowsOf } from './support/flush-model.ts'

function mixed() {
  const page = new OutcomePage()
  const chunk = chunkOf(1, { keyed: true })
  const bytes = Buffer.from('{"code":"X"}')
  const { length } = bytes
  page.completed(5, chunk, 1, 0, 1, 2, bytes, 0, length)
  page.failed(5, chunk, 2, 'f', 'X', 0, 1, 2, bytes, 0, length, 10)
  page.failed(5, chunk, 3, 'f', 'X', 0, 1, 2, bytes, 0, length, -1)
  page.release(5, chunk, 4, 3, true, 0, 1, 2)
  page.release(5, chunk, 7, 5, false, -1, 0, 2)
  page.completed(5, chunkOf(20, { ephemeral: true, leaseId: 2 }), 20, 0, 1, 2, bytes, 0, 0)
  page.running(chunkOf(30, { leaseId: 3 }), 30, 0, 1, null)
  return page.toFlush(8)
}

test('the units of a flush, put together again, are the same flush', () => {
  const flush = mixed()
  const again = flushOf(8, unitsOf(flush))
  const releases = again.releases.map(({ firstId, count, run }) => [firstId, count, run])
  assert.deepEqual(releases.sort(), [
    [4, 1, 2],
    [5, 1, 2],
    [6, 1, 2],
    [7, 5, 1],
  ])
  assert.deepEqual({ ...again, releases: flush.releases }, flush)
})

test('each unit alone says everything about its job, and ends it once', () => {
  const units = unitsOf(mixed())
  const alone = units.map((unit) => flushOf(1, [unit]))
  assert.deepEqual(
    alone.map((flush) => [rowsOf(flush)[0]?.jobId ?? null, flush.leaseIds[0], flush.leaseDone[0]]),
    [
      [1, 1, 1],
      [2, 1, 1],
      [3, 1, 1],
      [4, 1, 1],
      [5, 1, 1],
      [6, 1, 1],
      [null, 2, 1],
      [null, 3, 0],
      [null, 1, 5],
    ],
  )
  for (const flush of alone.slice(3, 6)) assert.equal(flush.releases[0]!.firstId, rowsOf(flush)[0]!.jobId)
  assert.equal(alone[1]!.retries.length, 1)
  assert.deepEqual([alone[2]!.deads.length, alone[2]!.finished.length], [1, 1])
  assert.equal(alone[6]!.finished.length, 1)
  assert.equal(alone[7]!.running.length, 1)
})

test('a substitute exists for what a handler said, and only for that', () => {
  const substitutes = unitsOf(mixed()).map((unit) => substituteOf(unit, 'STORE_FAILED', 'no', {}))
  const kinds = substitutes.map((unit) =>
    unit === null ? null : [unit.dead?.code ?? null, unit.retry !== null, unit.finished !== null],
  )
  assert.deepEqual(kinds, [
    ['STORE_FAILED', false, true],
    [null, true, false],
    ['X', false, true],
    null,
    null,
    null,
    null,
    null,
    null,
  ])
})
