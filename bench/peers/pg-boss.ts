// pg-boss at its documented best: batches of 1,000, fetched again at once while they come back full; for latency, LISTEN
// and NOTIFY. Its maintenance is off, as nothing expires during a measurement. Completed jobs stay in its table; handlers
// run on the main thread of its process. A batch of a transactional worker is one transaction: its jobs end together, or
// none of them. Batches of one are fetched no faster than it polls, so two are the fewest that are measured.

import pg from 'pg'
import { type Db, type Job, PgBoss } from 'pg-boss'
import { checkEffects, createEffects, EFFECT, hasEffects } from './effect.ts'
import { compute, Ledger, type Payload, type Purpose, payloads, type System, TASK } from './system.ts'

const OFF = { supervise: false, schedule: false }

/** Batches under way at once, where each holds a connection for its transaction. */
const TRANSACTIONS = { complete: 16, 'complete-many': 4 }

function connections(purpose: Purpose): { max?: number } {
  return purpose === 'complete' || purpose === 'complete-many' ? { max: TRANSACTIONS[purpose] + 8 } : {}
}

function workOptions(purpose: Purpose) {
  if (purpose === 'latency') return { batchSize: 100 }
  const eager = { pollingIntervalSeconds: 0.5, burstWhenBatchFull: true }
  if (purpose === 'complete' || purpose === 'complete-many') {
    const batchSize = purpose === 'complete' ? 2 : 100
    return { batchSize, ...eager, localConcurrency: TRANSACTIONS[purpose], transactional: true }
  }
  return { batchSize: 1_000, ...eager, localConcurrency: 2 }
}

async function open(url: string, purpose: Purpose): Promise<PgBoss> {
  const boss = new PgBoss({
    connectionString: url,
    ...OFF,
    ...connections(purpose),
    useListenNotify: purpose === 'latency',
  })
  boss.on('error', (error) => console.error('pg-boss:', error))
  await boss.start()
  return boss
}

export const system: System = {
  name: 'pg-boss',
  packages: ['pg-boss', 'pg'],
  settings: (purpose) => ({ ...OFF, ...connections(purpose), ...workOptions(purpose), notify: purpose === 'latency' }),
  share: 1,
  bulkBatch: 1_000,
  bulkInFlight: 2,

  async prepare(url, purpose) {
    const boss = await open(url, purpose)
    await boss.createQueue(TASK, { notify: purpose === 'latency' })
    await boss.stop({ graceful: false })
    if (hasEffects(purpose)) await createEffects(url)
  },

  async openProducer(url, purpose) {
    const boss = await open(url, purpose)
    return {
      enqueue: (id) => boss.send(TASK, { id, name: 'x' }),
      enqueueMany: (firstId, count) =>
        boss.insert(
          TASK,
          payloads(firstId, count).map((data) => ({ data })),
        ),
      close: () => boss.stop({ graceful: false }),
    }
  },

  async startWorker(url, plan) {
    const ledger = new Ledger(plan)
    const boss = await open(url, plan.purpose)
    await boss.work<Payload>(TASK, workOptions(plan.purpose), async (jobs: Job<Payload>[], tx?: Db) => {
      for (const job of jobs) {
        ledger.note(job.data.id)
        if (plan.purpose === 'cpu') compute(job.data.id)
        if (tx !== undefined) await tx.executeSql(EFFECT, [job.data.id])
      }
    })
    return {
      allRan: () => ledger.allRan(),
      stop: () => boss.stop({ graceful: true, timeout: 30_000 }),
      tally: async () => {
        if (hasEffects(plan.purpose)) await checkEffects(url, plan.count)
        return ledger.tally()
      },
    }
  },

  async unfinished(url, total) {
    const client = new pg.Client({ connectionString: url })
    await client.connect()
    const { rows } = await client.query<{ n: string }>(
      `select count(*) as n from pgboss.job where name = $1 and state = 'completed'`,
      [TASK],
    )
    await client.end()
    return total - Number(rows[0]!.n)
  },
}
