// Claims against PostgreSQL, nothing run: how fast jobs come out of the queue with their payloads, from chunks of 1,000
// (bulk) and from chunks of one (single enqueues), a thousand and a few at a time.

import { randomUUID } from 'node:crypto'
import { systemClock } from '../engine/base/clock.ts'
import { CHUNK_JOBS_MAX } from '../engine/base/limits.ts'
import { Store } from '../engine/store/store.ts'
import type { NewChunk } from '../engine/store/types.ts'
import type { Harness, Sample } from './harness.ts'
import { monotonicUs } from './peers/system.ts'
import { cost, type Server } from './server.ts'

export const name = 'claim'
export const says = 'claims: jobs out of the queue, with their payloads'

const QUEUE = 'bench'
const TASK = 'bench-noop'

export async function run(harness: Harness): Promise<void> {
  const server = await harness.server()
  const jobs = harness.pick(2_000, 100_000)
  await harness.compare(
    name,
    [
      { chunk: CHUNK_JOBS_MAX, jobsMax: 5_000 },
      { chunk: CHUNK_JOBS_MAX, jobsMax: 500 },
      { chunk: 1, jobsMax: 1_000 },
      { chunk: 1, jobsMax: 10 },
    ].map(({ chunk, jobsMax }) => {
      const count = jobsMax < 100 ? Math.min(jobs, 5_000) : jobs
      return {
        system: 'store',
        subject: `chunks of ${chunk.toLocaleString('en')}, ${jobsMax.toLocaleString('en')} at a time`,
        settings: { jobs: count },
        sample: () => claimAll(server, count, chunk, jobsMax),
      }
    }),
  )
}

/** A store in a database of its own, migrated, with a node and a queue. */
export async function withStore<T>(
  server: Server,
  work: (store: Store, nodeId: number, queueId: number, taskId: number, url: string) => Promise<T>,
): Promise<T> {
  return server.withDatabase(async (url) => {
    const store = new Store({
      url,
      schema: 'millrace',
      clock: systemClock,
      timeoutMs: 60_000,
      prepared: true,
      name: 'bench',
    })
    try {
      await store.migrate()
      const [queueId] = await store.queueIds([QUEUE])
      const [taskId] = await store.taskIds([TASK])
      const nodeId = await store.join({
        uid: randomUUID(),
        host: 'bench',
        machine: 'bench',
        pid: process.pid,
        version: '0',
        threads: 1,
        limitMs: 600_000,
      })
      return await work(store, nodeId, queueId!, taskId!, url)
    } finally {
      await store.close()
    }
  })
}

/** Writes `count` jobs, in chunks of `size`. */
export async function fill(store: Store, queueId: number, taskId: number, count: number, size: number): Promise<void> {
  const perCall = 10 * CHUNK_JOBS_MAX
  for (let done = 0; done < count; done += perCall) {
    const here = Math.min(perCall, count - done)
    const firsts = await store.reserveBlocks(Math.ceil(here / CHUNK_JOBS_MAX))
    const chunks: NewChunk[] = []
    for (let at = 0; at < here; at += size) {
      const block = Math.floor(at / CHUNK_JOBS_MAX)
      const jobs = Math.min(size, here - at)
      chunks.push({
        firstId: firsts[block]! + (at - block * CHUNK_JOBS_MAX),
        count: jobs,
        queueId,
        taskId,
        priority: 0,
        runAtMs: null,
        expiresAtMs: null,
        maxAttempts: 3,
        timeoutMs: null,
        retry: null,
        group: null,
        groupLimit: null,
        retrySkips: false,
        key: null,
        ephemeral: false,
        meta: null,
        payloads: Array.from({ length: jobs }, (_, i) => `{"id":${done + at + i},"name":"x"}`),
      })
    }
    await store.copyChunks(chunks)
  }
}

/** Jobs one by one, by SQL: a million within seconds. Autovacuum would have looked at so many; here it is told to. */
export async function fillFast(
  store: Store,
  queueId: number,
  taskId: number,
  jobs: number,
  groups: number,
): Promise<void> {
  const group = groups > 0 ? `'g' || i % ${groups}` : 'null'
  const place = `0, ${queueId}, ${taskId}, 20, 1, 1, 0, ${group}`
  await store.ask(`insert into millrace.job (id, queue_id, task_id, payload_bytes, priority, max_attempts, payload, group_key)
    select i, ${queueId}, ${taskId}, 20, 0, 3, '{"id":1,"name":"x"}', ${group} from generate_series(1, ${jobs}) i`)
  if (groups > 0)
    await store.ask(`insert into millrace.blocked (job_id, rank, queue_id, task_id, bytes, attempt, run, rescues, group_key)
      select i, ${place} from generate_series(1, ${jobs}) i`)
  // a job of a group waits behind its group, and a ticket (count 0, below zero) asks for it
  await store.ask(`insert into millrace.ready (first_id, count, rank, queue_id, task_id, bytes, attempt, run, rescues, group_key)
    select ${groups > 0 ? '-i, 0' : 'i, 1'}, ${place} from generate_series(1, ${jobs}) i`)
  for (const table of ['job', 'ready', 'blocked']) await store.ask(`analyze millrace.${table}`)
}

function claimAll(server: Server, count: number, chunk: number, jobsMax: number): Promise<Sample> {
  return withStore(server, async (store, nodeId, queueId, taskId) => {
    await fill(store, queueId, taskId, count, chunk)
    await server.checkpoint()
    const before = await server.meter()
    const request = { nodeId, queueIds: [queueId], taskIds: null, jobsMax, bytesMax: 64 * 1024 * 1024, group: null }
    const startUs = monotonicUs()
    let claimed = 0
    while (claimed < count) {
      const chunks = await store.claim(request)
      if (chunks.length === 0) throw new Error(`bench: the queue is empty after ${claimed} of ${count} jobs`)
      for (const one of chunks) claimed += one.count
    }
    const tookUs = monotonicUs() - startUs
    const spent = cost(before, await server.meter())
    if (claimed !== count) throw new Error(`bench: ${claimed} jobs were claimed, not ${count}`)
    return {
      jobsPerSecond: count / (tookUs / 1e6),
      ...(spent.cpuMs === null ? {} : { serverCpuUs: (spent.cpuMs * 1e3) / count }),
      walBytes: spent.walBytes / count,
    }
  })
}
