// What handlers write that have effects in the same database: one row per job in a table of the user's own, over a pool of
// their thread. Where the database is, the worker's process says in the environment, as it would in production.

import pg from 'pg'
import type { Purpose } from './system.ts'

export const EFFECT_URL = 'MILLRACE_BENCH_DATABASE'
/** As many as jobs share a thread. */
const CONNECTIONS = 8

let pool: pg.Pool | null = null

export const EFFECT = 'insert into effect (job) values ($1)'

/** Handlers write a row each. */
export function hasEffects(purpose: Purpose): boolean {
  return purpose === 'write' || purpose === 'complete' || purpose === 'complete-many'
}

export async function createEffects(url: string): Promise<void> {
  await ask(url, 'create table effect (job int not null)')
}

/** @throws Error unless every job has written its row, once */
export async function checkEffects(url: string, count: number): Promise<void> {
  const [written] = await ask(url, 'select count(*)::int as n, count(distinct job)::int as jobs from effect')
  if (written!.n !== count || written!.jobs !== count)
    throw new Error(`bench: ${count} jobs wrote ${written!.n} rows of ${written!.jobs} jobs`)
}

async function ask(url: string, text: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: url, application_name: 'effect' })
  await client.connect()
  try {
    return (await client.query<Record<string, unknown>>(text)).rows
  } finally {
    await client.end()
  }
}

/** The first statement of its kind is prepared, later ones are not parsed again. */
export async function writeEffect(client: pg.PoolClient, job: number): Promise<void> {
  await client.query({ name: 'effect', text: EFFECT, values: [job] })
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
