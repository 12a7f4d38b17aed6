// A schedule that has due times, as this node keeps it, and the pure questions about its due times.

import { EngineError } from '../base/errors.ts'
import type { CronPlan } from '../schedule/cron.ts'
import { nextAfter, occurrencesBetween } from '../schedule/occurrences.ts'
import { generateRunId } from '../schedule/run-id.ts'
import type { LoadedSchedule } from '../store/schedule-store.ts'

/** Replaced as a whole when its row changes. */
export interface Entry extends Omit<LoadedSchedule, 'error'> {
  readonly plan: CronPlan
}

/** Of a row that was written by hand: no walk over due times ends at a moment that no clock tells. @throws EngineError ROW_INVALID */
export function checkMoments({ sinceMs, startsMs, endsMs, lastScheduledMs }: LoadedSchedule): void {
  for (const [name, ms] of Object.entries({ sinceMs, startsMs, endsMs, lastScheduledMs }))
    if (ms !== null && !(Math.abs(ms) <= MOMENT_MS_MAX))
      throw new EngineError('ROW_INVALID', `${name} of the schedule's row is no moment of the years 1 to 9999`)
}

/** The end of the year 9999. */
const MOMENT_MS_MAX = 253_402_300_800_000

/** Is this a due time that somebody shall decide? */
export function counts(entry: Entry, dueMs: number): boolean {
  return (
    dueMs > entry.sinceMs &&
    (entry.startsMs === null || dueMs >= entry.startsMs) &&
    (entry.endsMs === null || dueMs < entry.endsMs)
  )
}

export function isDueAt(entry: Entry, atMs: number): boolean {
  return counts(entry, atMs) && nextAfter(entry.plan, atMs - 1) === atMs
}

/** The same on every node, and different from one occurrence to the next: FNV-1a over the run id. */
export function jitterOf(entry: { readonly id: string; readonly jitterMs: number }, atMs: number): number {
  if (entry.jitterMs === 0) return 0
  let hash = 0x811c9dc5
  for (const char of generateRunId(entry.id, atMs)) hash = Math.imul(hash ^ char.codePointAt(0)!, 0x01000193)
  return (hash >>> 0) % (entry.jitterMs + 1)
}

/** The newest due times in [startMs, endMs), at most `max`, in order: looks back in growing steps. */
export function newest(plan: CronPlan, startMs: number, endMs: number, max: number): number[] {
  for (let stepMs = 60_000; ; stepMs *= 8) {
    const fromMs = Math.max(startMs, endMs - stepMs)
    const found = fromMs < endMs ? occurrencesBetween(plan, fromMs, endMs, 1_000_000) : []
    if (found.length >= max || fromMs === startMs || fromMs >= endMs) return found.slice(-max)
  }
}
