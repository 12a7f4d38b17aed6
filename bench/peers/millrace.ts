// Ours, through its public interface, with its defaults. Handlers run on worker threads, so what ran is read back from
// the database: the attempt log has one row per run, with the handler's result.

import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { createClient, createEngine } from '../../engine/index.ts'
import { checkEffects, createEffects, EFFECT_URL, hasEffects } from './effect.ts'
import { type Purpose, payloads, type System, TASK, type Tally, type WorkerPlan } from './system.ts'

const SCHEMA = 'millrace'
const LOOK_EVERY_MS = 2

export const system: System = {
  name: 'millrace',
  packages: ['pg'],
  settings: (_, threads) => ({ threads }),
  share: 1,
  bulkBatch: 10_000,
  bulkInFlight: 2,

  async prepare(url, purpose) {
    const client = createClient({ database: url, schema: SCHEMA })
    await client.migrate()
    await client.close()
    if (hasEffects(purpose)) await createEffects(url)
  },

  async openProducer(url) {
    const client = createClient({ database: url, schema: SCHEMA })
    return {
      enqueue: (id) => client.enqueue(TASK, { id, name: 'x' }),
      enqueueMany: (firstId, count) => client.enqueueMany(TASK, payloads(firstId, count)),
      close: () => client.close(),
    }
  },

  async startWorker(url, plan) {
    if (hasEffects(plan.purpose)) process.env[EFFECT_URL] = url
    const engine = createEngine({
      database: url,
      schema: SCHEMA,
      threads: plan.threads,
      dataDir: join(tmpdir(), `millrace-bench-${process.pid}`), // made only if an outcome cannot be written
      tasks: [taskFile(plan.purpose).href],
    })
    await engine.start()
    return {
      async allRan() {
        while (engine.stats().completed < plan.count) await sleep(LOOK_EVERY_MS)
      },
      async stop() {
        await engine.stop()
      },
      tally: () => tally(url, plan),
    }
  },

  async unfinished(url, total) {
    const rows = await ask<{ done: number }>(
      url,
      `select count(distinct job_id)::int as done from ${SCHEMA}.attempt where outcome = 'c'`,
    )
    return total - rows[0]!.done
  },
}

function taskFile(purpose: Purpose): URL {
  return new URL(`./millrace-${purpose}.js`, import.meta.url)
}

/** Results: throughput gives the payload's id back, latency the time of its start. */
async function tally(url: string, { purpose, count }: WorkerPlan): Promise<Tally> {
  const rows = await ask<{ id: number; result: unknown }>(
    url,
    `select (j.payload ->> 'id')::int as id, a.result from ${SCHEMA}.attempt a join ${SCHEMA}.job j on j.id = a.job_id`,
  )
  const seen = new Uint8Array(count)
  const startedUs = purpose === 'latency' ? new Float64Array(count) : null
  if (hasEffects(purpose)) await checkEffects(url, count)
  let distinct = 0
  for (const { id, result } of rows) {
    if ((purpose === 'throughput' || hasEffects(purpose)) && result !== id)
      throw new Error(`bench: job ${id} has the result ${String(result)}`)
    if (startedUs !== null) startedUs[id] = Number(result)
    if (seen[id] === 0) distinct++
    seen[id] = 1
  }
  return { ran: rows.length, distinct, startedUs }
}

async function ask<Row extends pg.QueryResultRow>(url: string, text: string): Promise<Row[]> {
  const client = new pg.Client({ connectionString: url, application_name: 'bench' })
  await client.connect()
  try {
    return (await client.query<Row>(text)).rows
  } finally {
    await client.end()
  }
}
