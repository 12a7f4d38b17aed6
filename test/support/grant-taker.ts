// A thread that takes every grant of a lane that it can get, and counts them, for test/grants.test.ts.

import { parentPort, workerData } from 'node:worker_threads'
import { openLaneMemory, takeOne } from '../../threads/layout.ts'

if (parentPort !== null && workerData !== null) {
  const { lane, shared } = workerData as { lane: SharedArrayBuffer; shared: SharedArrayBuffer }
  const { header } = openLaneMemory(lane)
  const counts = new Int32Array(shared)
  parentPort.postMessage('takes')
  let taken = 0
  while (Atomics.load(counts, 1) === 0) if (takeOne(header)) taken++
  Atomics.store(counts, 0, taken)
}
