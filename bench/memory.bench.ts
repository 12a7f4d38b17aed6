// Memory of one orchestrator, everything that comes with it included (its share of the chunk, payload text, table,
// look-up and lane), and of one outcome that waits to be written. Measured as the growth of the heap and of everything
// outside it, after a full collection before and after.

import { setMaxListeners } from 'node:events'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { systemClock } from '../engine/base/clock.ts'
import { Deadline } from '../engine/base/lifecycle.ts'
import { silentLog } from '../engine/base/log.ts'
import { Syncer } from '../engine/syncer/syncer.ts'
import { chunksOf, handScheduler } from './hand-scheduler.ts'
import type { Harness } from './harness.ts'

export const name = 'memory'
export const says = 'memory per orchestrator and per buffered outcome'
export const cases = '[CS-103] [CS-104]'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

const THINGS_MIN = 10_000

export async function run(harness: Harness): Promise<void> {
  // Once for what only the first one leaves behind: compiled code, shapes, pools.
  orchestrators(1_000)
  await outcomes(1_000)
  await harness.compare(name, [
    ...[100, 1_000, 10_000, ...harness.pick([], [100_000])].map((count) => ({
      system: 'scheduler',
      subject: `${count.toLocaleString('en')} orchestrators`,
      settings: { payload: '{"id":n,"name":"x"}' },
      sample: async () => ({ bytesEach: orchestrators(count) }),
    })),
    ...[1_000, 10_000, ...harness.pick([], [100_000])].map((count) => ({
      system: 'syncer',
      subject: `${count.toLocaleString('en')} outcomes`,
      settings: { result: '1' },
      sample: async () => ({ bytesEach: await outcomes(count) }),
    })),
  ])
}

/** Few are too little to be seen: as many schedulers as make THINGS_MIN of them. */
function orchestrators(count: number): number {
  const hands = copies(count, () => handScheduler({ lanes: Math.ceil(count / 1_000) }))
  try {
    const before = used()
    for (const { scheduler } of hands) {
      scheduler.arrive(chunksOf(count))
      scheduler.iteration()
    }
    const bytes = used() - before
    for (const hand of hands) hand.expectActive(count)
    return bytes / (count * hands.length)
  } finally {
    for (const hand of hands) hand.close()
  }
}

/** PostgreSQL does not answer, so everything stays. */
async function outcomes(count: number): Promise<number> {
  const away = new AbortController()
  setMaxListeners(0, away.signal)
  const needs = {
    flush: () =>
      new Promise<never>((_, reject) => away.signal.addEventListener('abort', () => reject(new Error('it is over')))),
    writeStats: async () => {},
    nodeId: () => 1,
  }
  const nowhere = { put: async () => {}, putDead: async () => {} }
  const syncers = copies(
    count,
    () => new Syncer(needs, nowhere, { updatesBufferedMax: 2 * count }, systemClock, silentLog),
  )
  const chunks = chunksOf(count)
  const result = Buffer.from('1')
  const nowMs = systemClock.wallMs()
  for (const syncer of syncers) await syncer.start()
  const before = used()
  for (const { outcomes } of syncers)
    for (const chunk of chunks)
      for (let at = 0; at < chunk.count; at++)
        outcomes.completed(chunk, chunk.firstId + at, 0, nowMs, nowMs, result, 0, result.length)
  const bytes = used() - before
  for (const syncer of syncers)
    if (syncer.stats().heldUpdates !== count) throw new Error('bench: an outcome did not stay in the buffer')
  const stopped = syncers.map((syncer) => syncer.finish(new Deadline(systemClock, 0)))
  away.abort()
  await Promise.all(stopped)
  return bytes / (count * syncers.length)
}

function copies<T>(count: number, make: () => T): T[] {
  return Array.from({ length: Math.max(1, Math.floor(THINGS_MIN / count)) }, make)
}

function used(): number {
  collect()
  collect() // what the first one has finalised
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}
