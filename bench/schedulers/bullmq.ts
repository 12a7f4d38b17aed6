// BullMQ's job schedulers on its PostgreSQL backend, with the concurrency and the pool of the other benchmarks. Ten calls
// are in flight while schedules are made; there is no call for many.

import { createPostgresBackend, withBackend } from 'bullmq'
import { system } from '../peers/bullmq.ts'
import { inFlight, type Scheduler, Starts } from './scheduler.ts'

const { Queue, Worker } = withBackend(createPostgresBackend)

const NAME = 'bench-schedules'
const POOL = 10
const CONCURRENCY = 32

export const scheduler: Scheduler = {
  name: 'bullmq',
  packages: ['bullmq', 'pg'],
  settings: { backend: 'postgres', poolMax: POOL, concurrency: CONCURRENCY, callsInFlight: POOL },
  takesMax: 500,
  runsMax: Number.POSITIVE_INFINITY,
  grain: 'second',
  prepare: (url) => system.prepare(url, 'latency'),

  async open(url, runs) {
    const connection = { connectionString: url, max: POOL }
    const starts = new Starts()
    const queue = new Queue<{ at: number }>(NAME, { connection })
    await queue.waitUntilReady()
    if (runs) {
      const run = async (job: { data: { at: number } }) => starts.note(job.data.at)
      const worker = new Worker<{ at: number }>(NAME, run, { connection, concurrency: CONCURRENCY })
      worker.on('error', (error) => console.error('bullmq:', error))
      await worker.waitUntilReady()
    }
    return {
      register: (plans) =>
        inFlight(plans, POOL, ({ at, cron }) =>
          queue.upsertJobScheduler(`s${at}`, { pattern: cron, tz: 'UTC' }, { name: NAME, data: { at } }),
        ),
      started: (count) => starts.all(count),
    }
  },
}
