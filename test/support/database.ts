// Databases for tests. `openTestDatabase` gives a fresh schema name on the server that the test runner started (or
// on one of its own, when a test file is run alone); `openOwnServer` gives a server that a test may stop and kill.

import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { systemClock } from '../../engine/base/clock.ts'
import { type EmbeddedServer, openEmbedded } from '../../engine/store/embedded.ts'
import { processStart } from '../../engine/store/embedded-claims.ts'
import { clusterPath } from '../../engine/store/embedded-cluster.ts'
import { findPostmaster } from '../../engine/store/embedded-postmaster.ts'

export interface TestDatabase {
  readonly url: string
  /** Unique, not made yet; dropped with all that is in it by `close`. */
  readonly schema: string
  query<Row extends pg.QueryResultRow>(sql: string, params?: unknown[]): Promise<Row[]>
  close(): Promise<void>
}

export interface OwnServer {
  /** The same after every start. */
  readonly url: string
  readonly dataDir: string
  readonly pid: number
  query<Row extends pg.QueryResultRow>(sql: string, params?: unknown[]): Promise<Row[]>
  /** Resolves when the server's process is gone. */
  stop(mode: 'fast' | 'immediate'): Promise<void>
  /** Resolves when the server answers on its old port. */
  start(): Promise<void>
  /** kill -9 of the server, not of its children; resolves when its process is gone. */
  kill9(): Promise<void>
  close(): Promise<void>
}

const GONE_MS_MAX = 60_000
const SESSIONS_MAX = 4

export async function openTestDatabase(): Promise<TestDatabase> {
  const given = process.env.DATABASE_URL
  const server = given === undefined || given === '' ? await openTempServer({}) : null
  const url = server?.url ?? given!
  const schema = `test_${process.pid}_${randomBytes(5).toString('hex')}`
  const pool = openPool(url)
  return {
    url,
    schema,
    query: async (sql, params) => (await pool.query(sql, params)).rows,
    async close() {
      try {
        await pool.query(`drop schema if exists "${schema}" cascade`)
      } finally {
        await pool.end()
        await server?.remove()
      }
    },
  }
}

/** `parent`: the folder in which its data folder is made. */
export async function openOwnServer(settings: Record<string, string> = {}, parent = tmpdir()): Promise<OwnServer> {
  const first = await openTempServer(settings, parent)
  const opened: EmbeddedServer[] = [] // a start is one more open of the same folder, with the port of the first
  const pool = openPool(first.url)
  const signal = async (name: NodeJS.Signals): Promise<void> => {
    const postmaster = findPostmaster(clusterPath(first.dataDir))
    if (postmaster === null) return
    process.kill(postmaster.pid, name)
    const untilMs = systemClock.steadyMs() + GONE_MS_MAX
    while (processStart(postmaster.pid) === postmaster.start) {
      if (systemClock.steadyMs() > untilMs) throw new Error(`the server did not end on ${name}`)
      await systemClock.sleep(10)
    }
  }
  return {
    url: first.url,
    dataDir: first.dataDir,
    get pid() {
      return findPostmaster(clusterPath(first.dataDir))?.pid ?? 0
    },
    query: async (sql, params) => (await pool.query(sql, params)).rows,
    stop: (mode) => signal(mode === 'fast' ? 'SIGINT' : 'SIGQUIT'),
    kill9: () => signal('SIGKILL'),
    async start() {
      const again = await openEmbedded({
        dataDir: first.dataDir,
        settings: { ...settings, port: new URL(first.url).port },
      })
      opened.push(again)
      if (again.url !== first.url) throw new Error('the server came back with another address')
    },
    async close() {
      await pool.end()
      for (const server of opened) await server.close()
      await first.remove()
    },
  }
}

async function openTempServer(
  settings: Record<string, string>,
  parent = tmpdir(),
): Promise<EmbeddedServer & { remove(): Promise<void> }> {
  const folder = mkdtempSync(join(parent, 'millrace-test-'))
  const server = await openEmbedded({ dataDir: folder, settings })
  return {
    ...server,
    async remove() {
      await server.close()
      rmSync(server.dataDir, { recursive: true, force: true })
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

function openPool(url: string): pg.Pool {
  const pool = new pg.Pool({ connectionString: url, max: SESSIONS_MAX })
  pool.on('error', () => {}) // tests that kill the server cut idle sessions; the next query tells
  return pool
}
