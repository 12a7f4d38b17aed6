// Who is alive, told by empty files. A claim is a file whose name says which process made it; it counts while that
// process lives, so kill -9 ends it as surely as a clean release. Process ids are used again by the system: a name
// therefore also carries the start time of its process, and the space (boot, container) in which the id means
// anything. Claims of another space can only be judged by their age, so whoever keeps them alive touches them.

import { spawnSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import type { Clock } from '../base/clock.ts'
import { EngineError } from '../base/errors.ts'

/** A claim of another container or machine counts as alive for so long after its last touch. */
export const FOREIGN_FRESH_MS = 10_000

const TOUCH_LOCK_MS = 2_000
const RETRY_MS = 15

const NAME = /^(\d+)\.(\d+)\.([0-9a-f]+)\.[0-9a-f]+$/

export interface Claim {
  readonly name: string
  readonly pid: number
  /** True when it belongs to another container or machine and is known by its age alone. */
  readonly foreign: boolean
}

/** Claims for a process (default: this one) in a folder, which is made when missing. Returns the claim's name. */
export function addClaim(folder: string, pid: number = process.pid): string {
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  const name = `${pid}.${processStart(pid) ?? '0'}.${ownSpace()}.${randomBytes(6).toString('hex')}`
  writeFileSync(join(folder, name), '', { mode: 0o600 })
  return name
}

export function removeClaim(folder: string, name: string): void {
  rmSync(join(folder, name), { force: true })
}

/** Claims whose process lives. Those of dead ones are removed on the way. */
export function liveClaims(folder: string, wallMs: number): Claim[] {
  const live: Claim[] = []
  for (const name of namesIn(folder)) {
    const parts = NAME.exec(name)
    if (parts === null) continue
    const [pid, start, foreign] = [Number(parts[1]), parts[2]!, parts[3] !== ownSpace()]
    const alive = foreign ? isFresh(join(folder, name), wallMs) : isProcess(pid, start)
    if (alive) live.push({ name, pid, foreign })
    else removeClaim(folder, name)
  }
  return live
}

/** Renews the age of claims of this space. */
export function touchClaims(folder: string, claims: readonly Claim[], wallMs: number): void {
  for (const claim of claims) if (!claim.foreign) touch(join(folder, claim.name), wallMs)
}

/**
 * Runs `work` while no other process does so on the same folder. Each contender adds a claim and then looks: whoever
 * sees another live claim steps back and tries again a little later. Of two that come at once at least one sees the
 * other, and a claim that was left behind is dead, so there is no stale lock to break and no race in breaking it.
 * Throws EMBEDDED_BUSY when the folder is not free within `waitMs`.
 */
export async function withLock<T>(folder: string, clock: Clock, waitMs: number, work: () => Promise<T>): Promise<T> {
  const untilMs = clock.steadyMs() + waitMs
  for (;;) {
    let others = liveClaims(folder, clock.wallMs())
    if (others.length === 0) {
      const mine = addClaim(folder)
      try {
        others = liveClaims(folder, clock.wallMs()).filter((claim) => claim.name !== mine)
        if (others.length === 0) return await touching(join(folder, mine), clock, work)
      } finally {
        removeClaim(folder, mine)
      }
    }
    if (clock.steadyMs() > untilMs) {
      const holder = others[0]!
      const where = holder.foreign ? 'of another container or machine' : 'on this machine'
      throw new EngineError('EMBEDDED_BUSY', `process ${holder.pid} ${where} still starts or stops ${folder}`, {
        folder,
        pid: holder.pid,
      })
    }
    await clock.sleep(RETRY_MS * (1 + Math.random()))
  }
}

/**
 * When a process started, in a unit of its system: equal for equal processes, different when an id is used again.
 * '0' when it lives but the system does not say; null when there is none, or only its unburied remains.
 */
export function processStart(pid: number): string | null {
  if (process.platform === 'linux') {
    const stat = readText(`/proc/${pid}/stat`)
    if (stat !== null) {
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ') // the name in parentheses may hold anything
      return fields[0] === 'Z' || fields[0] === 'X' ? null : (fields[19] ?? '0')
    }
  }
  try {
    process.kill(pid, 0)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return null // EPERM: alive, somebody else's
  }
  if (process.platform !== 'darwin') return '0'
  const ps = spawnSync('/bin/ps', ['-o', 'lstart=', '-p', String(pid)], { encoding: 'utf8', env: { LC_ALL: 'C' } })
  const startMs = Date.parse(ps.stdout ?? '')
  return Number.isNaN(startMs) ? '0' : String(startMs / 1000)
}

/** True while the process that had this start time lives. */
export function isProcess(pid: number, start: string): boolean {
  const now = processStart(pid)
  return now !== null && (now === start || now === '0' || start === '0')
}

let space: string | undefined

/** Where process ids mean the same: one boot of one machine, one container. */
function ownSpace(): string {
  space ??= createHash('sha256').update(spaceText()).digest('hex').slice(0, 8)
  return space
}

function spaceText(): string {
  if (process.platform !== 'linux') return hostname()
  let pidNamespace = ''
  try {
    pidNamespace = readlinkSync('/proc/self/ns/pid')
  } catch {
    // no /proc: the host's name must do
  }
  return `${readText('/proc/sys/kernel/random/boot_id') ?? hostname()}${pidNamespace}`
}

async function touching<T>(path: string, clock: Clock, work: () => Promise<T>): Promise<T> {
  let timer = clock.after(TOUCH_LOCK_MS, again)
  function again(): void {
    touch(path, clock.wallMs())
    timer = clock.after(TOUCH_LOCK_MS, again)
  }
  try {
    return await work()
  } finally {
    timer.cancel()
  }
}

function touch(path: string, wallMs: number): void {
  try {
    utimesSync(path, wallMs / 1000, wallMs / 1000)
  } catch {
    // removed meanwhile: nothing to keep alive
  }
}

function isFresh(path: string, wallMs: number): boolean {
  try {
    return wallMs - statSync(path).mtimeMs < FOREIGN_FRESH_MS
  } catch {
    return false
  }
}

function namesIn(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch {
    return []
  }
}

function readText(path: string): string | null {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return null
  }
}
