// What a test of whole engines stands on: a schema, a client that enqueues, a history, and engines as processes.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Client } from '../../engine/index.ts'
import { type ClientOptions, createClient, type EngineOptions } from '../../engine/index.ts'
import { type OwnServer, openOwnServer, openTestDatabase, type TestDatabase } from './database.ts'
import { type EngineProcess, endAll, startEngine } from './engine-process.ts'
import { checkFacts } from './facts.ts'
import { History } from './history.ts'
import { until } from './until.ts'

const TASKS = new URL('../tasks/witness.js', import.meta.url).href

/** A schema, a client, a history, and engines on them. */
export interface Bundle {
  readonly url: string
  readonly schema: string
  /** For data folders and for files that tests and handlers share; removed at the end. */
  readonly folder: string
  readonly history: History
  readonly client: Client
  engine(options?: EngineOptions): EngineProcess
  query<Row extends Record<string, unknown>>(sql: string, params?: unknown[]): Promise<Row[]>
  /** Resolves when every job that was ever written has ended. */
  empty(): Promise<void>
  close(): Promise<void>
}

function openBundle(on: Pick<TestDatabase, 'url' | 'query'> & { schema: string }): Bundle {
  const history = new History()
  const folder = mkdtempSync(join(tmpdir(), 'millrace-bundle-'))
  const base: ClientOptions = { database: on.url, schema: on.schema }
  const client = createClient(base)
  const query = <Row extends Record<string, unknown>>(sql: string, params?: unknown[]) =>
    on.query<Row>(sql.replace(/\bmillrace\./g, `"${on.schema}".`), params)
  return {
    url: on.url,
    schema: on.schema,
    folder,
    history,
    client,
    query,
    engine: (options = {}) =>
      startEngine(
        { ...base, dataDir: folder, tasks: TASKS, threads: 2, nodeLimitMs: 1_000, nodeHeartbeatMs: 200, ...options },
        history.env,
      ),
    async empty() {
      await until('every job has ended', async () => {
        const [left] = await query<{
          n: number
        }>(`select (select count(*) from millrace.ready) + (select count(*) from millrace.scheduled)
          + (select count(*) from millrace.blocked) + (select count(*) from millrace.lease) as n`)
        return Number(left!.n) === 0
      })
    },
    async close() {
      await endAll()
      await client.close()
      history.close()
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

export async function withBundle(run: (bundle: Bundle) => Promise<void>): Promise<void> {
  const db = await openTestDatabase()
  const bundle = openBundle(db)
  try {
    await bundle.client.migrate()
    await run(bundle)
    await checkFacts(bundle.query)
  } finally {
    await bundle.close()
    await db.close()
  }
}

export async function withServer(run: (bundle: Bundle, server: OwnServer) => Promise<void>): Promise<void> {
  const server = await openOwnServer()
  const bundle = openBundle({ url: server.url, query: server.query, schema: 'recovery' })
  try {
    await bundle.client.migrate()
    await run(bundle, server)
    await checkFacts(bundle.query)
  } finally {
    await bundle.close()
    await server.close()
  }
}
