// What handlers write that have effects in the same database: one row per job in a table of the user's own, over a pool of
// their thread. Where the database is, the worker's process says in the environment, as it would in production.

import pg from 'pg'

export const EFFECT_URL = 'MILLRACE_BENCH_DATABASE'
/** As many as jobs share a thread. */
const CONNECTIONS = 8

let pool: pg.Pool | null = null

export const createEffects = 'create table effect (job int not null)'

/** The first statement of its kind is prepared, later ones are not parsed again. */
export async function writeEffect(client: pg.PoolClient, job: number): Promise<void> {
  await client.query({ name: 'effect', text: 'insert into effect (job) values ($1)', values: [job] })
}

export async function inTransaction<Result>(work: (client: pg.PoolClient) => Promise<Result>): Promise<Result> {
  pool ??= new pg.Pool({ connectionString: process.env[EFFECT_URL], max: CONNECTIONS, application_name: 'effect' })
  const client = await pool.connect()
  try {
    await client.query('begin')
    const result = await work(client)
    await client.query('commit')
    return result
  } catch (error) {
    await client.query('rollback')
    throw error
  } finally {
    client.release()
  }
}
