// Outcomes to PostgreSQL: as many are buffered and flushed, durably, each an attempt row with a result under a lease that
// is checked; once in a burst, and once as a stream that never stops.

import { systemClock } from '../engine/base/clock.ts'
import { Deadline } from '../engine/base/lifecycle.ts'
import { silentLog } from '../engine/base/log.ts'
import type { Store } from '../engine/store/store.ts'
import type { ClaimedChunk } from '../engine/store/types.ts'
import { Syncer } from '../engine/syncer/syncer.ts'
import { fill, withStore } from './claim.bench.ts'
import type { Harness, Sample } from './harness.ts'
import { monotonicUs } from './peers/system.ts'
import { cost, type Server } from './server.ts'

export const name = 'settle'
export const says = 'outcomes buffered and flushed by COPY, with results, fenced, durable'
export const cases = '[CS-099]'

export async function run(harness: Harness): Promise<void> {
  const server = await harness.server()
  await harness.compare(name, [
    ...[100, 1_000, 10_000].map((count) => ({
      system: 'syncer',
      subject: `buffer and flush ${count.toLocaleString('en')}`,
      settings: { result: '1', chunks: 1_000 },
      sample: () => bursts(server, count, harness.pick(2, 10)),
    })),
    {
      system: 'syncer',
      subject: 'stream',
      settings: { result: '1', chunks: 1_000, jobs: harness.pick(2_000, 200_000) },
      sample: () => stream(server, harness.pick(2_000, 200_000)),
    },
  ])
}

/** The median of several bursts in one database. */
function bursts(server: Server, count: number, times: number): Promise<Sample> {
  return withClaimed(server, count * (times + 1), async (store, nodeId, chunks) => {
    const tookMs: number[] = []
    const jobs = jobsOf(chunks)
    for (let burst = 0; burst <= times; burst++) {
      const startUs = monotonicUs()
      const syncer = syncerOn(store, nodeId, burst)
      await syncer.start()
      for (let at = 0; at < count; at++) complete(syncer, jobs.next().value!)
      await syncer.flush()
      if (burst > 0) tookMs.push((monotonicUs() - startUs) / 1e3) // the first one warms up
      await syncer.stop(new Deadline(systemClock, 10_000))
    }
    const totalMs = tookMs.sort((a, b) => a - b)[Math.floor(tookMs.length / 2)]!
    return { opsPerSecond: count / (totalMs / 1e3), totalMs }
  })
}

/** As fast as the buffer has room. */
function stream(server: Server, count: number): Promise<Sample> {
  return withClaimed(server, count, async (store, nodeId, chunks) => {
    await server.checkpoint()
    const before = await server.meter()
    const startUs = monotonicUs()
    const syncer = syncerOn(store, nodeId, 0)
    await syncer.start()
    for (const job of jobsOf(chunks)) {
      while (!syncer.outcomes.hasRoom()) await new Promise((resolve) => setImmediate(resolve))
      complete(syncer, job)
    }
    await syncer.flush()
    const tookUs = monotonicUs() - startUs
    await syncer.stop(new Deadline(systemClock, 10_000))
    const spent = cost(before, await server.meter())
    return {
      opsPerSecond: count / (tookUs / 1e6),
      ...(spent.cpuMs === null ? {} : { serverCpuUs: (spent.cpuMs * 1e3) / count }),
      walBytes: spent.walBytes / count,
      totalMs: tookUs / 1e3,
    }
  })
}

/** Claims `count` jobs, lets `work` settle all of them, and checks that they are. */
function withClaimed(
  server: Server,
  count: number,
  work: (store: Store, nodeId: number, chunks: readonly ClaimedChunk[]) => Promise<Sample>,
): Promise<Sample> {
  return withStore(server, async (store, nodeId, queueId, taskId) => {
    await fill(store, queueId, taskId, count, 1_000)
    const chunks: ClaimedChunk[] = []
    const request = {
      nodeId,
      queueIds: [queueId],
      taskIds: null,
      jobsMax: 5_000,
      bytesMax: 64 * 1024 * 1024,
      group: null,
    }
    for (let claimed = 0; claimed < count; ) {
      const more = await store.claim(request)
      if (more.length === 0) throw new Error(`bench: only ${claimed} of ${count} jobs could be claimed`)
      for (const chunk of more) claimed += chunk.count
      chunks.push(...more)
    }
    const sample = await work(store, nodeId, chunks)
    const [found] = await store.ask<{ attempts: number; leases: number }>(
      `select (select count(*) from millrace.attempt where outcome = 'c') as attempts,
              (select count(*) from millrace.lease) as leases`,
    )
    if (Number(found!.attempts) !== count || Number(found!.leases) !== 0)
      throw new Error(`bench: ${found!.attempts} of ${count} outcomes are stored, ${found!.leases} leases are left`)
    return sample
  })
}

function syncerOn(store: Store, nodeId: number, run: number): Syncer {
  const numbersPerRun = 1_000_000 // flush numbers of one node only rise
  return new Syncer(
    {
      flush: (flush) => store.flush(nodeId, { ...flush, no: run * numbersPerRun + flush.no }),
      writeStats: async () => {},
      nodeId: () => nodeId,
    },
    {
      put: async () => {},
      putDead: async ({ message }) => {
        throw new Error(`bench: PostgreSQL refused an outcome: ${message}`)
      },
    },
    {},
    systemClock,
    silentLog,
  )
}

interface OneJob {
  readonly chunk: ClaimedChunk
  readonly id: number
}

function* jobsOf(chunks: readonly ClaimedChunk[]): Generator<OneJob, undefined> {
  for (const chunk of chunks) for (let at = 0; at < chunk.count; at++) yield { chunk, id: chunk.firstId + at }
  return undefined
}

const RESULT = Buffer.from('1')

function complete(syncer: Syncer, { chunk, id }: OneJob): void {
  const nowMs = systemClock.wallMs()
  syncer.outcomes.completed(chunk, id, 0, nowMs, nowMs, RESULT, 0, RESULT.length)
}
