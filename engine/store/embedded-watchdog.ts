// The last one turns off the light. A process of its own, started with the embedded server and apart from whoever
// started it: when no process that uses the server lives any more (kill -9 leaves nobody to tidy up), it stops the
// server and ends. It also keeps the users' claims fresh for other containers, and the server's log bounded.

import { existsSync, statSync, truncateSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { type Clock, systemClock } from '../base/clock.ts'
import { liveClaims, removeClaim, touchClaims, withLock } from './embedded-claims.ts'
import { findPostmaster, type Postmaster, stopPostmaster } from './embedded-postmaster.ts'

const LOOK_EVERY_MS = 1_000
const LOCK_MS_MAX = 5_000
const LOG_BYTES_MAX = 64 * 1024 * 1024

/** Watches one data folder until its server has no users, and stops it. */
export async function watch(folder: string, clock: Clock): Promise<void> {
  const [users, cluster] = [join(folder, 'users'), join(folder, 'cluster')]
  let last: Postmaster | null = null
  for (;;) {
    await clock.sleep(LOOK_EVERY_MS)
    if (!existsSync(users)) break // the folder was removed under a running server
    last = findPostmaster(cluster) ?? last
    const live = liveClaims(users, clock.wallMs())
    touchClaims(users, live, clock.wallMs())
    boundLog(join(folder, 'server.log'))
    if (live.length === 0 && (await stopUnused(folder, clock))) return
  }
  if (last !== null) await stopPostmaster(last, clock)
}

/** True when the server was stopped; false when somebody came, or is about to. */
async function stopUnused(folder: string, clock: Clock): Promise<boolean> {
  try {
    return await withLock(join(folder, 'lock'), clock, LOCK_MS_MAX, async () => {
      if (liveClaims(join(folder, 'users'), clock.wallMs()).length > 0) return false
      const postmaster = findPostmaster(join(folder, 'cluster'))
      if (postmaster !== null) await stopPostmaster(postmaster, clock)
      const watch = join(folder, 'watch')
      for (const { name, pid } of liveClaims(watch, clock.wallMs())) {
        if (pid === process.pid) removeClaim(watch, name) // before the lock is free: who comes next wants a new watchdog
      }
      return true
    })
  } catch {
    return false // busy: the next look decides
  }
}

/** The server appends, so a file that is cut short simply goes on from its new end. */
function boundLog(path: string): void {
  try {
    if (statSync(path).size > LOG_BYTES_MAX) truncateSync(path)
  } catch {
    // removed meanwhile
  }
}

const [, entry, folder] = process.argv
if (entry !== undefined && folder !== undefined && import.meta.url === pathToFileURL(entry).href) {
  await watch(folder, systemClock)
}
