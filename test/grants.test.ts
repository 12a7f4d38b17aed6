// Grants of a lane: main gives and takes back, the thread takes, all three without a lock. Two real threads, flat out: what
// was granted was taken once or came back once.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import { Worker } from 'node:worker_threads'
import { createLaneMemory, grantMore, RING_BYTES_MIN, revokeAll } from '../threads/layout.ts'

const GRANTS = 400_000
const AT_ONCE = 3

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
  while (granted < GRANTS) {
    grantMore(memory.header, AT_ONCE)
    granted += AT_ONCE
    cameBack += revokeAll(memory.header)
  }
  Atomics.store(shared, 1, 1)
  await once(worker, 'exit')
  cameBack += revokeAll(memory.header)
  const taken = Atomics.load(shared, 0)
  assert.equal(taken + cameBack, granted)
  assert.ok(taken > 0 && cameBack > 0, `${taken} taken, ${cameBack} came back: the two did not meet`)
})
