// What a system with schedules must be able to do to take part: take schedules, and say when their handlers started. All
// are measured through this one interface, each in a process of its own. Handlers do nothing but note the time.

import { monotonicUs } from '../peers/system.ts'

export interface Scheduler {
  readonly name: string
  readonly packages: readonly string[]
  /** The settings that are not defaults, as they stand beside the result. */
  readonly settings: Readonly<Record<string, unknown>>
  /** Schedules that this system is asked to take at most, and to run at one moment, so that the slow do not take the
   * run's time: rates are compared, never totals. */
  readonly takesMax: number
  readonly runsMax: number
  /** What its expressions can name; `minute` waits for the next one. */
  readonly grain: 'second' | 'minute'
  /** Null for systems that keep schedules in memory. */
  prepare: ((url: string) => Promise<void>) | null
  /** Connects; what has no database ignores the URL. `runs`: handlers will run here. */
  open(url: string, runs: boolean): Promise<Opened>
}

export interface Opened {
  /** Resolves when all of them are stored, or are in memory with a timer. Called once. */
  register(plans: readonly Plan[]): Promise<void>
  /** Resolves when all of `plans` have run; then when each handler started, by Plan.at, in us of the monotonic clock. */
  started(count: number): Promise<Float64Array>
}

export interface Plan {
  /** Dense from 0. */
  readonly at: number
  readonly cron: string
}

/** Notes starts of handlers that run in this process. */
export class Starts {
  readonly #us: number[] = []
  #wanted = Number.POSITIVE_INFINITY
  #tell: (() => void) | null = null
  #seen = 0

  note(at: number, us = monotonicUs()): void {
    if (this.#us[at] !== undefined) return // the next occurrence of a schedule that comes often
    this.#us[at] = us
    if (++this.#seen === this.#wanted) this.#tell?.()
  }

  async all(count: number): Promise<Float64Array> {
    this.#wanted = count
    if (this.#seen < count)
      await new Promise<void>((resolve) => {
        this.#tell = resolve
      })
    return Float64Array.from(this.#us)
  }
}

/** Many calls of a system that knows no call for many. */
export async function inFlight<T>(things: readonly T[], callers: number, call: (thing: T) => Promise<unknown>) {
  let next = 0
  const caller = async () => {
    while (next < things.length) await call(things[next++]!)
  }
  await Promise.all(Array.from({ length: callers }, caller))
}

/** Where the wall clock stands on the monotonic one: us to be added. Looks at the tick of a millisecond, which is exact. */
export function wallMinusMonotonicUs(): number {
  const startMs = Date.now()
  let wallMs = startMs
  let us = 0
  do {
    us = monotonicUs()
    wallMs = Date.now()
  } while (wallMs === startMs)
  return wallMs * 1e3 - us
}

/** An expression with seconds (or without, for a whole minute) that is due at this moment of each day, in UTC. */
export function dailyAt(ms: number, grain: Scheduler['grain']): string {
  const at = new Date(ms)
  const minute = `${at.getUTCMinutes()} ${at.getUTCHours()} * * *`
  return grain === 'minute' ? minute : `${at.getUTCSeconds()} ${minute}`
}

/** Schedules that differ, none of which is due within ten days. */
export function farAway(count: number): Plan[] {
  const day = new Date(Date.now() + 14 * 86_400_000).getUTCDate()
  return Array.from({ length: count }, (_, at) => ({
    at,
    cron: `${at % 60} ${Math.floor(at / 60) % 24} ${Math.min(day, 28)} * *`,
  }))
}
