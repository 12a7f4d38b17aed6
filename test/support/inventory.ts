// What this process has open, so that a test can tell whether something was left behind.

import { existsSync, readdirSync, readlinkSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const BUILT = fileURLToPath(new URL('../..', import.meta.url))

/** What a process has open: descriptors, threads, what keeps its loop alive, and listeners on the process. */
export function inventory(): Map<string, number> {
  const linux = existsSync('/proc/self/fd')
  const counts = new Map([
    ['descriptors', linux ? readdirSync('/proc/self/fd').filter(isOurs).length : 0],
    ['threads', linux ? readdirSync('/proc/self/task').length : 0],
  ])
  for (const name of process.getActiveResourcesInfo()) {
    if (name !== 'Timeout' && name !== 'Immediate') counts.set(name, (counts.get(name) ?? 0) + 1)
  }
  for (const name of process.eventNames()) counts.set(`on ${String(name)}`, process.listenerCount(name))
  return counts
}

/** Node itself leaves a file open when a thread is ended just while it imports that file: it is not counted. */
function isOurs(descriptor: string): boolean {
  try {
    return !readlinkSync(join('/proc/self/fd', descriptor)).startsWith(BUILT)
  } catch {
    return false // it was the one that read the folder
  }
}

/** What there is more of than before. */
export function leftOver(before: ReadonlyMap<string, number>): Record<string, number> {
  const more = [...inventory()].map(([name, count]) => [name, count - (before.get(name) ?? 0)] as const)
  return Object.fromEntries(more.filter(([, count]) => count > 0))
}
