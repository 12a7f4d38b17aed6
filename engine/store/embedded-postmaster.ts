// The running server seen from outside: finding it and ending it, by any process, whoever started it. The truth is
// PostgreSQL's own pid file, believed only when the process that it names really serves this cluster.

import { spawnSync } from 'node:child_process'
import { closeSync, constants, openSync, readFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import type { Clock } from '../base/clock.ts'
import { EngineError } from '../base/errors.ts'
import { isProcess, processStart } from './embedded-claims.ts'

export interface Postmaster {
  readonly pid: number
  /** As `processStart` tells it. */
  readonly start: string
  /** null while the server has only begun to start. */
  readonly port: number | null
}

/** How long each kind of stop may take before the next harder one. */
const STOP_STEPS = [
  ['SIGINT', 30_000], // fast: ends sessions, writes a checkpoint
  ['SIGQUIT', 10_000], // immediate: the next start recovers from the log
  ['SIGKILL', 10_000],
] as const
const POLL_MS = 20
const PID_FILE = 'postmaster.pid'

/** The server that runs on this cluster, or null. */
export function findPostmaster(cluster: string): Postmaster | null {
  const lines = pidFileLines(cluster)
  const pid = Number(lines?.[0])
  if (!Number.isSafeInteger(pid) || pid <= 0 || !servesCluster(pid, cluster)) return null
  const start = processStart(pid)
  const port = Number(lines?.[3])
  return start === null ? null : { pid, start, port: Number.isSafeInteger(port) && port > 0 ? port : null }
}

/**
 * Makes a pid file that was left behind harmless. PostgreSQL sees for itself that a process is gone, but takes any
 * process of its account that got the same id since for a running server. Only the id is replaced, by one that no
 * system gives: the other lines lead PostgreSQL to shared memory that orphaned children may still use.
 */
export function disarmPidFile(cluster: string): void {
  const lines = pidFileLines(cluster)
  if (lines === null || findPostmaster(cluster) !== null) return
  const pid = Number(lines[0])
  if (!Number.isSafeInteger(pid) || processStart(Math.abs(pid)) === null) return
  lines[0] = '2147483646'
  const file = openSync(join(cluster, PID_FILE), constants.O_WRONLY | constants.O_TRUNC | (constants.O_NOFOLLOW ?? 0))
  writeSync(file, lines.join('\n'))
  closeSync(file)
}

/**
 * Ends a server: fast, then harder. (On Windows every signal ends the process at once, and the next start recovers.)
 * Resolves when its process is gone; throws EMBEDDED_FAILED when it will not go.
 */
export async function stopPostmaster(postmaster: Postmaster, clock: Clock): Promise<void> {
  const { pid, start } = postmaster
  for (const [signal, waitMs] of STOP_STEPS) {
    if (!isProcess(pid, start)) return
    kill(pid, signal)
    const untilMs = clock.steadyMs() + waitMs
    while (clock.steadyMs() < untilMs) {
      if (!isProcess(pid, start)) return
      await clock.sleep(POLL_MS)
    }
  }
  throw new EngineError('EMBEDDED_FAILED', `the embedded server (process ${pid}) does not end`, { pid })
}

function pidFileLines(cluster: string): string[] | null {
  try {
    return readFileSync(join(cluster, PID_FILE), 'utf8').split('\n')
  } catch {
    return null
  }
}

/** True when the process was started with this cluster as its data folder. Its children rewrite their command line. */
function servesCluster(pid: number, cluster: string): boolean {
  if (process.platform === 'linux') {
    try {
      const args = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
      return args[args.indexOf('-D') + 1] === cluster
    } catch {
      return false
    }
  }
  if (process.platform === 'darwin') {
    const ps = spawnSync('/bin/ps', ['-ww', '-o', 'command=', '-p', String(pid)], { encoding: 'utf8', env: {} })
    return (ps.stdout ?? '').includes(`-D ${cluster} `)
  }
  return processStart(pid) !== null
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch {
    // gone meanwhile, or not ours to end: the wait that follows tells
  }
}
