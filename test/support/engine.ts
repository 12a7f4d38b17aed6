// Everything that a test of the public API needs: an empty schema, a client, engines that are stopped at the end, and
// waits for facts in PostgreSQL. A wait that takes too long fails with what it waited for.
//
// The tests of a file share one schema, which is emptied between them: making one costs more than most tests. After a
// test that failed the next one gets a new schema.

import { after } from 'node:test'
import pg from 'pg'
import { systemClock } from '../../engine/base/clock.ts'
import {
  type Client,
  type ClientOptions,
  createClient,
  createEngine,
  type Engine,
  type EngineOptions,
  type JobRow,
  silentLog,
} from '../../engine/index.ts'
import { openTestDatabase, type TestDatabase } from './database.ts'
import { checkFacts } from './facts.ts'

export const TASKS = new URL('../tasks/public.js', import.meta.url)

const WAIT_MS_MAX = 30_000
const LOOK_EVERY_MS = 10

export interface EngineBundle {
  readonly url: string
  readonly schema: string
  readonly client: Client
  /** What every engine and client of this test is told: where the database is. */
  readonly base: { readonly database: string; readonly schema: string }
  /** A started engine: one thread, the tasks of tasks/public.ts, all queues, unless told otherwise. */
  engine(options?: EngineOptions): Promise<Engine>
  /** Another client, closed at the end. */
  another(options?: ClientOptions): Client
  /** `millrace.` in the text stands for the test's schema. */
  query<Row extends Record<string, unknown> = Record<string, unknown>>(sql: string, params?: unknown[]): Promise<Row[]>
  /** A connection of the test's own, for transactions. */
  connection(): Promise<pg.Client>
  /** Rows of these tables together. */
  count(...tables: string[]): Promise<number>
  inState(id: number, state: string): Promise<JobRow>
  until<T>(what: string, look: () => Promise<T | undefined | false | null>): Promise<T>
}

let shared: TestDatabase | null = null

after(async () => {
  await shared?.close()
})

/** The schema of this file without a row, as after the migrations. */
async function emptyDatabase(): Promise<TestDatabase> {
  if (shared === null) {
    const db = await openTestDatabase()
    const client = createClient({ database: db.url, schema: db.schema })
    try {
      await client.migrate()
    } finally {
      await client.close()
    }
    shared = db
  } else {
    const tables = await shared.query<{ name: string }>(
      `select c.relname as name from pg_class c where c.relnamespace = $1::regnamespace and c.relkind in ('r', 'p')
         and not c.relispartition and c.relname <> 'migration'`,
      [shared.schema],
    )
    for (const { name } of tables) await shared.query(`delete from "${shared.schema}"."${name}"`)
  }
  return shared
}

export async function withEngines(run: (bundle: EngineBundle) => Promise<void>): Promise<void> {
  const db = await emptyDatabase()
  const base = { database: db.url, schema: db.schema }
  const engines: Engine[] = []
  const clients: Client[] = []
  const connections: pg.Client[] = []
  const another = (options: ClientOptions = {}) => {
    const client = createClient({ ...base, ...options })
    clients.push(client)
    return client
  }
  const client = another()
  const query = <Row extends Record<string, unknown>>(sql: string, params?: unknown[]) =>
    db.query<Row>(sql.replace(/\bmillrace\./g, `"${db.schema}".`), params)
  const until = async <T>(what: string, look: () => Promise<T | undefined | false | null>): Promise<T> => {
    const untilMs = systemClock.steadyMs() + WAIT_MS_MAX
    for (;;) {
      const found = await look()
      if (found !== undefined && found !== false && found !== null) return found
      if (systemClock.steadyMs() > untilMs) throw new Error(`waited ${WAIT_MS_MAX} ms until ${what}`)
      await systemClock.sleep(LOOK_EVERY_MS)
    }
  }
  let passed = false
  try {
    await run({
      url: db.url,
      schema: db.schema,
      client,
      base,
      another,
      query,
      until,
      async engine(options = {}) {
        const engine = createEngine({ ...base, tasks: TASKS, threads: 1, log: silentLog, ...options })
        engines.push(engine)
        await engine.start()
        return engine
      },
      async connection() {
        const connection = new pg.Client({ connectionString: db.url })
        connections.push(connection)
        await connection.connect()
        return connection
      },
      async count(...tables) {
        let sum = 0
        for (const table of tables) sum += Number((await query(`select count(*) as n from millrace.${table}`))[0]!.n)
        return sum
      },
      async inState(id, state) {
        let last: JobRow | null = null
        try {
          return await until(`job ${id} is ${state}`, async () => {
            last = await client.console.job(id)
            return last?.state === state && last
          })
        } catch (error) {
          throw new Error(`${String(error)}; it is ${JSON.stringify(last)}`)
        }
      },
    })
    await checkFacts(query)
    passed = true
  } finally {
    await Promise.all(engines.map((engine) => engine.stop(2_000)))
    await Promise.all(clients.map((it) => it.close()))
    await Promise.all(connections.map((it) => it.end()))
    if (!passed) {
      shared = null
      await db.close()
    }
  }
}

/** Runs the call, which must fail with an error of ours; answers its code. */
export async function codeFrom(call: () => Promise<unknown>): Promise<string> {
  try {
    await call()
  } catch (error) {
    const { name, code, hint } = error as { name?: string; code?: string; hint?: string }
    if (name !== 'EngineError' || !hint) throw error
    return String(code)
  }
  throw new Error('it did not fail')
}
