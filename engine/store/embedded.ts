// The embedded server: a real PostgreSQL for development, started where no database was named. Promises: the data is
// durable and stays in one folder; only this machine can reach it, with a password; every process that opens the
// same folder shares one server; the server ends with its last user, however that one ends. It is never meant for
// production, and its notice says so.
//
// How several processes agree (all of it in claims, see embedded-claims.ts): `users` holds who uses the server,
// `lock` who starts or stops it just now, `watch` the watchdog that looks after it. The server is the child of
// nobody in particular, so no user's death takes it along.

import { spawn } from 'node:child_process'
import { closeSync, existsSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Clock, systemClock } from '../base/clock.ts'
import { EngineError, messageOf } from '../base/errors.ts'
import { type Log, silentLog } from '../base/log.ts'
import { findBinaries } from './embedded-binaries.ts'
import { addClaim, FOREIGN_FRESH_MS, liveClaims, removeClaim, withLock } from './embedded-claims.ts'
import { clusterPath, ensureCluster, passwordOf } from './embedded-cluster.ts'
import { type DataFolder, openDataFolder } from './embedded-folder.ts'
import { findPostmaster, type Postmaster, stopPostmaster } from './embedded-postmaster.ts'
import { ensureDatabase, HOST, joinServer, openLog, type RunningServer, startServer, urlOf } from './embedded-server.ts'

export interface EmbeddedOptions {
  /** Where the data shall be; made when missing. The server may have to put it elsewhere: see `EmbeddedServer.dataDir`. */
  dataDir: string
  clock?: Clock
  log?: Log
  /** PostgreSQL settings by name; they win over ours. Without effect on a server that runs already. */
  settings?: Record<string, string>
}

export interface EmbeddedServer {
  /** Of the database `millrace`, with the password. */
  readonly url: string
  /** Where the data really is. */
  readonly dataDir: string
  /** True when another living process, or another open of this one, uses the server too. */
  readonly shared: boolean
  /** One line for people: where the data is, and that it is for development. */
  readonly notice: string
  /** Stops the server when nobody else uses it, and resolves when it is gone. Safe twice. */
  close(): Promise<void>
}

const OPEN_LOCK_MS = 150_000 // a first start, or a recovery, by another process
const CLOSE_LOCK_MS = 30_000

/**
 * Starts the server of a data folder, or joins the one that runs. Throws EMBEDDED_UNAVAILABLE when this system cannot
 * run it, EMBEDDED_FAILED when the folder or the server is at fault (with the end of the server's log), EMBEDDED_BUSY
 * when another container or machine uses the folder, or a start or stop by another process does not end.
 */
export async function openEmbedded(options: EmbeddedOptions): Promise<EmbeddedServer> {
  const clock = options.clock ?? systemClock
  const log = options.log ?? silentLog
  const folder = openDataFolder(options.dataDir)
  return await withLock(join(folder.path, 'lock'), clock, OPEN_LOCK_MS, async () => {
    await foreignersGone(folder.path, clock)
    const users = join(folder.path, 'users')
    const shared = liveClaims(users, clock.wallMs()).length > 0
    const claim = addClaim(users)
    try {
      const password = passwordOf(folder.path)
      const server = await joinOrStart(folder, password, options.settings ?? {}, clock)
      const version = await ensureDatabase(server.port, password)
      log.info({ dataDir: folder.path, port: server.port, pid: server.pid, version, shared }, 'embedded.opened')
      let closing: Promise<void> | undefined
      return {
        url: urlOf(server.port, password),
        dataDir: folder.path,
        shared,
        notice: noticeOf(folder, server.port, version),
        close: () => {
          closing ??= close(folder.path, claim, server, clock, log)
          return closing
        },
      }
    } catch (error) {
      await leave(folder.path, claim, clock).catch(() => {}) // the watchdog tries again; the first error is what counts
      if (error instanceof EngineError) throw error
      throw new EngineError('EMBEDDED_FAILED', `the embedded server: ${messageOf(error)}`, { path: folder.path }, error)
    }
  })
}

/** The watchdog first: from the moment the server exists somebody sees to its end. */
async function joinOrStart(
  folder: DataFolder,
  password: string,
  settings: Record<string, string>,
  clock: Clock,
): Promise<RunningServer> {
  ensureWatchdog(folder.path, clock)
  const running = await joinServer(folder.path, password, clock)
  if (running !== null) return running
  const binaries = await findBinaries(folder)
  await ensureCluster(folder, binaries, password)
  return await startServer(folder, binaries, password, settings, clock)
}

async function close(folder: string, claim: string, opened: Postmaster, clock: Clock, log: Log): Promise<void> {
  if (!existsSync(folder)) return await stopPostmaster(opened, clock) // removed under the server: nobody to agree with
  try {
    const stopped = await withLock(join(folder, 'lock'), clock, CLOSE_LOCK_MS, () => leave(folder, claim, clock))
    log.info({ dataDir: folder, stopped }, 'embedded.closed')
  } finally {
    removeClaim(join(folder, 'users'), claim) // even when the lock was not to be had: the watchdog does the rest
  }
}

/** Stops the server and its watchdog when we were the last. The caller holds the lock. */
async function leave(folder: string, claim: string, clock: Clock): Promise<boolean> {
  removeClaim(join(folder, 'users'), claim)
  if (liveClaims(join(folder, 'users'), clock.wallMs()).length > 0) return false
  const postmaster = findPostmaster(clusterPath(folder))
  if (postmaster !== null) await stopPostmaster(postmaster, clock)
  const watch = join(folder, 'watch')
  for (const watchdog of liveClaims(watch, clock.wallMs())) {
    if (!watchdog.foreign) endWatchdog(watchdog.pid)
    removeClaim(watch, watchdog.name)
  }
  return true
}

function ensureWatchdog(folder: string, clock: Clock): void {
  const watch = join(folder, 'watch')
  if (liveClaims(watch, clock.wallMs()).some((claim) => !claim.foreign)) return
  const log = openLog(folder)
  try {
    const script = fileURLToPath(new URL('./embedded-watchdog.js', import.meta.url))
    const child = spawn(process.execPath, ['--max-old-space-size=32', script, folder], {
      ...(process.platform === 'win32' ? {} : { env: {}, cwd: '/' }), // no NODE_OPTIONS of the user's program
      detached: true,
      windowsHide: true,
      stdio: ['ignore', 'ignore', log],
    })
    child.on('error', () => {}) // the server works without; only kill -9 of all users would leave it running
    child.unref()
    if (child.pid !== undefined) addClaim(watch, child.pid)
  } finally {
    closeSync(log)
  }
}

function endWatchdog(pid: number): void {
  try {
    process.kill(pid, 'SIGTERM')
  } catch {
    // gone meanwhile
  }
}

/**
 * Waits until claims of another container or machine are old: those of a container that was restarted soon are.
 * Process ids say nothing across containers, so two servers on one folder could not see each other: refused.
 */
async function foreignersGone(folder: string, clock: Clock): Promise<void> {
  const untilMs = clock.steadyMs() + 2 * FOREIGN_FRESH_MS
  while (liveClaims(join(folder, 'users'), clock.wallMs()).some((claim) => claim.foreign)) {
    if (clock.steadyMs() > untilMs) {
      throw new EngineError(
        'EMBEDDED_BUSY',
        `the data folder ${folder} is used from another container or machine: give each its own folder, or set DATABASE_URL`,
        { folder },
      )
    }
    await clock.sleep(200)
  }
}

function noticeOf(folder: DataFolder, port: number, version: string): string {
  const moved =
    folder.movedFrom === null || folder.account === null
      ? ''
      : ` (not ${folder.movedFrom}, which the account ${folder.account.name} cannot reach)`
  return `PostgreSQL ${version} for development runs on ${HOST}:${port}, its data is in ${folder.path}${moved}; set DATABASE_URL for anything else.`
}
