// The embedded server's process: started on a cluster, or joined, and asked until it answers. It listens on the
// loopback address only. Ready means that a connection was made; nothing is read out of what it writes to its log.

import { spawn } from 'node:child_process'
import {
  chmodSync,
  closeSync,
  existsSync,
  fstatSync,
  openSync,
  readFileSync,
  readSync,
  renameSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import pg from 'pg'
import type { Clock } from '../base/clock.ts'
import { codeOf, EngineError, messageOf } from '../base/errors.ts'
import { type Binaries, serverProcess } from './embedded-binaries.ts'
import { isProcess, processStart } from './embedded-claims.ts'
import { clusterPath, USER } from './embedded-cluster.ts'
import type { DataFolder } from './embedded-folder.ts'
import { disarmPidFile, findPostmaster, type Postmaster } from './embedded-postmaster.ts'

export interface RunningServer extends Postmaster {
  readonly port: number
}

export const HOST = '127.0.0.1'
const DATABASE = 'millrace'
const LOG_FILE = 'server.log'

/** For a developer's machine, but durable: what PostgreSQL acknowledged survives a power cut. */
const SETTINGS: Readonly<Record<string, string>> = {
  listen_addresses: HOST,
  unix_socket_directories: '',
  max_connections: '100',
  shared_buffers: '256MB',
  max_wal_size: '4GB',
  fsync: 'on',
  synchronous_commit: 'on',
  full_page_writes: 'on',
  jit: 'off',
  timezone: 'UTC',
  log_timezone: 'UTC',
  log_checkpoints: 'off', // the log is for what went wrong
  log_line_prefix: '%m [%p] ',
}

// below the range from which systems give ports to outgoing connections: a client that retries while the server is
// down could otherwise be given the server's port, and connect to itself
const PORT_MIN = 15_432
const PORT_MAX = 32_767
const PORT_TRIES = 50

const READY_MS_MAX = 120_000 // recovery of a large log after a crash
const RESTART_MS_MAX = 15_000 // orphans of a killed server need a moment to see that it is gone
const CONNECT_MS_MAX = 5_000
const POLL_MS = 25
const LOG_BYTES_MAX = 10 * 1024 * 1024
const TAIL_BYTES = 4_096

const STARTING_UP = '57P03' // cannot_connect_now
const DUPLICATE_DATABASE = '42P04'

/** Starts the server, or takes over one that a killed process left. The caller holds the lock. */
export async function startServer(
  folder: DataFolder,
  binaries: Binaries,
  password: string,
  settings: Readonly<Record<string, string>>,
  clock: Clock,
): Promise<RunningServer> {
  const untilMs = clock.steadyMs() + RESTART_MS_MAX
  const afterCrash = existsSync(join(clusterPath(folder.path), 'postmaster.pid'))
  for (;;) {
    const left = await joinServer(folder.path, password, clock)
    if (left !== null) return left
    const port = settings.port === undefined ? await choosePort(folder.path) : Number(settings.port)
    const logged = logSize(folder.path)
    const server = spawnPostgres(folder, binaries, { ...SETTINGS, ...settings, port: String(port) })
    if (await becomesReady(server, password, clock)) {
      writeFileSync(join(folder.path, 'port'), `${port}\n`, { mode: 0o600 })
      return server
    }
    // lost the port to another program, or the orphans of a killed server still hold its memory: both pass
    const passes = afterCrash || (settings.port === undefined && !(await isFree(port)))
    if (!passes || clock.steadyMs() > untilMs) {
      throw new EngineError('EMBEDDED_FAILED', `PostgreSQL ended while it started:\n${logTail(folder.path, logged)}`, {
        log: join(folder.path, LOG_FILE),
      })
    }
    await clock.sleep(POLL_MS * 10)
  }
}

/** The server that runs on the folder's cluster, once it answers; null when there is none, or it ended meanwhile. */
export async function joinServer(folder: string, password: string, clock: Clock): Promise<RunningServer | null> {
  const untilMs = clock.steadyMs() + READY_MS_MAX
  for (;;) {
    const found = findPostmaster(clusterPath(folder))
    if (found === null) return null
    if (found.port !== null) {
      const server = { ...found, port: found.port }
      return (await becomesReady(server, password, clock)) ? server : null
    }
    if (clock.steadyMs() > untilMs) {
      throw new EngineError('EMBEDDED_FAILED', `PostgreSQL (process ${found.pid}) does not get on with its start`)
    }
    await clock.sleep(POLL_MS)
  }
}

/** Makes our database when it is missing. Returns the server's version, for example 18.4. */
export async function ensureDatabase(port: number, password: string): Promise<string> {
  const client = await connect(port, password)
  try {
    const { rows } = await client.query<{ version: string; there: boolean }>(
      `select current_setting('server_version') as version, exists (select from pg_database where datname = '${DATABASE}') as there`,
    )
    if (!rows[0]!.there) {
      await client.query(`create database ${DATABASE}`).catch((error: unknown) => {
        if (codeOf(error) !== DUPLICATE_DATABASE) throw error
      })
    }
    return rows[0]!.version
  } finally {
    await client.end()
  }
}

export function urlOf(port: number, password: string): string {
  return `postgres://${USER}:${password}@${HOST}:${port}/${DATABASE}?sslmode=disable`
}

function spawnPostgres(folder: DataFolder, binaries: Binaries, settings: Record<string, string>): RunningServer {
  const cluster = clusterPath(folder.path)
  disarmPidFile(cluster)
  const log = openLog(folder.path)
  try {
    const args = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])
    const child = spawn(binaries.postgres, ['-D', cluster, ...args], {
      ...serverProcess(folder.account),
      stdio: ['ignore', log, log],
    })
    child.on('error', () => {}) // no pid then: told below
    child.unref()
    if (child.pid === undefined) throw new Error('the process could not be made')
    return { pid: child.pid, start: processStart(child.pid) ?? '', port: Number(settings.port) }
  } catch (error) {
    throw new EngineError('EMBEDDED_FAILED', `PostgreSQL could not be started: ${messageOf(error)}`, {}, error)
  } finally {
    closeSync(log)
  }
}

/** True when the server answers; false when its process ended. Throws when it does neither in time. */
async function becomesReady(server: RunningServer, password: string, clock: Clock): Promise<boolean> {
  const untilMs = clock.steadyMs() + READY_MS_MAX
  let last: unknown
  while (clock.steadyMs() < untilMs) {
    if (!isProcess(server.pid, server.start)) return false
    try {
      const client = await connect(server.port, password)
      await client.end()
      return isProcess(server.pid, server.start) // another program may answer on the port that ours did not get
    } catch (error) {
      last = error
      if (error instanceof pg.DatabaseError && error.code !== STARTING_UP) break // it answers, and its answer is no
    }
    await clock.sleep(POLL_MS)
  }
  const why = codeOf(last) === STARTING_UP ? 'it still recovers' : messageOf(last)
  throw new EngineError('EMBEDDED_FAILED', `PostgreSQL on port ${server.port} does not let us in: ${why}`, {}, last)
}

async function connect(port: number, password: string): Promise<pg.Client> {
  const client = new pg.Client({
    host: HOST,
    port,
    user: USER,
    password,
    database: 'postgres',
    ssl: false,
    connectionTimeoutMillis: CONNECT_MS_MAX,
    query_timeout: READY_MS_MAX,
  })
  client.on('error', () => {}) // the call that uses it tells
  try {
    await client.connect()
    return client
  } catch (error) {
    client.end().catch(() => {})
    throw error
  }
}

/** The port of last time where it is free, so that an address that was noted stays right; else any free one. */
async function choosePort(folder: string): Promise<number> {
  const last = Number(readText(join(folder, 'port')))
  if (last >= PORT_MIN && last <= PORT_MAX && (await isFree(last))) return last
  for (let i = 0; i < PORT_TRIES; i++) {
    const port = PORT_MIN + Math.floor(Math.random() * (PORT_MAX - PORT_MIN + 1))
    if (await isFree(port)) return port
  }
  throw new EngineError('EMBEDDED_FAILED', `no free port between ${PORT_MIN} and ${PORT_MAX} on ${HOST}`)
}

function isFree(port: number): Promise<boolean> {
  return new Promise((done) => {
    const probe = createServer()
    probe.once('error', () => done(false))
    probe.listen(port, HOST, () => probe.close(() => done(true)))
  })
}

/** Opens the log for appending. One that has grown large makes room; the one before it is kept. */
export function openLog(folder: string): number {
  const path = join(folder, LOG_FILE)
  if (logSize(folder) > LOG_BYTES_MAX) renameSync(path, join(folder, 'server.old.log'))
  const file = openSync(path, 'a', 0o600)
  if (process.platform !== 'win32') chmodSync(path, 0o600)
  return file
}

function logSize(folder: string): number {
  return statSync(join(folder, LOG_FILE), { throwIfNoEntry: false })?.size ?? 0
}

/** The end of the log, without what was there before `from`. */
function logTail(folder: string, from: number): string {
  try {
    const file = openSync(join(folder, LOG_FILE), 'r')
    try {
      const { size } = fstatSync(file)
      const begin = Math.max(size - TAIL_BYTES, Math.min(from, size))
      const bytes = Buffer.alloc(size - begin)
      return bytes.toString('utf8', 0, readSync(file, bytes, 0, bytes.length, begin)).trim()
    } finally {
      closeSync(file)
    }
  } catch (error) {
    return `(no log: ${messageOf(error)})`
  }
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
