// Grants of a lane: main gives and takes back, the thread takes, all three without a lock. Two real threads, flat out: what
// was granted was taken once or came back once.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import { Worker } from 'node:worker_threads'
import { createLaneMemory, grantMore, RING_BYTES_MIN, revokeAll } from '../threads/layout.ts'

const AT_ONCE = 3
/** Rounds in which the thread was amid its grants when main took the rest back. */
const MEETINGS = 500
/** On a machine whose cores are busy the two may hardly ever run at once: then so long is enough. */
const MS_MAX = 8_000

test('however fast main grants and takes back while a thread takes, every grant is taken once or comes back once', {
  timeout: 120_000,
}, async () => {
  const memory = createLaneMemory(RING_BYTES_MIN)
  const shared = new Int32Array(new SharedArrayBuffer(8)) // [taken, the end]
  const worker = new Worker(new URL('./support/grant-taker.js', import.meta.url), {
    workerData: { lane: memory.shared, shared: shared.buffer },
  })
  await once(worker, 'message') // it takes
  let granted = 0
  let cameBack = 0
  let meetings = 0
  const untilMs = performance.now() + MS_MAX
  for (let round = 0; meetings < MEETINGS && (round % 1_000 > 0 || performance.now() < untilMs); round++) {
    grantMore(memory.header, AT_ONCE)
    granted += AT_ONCE
    for (let turns = round % 200; turns > 0; turns--) Atomics.load(shared, 1) // the thread needs a moment to see it
    const back = revokeAll(memory.header)
    cameBack += back
    if (back > 0 && back < AT_ONCE) meetings++
  }
  Atomics.store(shared, 1, 1)
  await once(worker, 'exit')
  cameBack += revokeAll(memory.header)
  const taken = Atomics.load(shared, 0)
  assert.equal(taken + cameBack, granted)
  assert.ok(taken > 0 && cameBack > 0, `${taken} taken, ${cameBack} came back`)
})
