// The writing thread of the ring's benchmark.

import { parentPort, workerData } from 'node:worker_threads'
import { openLaneMemory } from '../threads/layout.ts'
import { RingWriter } from '../threads/ring.ts'

const { shared, count, kind, bodyBytes } = workerData as {
  shared: SharedArrayBuffer
  count: number
  kind: number
  bodyBytes: number
}
const memory = openLaneMemory(shared)
const writer = new RingWriter(memory)
parentPort!.once('message', () => {
  for (let at = 0; at < count; at++) {
    let place = writer.reserve(bodyBytes, 1_000)
    while (place < 0) place = writer.reserve(bodyBytes, 1_000)
    memory.words[place >>> 2] = at
    writer.publish(kind, bodyBytes)
  }
})
parentPort!.postMessage('ready')
