// BullMQ on its PostgreSQL backend: high concurrency and a pool to match, as its guide advises. Completed jobs and their
// return values are kept. Handlers run on the main thread of its process; for computing work it documents sandboxed
// processors in worker threads, which is what the `cpu` purpose uses.

import { fileURLToPath } from 'node:url'
import { createPostgresBackend, runMigrations, withBackend } from 'bullmq'
import pg from 'pg'
import { Ledger, type Payload, payloads, type System, TASK } from './system.ts'

const { Queue, Worker } = withBackend(createPostgresBackend)

const CONCURRENCY = 32
const POOL = 10

const connection = (url: string) => ({ connectionString: url, max: POOL })

export const system: System = {
  name: 'bullmq',
  packages: ['bullmq', 'pg'],
  settings: (purpose, threads) =>
    purpose === 'cpu'
      ? { backend: 'postgres', poolMax: POOL, sandbox: 'worker threads', concurrency: threads }
      : { backend: 'postgres', poolMax: POOL, concurrency: CONCURRENCY },
  share: 0.05,
  bulkBatch: 1_000,
  bulkInFlight: 4,

  async prepare(url) {
    const pool = new pg.Pool({ connectionString: url })
    const client = await pool.connect()
    try {
      await runMigrations(client)
    } finally {
      client.release()
      await pool.end()
    }
  },

  async openProducer(url) {
    const queue = new Queue<Payload>(TASK, { connection: connection(url) })
    await queue.waitUntilReady()
    return {
      enqueue: (id) => queue.add(TASK, { id, name: 'x' }),
      enqueueMany: (firstId, count) => queue.addBulk(payloads(firstId, count).map((data) => ({ name: TASK, data }))),
      close: () => queue.close(),
    }
  },

  async startWorker(url, plan) {
    const ledger = new Ledger(plan)
    const cpu = plan.purpose === 'cpu'
    const worker = new Worker<Payload>(
      TASK,
      cpu
        ? fileURLToPath(new URL('./bullmq-sandbox.js', import.meta.url))
        : async (job) => {
            ledger.note(job.data.id)
          },
      { connection: connection(url), concurrency: cpu ? plan.threads : CONCURRENCY, useWorkerThreads: cpu },
    )
    worker.on('error', (error) => console.error('bullmq:', error))
    if (cpu) worker.on('completed', (job) => ledger.note(job.data.id))
    await worker.waitUntilReady()
    return { allRan: () => ledger.allRan(), stop: () => worker.close(), tally: async () => ledger.tally() }
  },

  async unfinished(url, total) {
    const client = new pg.Client({ connectionString: url })
    await client.connect()
    const { rows } = await client.query<{ n: string }>(
      `select count(*) as n from bullmq.job where queue = $1 and state = 'completed'`,
      [TASK],
    )
    await client.end()
    return total - Number(rows[0]!.n)
  },
}
