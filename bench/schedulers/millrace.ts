// Ours, through its public interface, with its defaults. Handlers run on worker threads and their results are kept, so
// when each started is read back from the database.

import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { createClient, createEngine, type Engine } from '../../engine/index.ts'
import { TASK } from '../peers/system.ts'
import type { Scheduler } from './scheduler.ts'

const SCHEMA = 'millrace'
const THREADS = 2
const LOOK_EVERY_MS = 20

export const scheduler: Scheduler = {
  name: 'millrace',
  packages: ['pg'],
  settings: { threads: THREADS },
  takesMax: Number.POSITIVE_INFINITY,
  runsMax: Number.POSITIVE_INFINITY,
  grain: 'second',

  async prepare(url) {
    const client = createClient({ database: url, schema: SCHEMA })
    await client.migrate()
    await client.close()
  },

  async open(url, runs) {
    let engine: Engine | null = null
    if (runs) {
      engine = createEngine({
        database: url,
        schema: SCHEMA,
        threads: THREADS,
        dataDir: join(tmpdir(), `millrace-bench-${process.pid}`), // made only if an outcome cannot be written
        tasks: [new URL('../peers/millrace-latency.js', import.meta.url).href],
      })
      await engine.start()
    }
    const { schedules } = engine ?? createClient({ database: url, schema: SCHEMA })
    return {
      async register(plans) {
        await schedules.register(
          plans.map(({ at, cron }) => ({ id: `s${at}`, task: TASK, cron, timeZone: 'UTC', payload: { at } })),
        )
      },
      async started(count) {
        while (engine!.stats().completed < count) await sleep(LOOK_EVERY_MS)
        await engine!.stop()
        return ask(
          url,
          count,
          `select (j.payload ->> 'at')::int as at, (a.result #>> '{}')::float8 as value
           from ${SCHEMA}.attempt a join ${SCHEMA}.job j on j.id = a.job_id where a.outcome = 'c'`,
        )
      },
    }
  },
}

async function ask(url: string, count: number, text: string): Promise<Float64Array> {
  const client = new pg.Client({ connectionString: url, application_name: 'bench' })
  await client.connect()
  try {
    const { rows } = await client.query<{ at: number; value: number }>(text)
    const values = new Float64Array(count).fill(Number.NaN)
    for (const { at, value } of rows) {
      if (!Number.isNaN(values[at])) throw new Error(`bench: schedule ${at} has two occurrences`)
      values[at] = value
    }
    return values
  } finally {
    await client.end()
  }
}
