// The ring between a thread and main: records written and read in one thread, as reports with their fields and a small
// result, and across threads with a writer that never rests.

import { MessageChannel, Worker } from 'node:worker_threads'
import type { ReportSink } from '../threads/lanes.ts'
import { createLaneMemory, RING_BYTES_DEFAULT } from '../threads/layout.ts'
import { ReportReader, ReportWriter } from '../threads/messages.ts'
import { type RecordVisitor, RingReader, RingWriter } from '../threads/ring.ts'
import type { Harness, Sample } from './harness.ts'
import { monotonicUs } from './peers/system.ts'
import { perThing } from './tiny.ts'

export const name = 'ring'
export const says = 'records through a ring, within one thread and from another'

const RECORDS = 1_000
const KIND = 1
const BODY_BYTES = 56 // a record of 64 with its head

export async function run(harness: Harness): Promise<void> {
  await harness.compare(name, [
    { system: 'ring', subject: 'write + read', settings: { recordBytes: 64 }, sample: () => bare(harness) },
    { system: 'ring', subject: 'report + sink', settings: { result: '1' }, sample: () => reports(harness) },
    {
      system: 'ring',
      subject: 'from a thread',
      settings: { recordBytes: 64, ringBytes: RING_BYTES_DEFAULT },
      sample: () => across(harness.pick(20_000, 2_000_000)),
    },
  ])
}

class Counting implements RecordVisitor {
  seen = 0

  record(): void {
    this.seen++
  }
}

function bare(harness: Harness): Promise<Sample> {
  const memory = createLaneMemory(RING_BYTES_DEFAULT)
  const writer = new RingWriter(memory)
  const reader = new RingReader(memory)
  const visitor = new Counting()
  return perThing(harness, {
    perCall: RECORDS,
    run: () => {
      for (let at = 0; at < RECORDS; at++) {
        const place = writer.tryReserve(BODY_BYTES)
        memory.words[place >>> 2] = at
        writer.publish(KIND, BODY_BYTES)
      }
      if (reader.drain(RECORDS, visitor) !== RECORDS) throw new Error('bench: a record is missing')
    },
  })
}

async function reports(harness: Harness): Promise<Sample> {
  const memory = createLaneMemory(RING_BYTES_DEFAULT)
  const bulk = new MessageChannel()
  const writer = new ReportWriter(memory, new RingWriter(memory), bulk.port2, () => {})
  const ring = new RingReader(memory)
  const reader = new ReportReader(0, memory, bulk.port1)
  let completed = 0
  const sink: ReportSink = {
    started: () => {},
    completed: () => {
      completed++
    },
    failed: () => {},
    completing: () => {},
    heartbeat: () => {},
    progress: () => {},
    log: () => {},
  }
  reader.sink = sink
  try {
    return await perThing(harness, {
      perCall: RECORDS,
      run: () => {
        completed = 0
        for (let at = 0; at < RECORDS; at++) writer.completed(at, 1, 1_700_000_000_000, 0.5, '1')
        ring.drain(RECORDS, reader)
        if (completed !== RECORDS) throw new Error('bench: a report is missing')
      },
    })
  } finally {
    bulk.port1.close()
  }
}

/** Main reads as the loop does: whatever is there, then a turn of the event loop. */
async function across(count: number): Promise<Sample> {
  const memory = createLaneMemory(RING_BYTES_DEFAULT)
  const reader = new RingReader(memory)
  const visitor = new Counting()
  const thread = new Worker(new URL('./ring-thread.js', import.meta.url), {
    workerData: { shared: memory.shared, count, kind: KIND, bodyBytes: BODY_BYTES },
  })
  try {
    await new Promise((resolve, reject) => {
      thread.once('message', resolve)
      thread.once('error', reject)
    })
    thread.postMessage('go')
    const startUs = monotonicUs()
    while (visitor.seen < count) {
      if (reader.drain(count, visitor) === 0) await new Promise((resolve) => setImmediate(resolve))
    }
    return { opsPerSecond: count / ((monotonicUs() - startUs) / 1e6) }
  } finally {
    await thread.terminate()
  }
}
