// Takes a flush apart by job, for the rare case that PostgreSQL refuses it because of what one job said. Halving it
// again and again leaves that job alone and lets all others through.

import { jobIdAt } from '../store/attempt-json.ts'
import type { DeadItem, DoubtItem, FinishedItem, Flush, ReleaseItem, RetryItem, RunningItem } from '../store/types.ts'
import { OUTCOME, outcomeOf, withError } from './attempt-rows.ts'

/** Everything that one flush says about one job (or about one range of jobs that are given back unstarted). */
export interface Unit {
  readonly leaseId: number
  readonly jobId: number
  /** Its binary tuple, or null. */
  tuple: Buffer | null
  retry: RetryItem | null
  dead: DeadItem | null
  release: ReleaseItem | null
  finished: FinishedItem | null
  running: RunningItem | null
  doubt: DoubtItem | null
}

/** The units of a flush, in the order of its rows, those without a row at the end. */
export function unitsOf(flush: Flush): Unit[] {
  const units = new Map<string, Unit>()
  const unit = (leaseId: number, jobId: number): Unit => {
    const key = `${leaseId} ${jobId}`
    const known = units.get(key)
    if (known !== undefined) return known
    const made: Unit = {
      leaseId,
      jobId,
      tuple: null,
      retry: null,
      dead: null,
      release: null,
      finished: null,
      running: null,
      doubt: null,
    }
    units.set(key, made)
    return made
  }
  const started = new Set<string>()
  for (let row = 0, start = 0; row < flush.rowCount; row++) {
    const end = flush.rowEnds[row]!
    const found = unit(flush.rowLeases[row]!, jobIdAt(flush.rows, start))
    found.tuple = flush.rows.subarray(start, end)
    if (outcomeOf(flush.rows, start) === OUTCOME.released) started.add(`${found.leaseId} ${found.jobId}`)
    start = end
  }
  for (const item of flush.retries) unit(item.leaseId, item.jobId).retry = item
  for (const item of flush.deads) unit(item.leaseId, item.jobId).dead = item
  for (const item of flush.finished) unit(item.leaseId, item.jobId).finished = item
  for (const item of flush.running) unit(item.leaseId, item.jobId).running = item
  for (const item of flush.doubts ?? []) unit(item.leaseId, item.jobId).doubt = item
  for (const item of flush.releases) {
    if (!started.has(`${item.leaseId} ${item.firstId}`)) unit(item.leaseId, item.firstId).release = item
    // Each job that had started has a row of its own, so its release goes with that row.
    else
      for (let jobId = item.firstId; jobId < item.firstId + item.count; jobId++)
        unit(item.leaseId, jobId).release = { ...item, firstId: jobId, count: 1 }
  }
  return [...units.values()]
}

/** One flush of these units. */
export function flushOf(no: number, units: readonly Unit[]): Flush {
  const withRow = units.filter((unit) => unit.tuple !== null)
  const rowEnds = new Uint32Array(withRow.length)
  const rowLeases = new Float64Array(withRow.length)
  let end = 0
  withRow.forEach((unit, row) => {
    end += unit.tuple!.length
    rowEnds[row] = end
    rowLeases[row] = unit.leaseId
  })
  const done = new Map<number, number>()
  for (const unit of units) done.set(unit.leaseId, (done.get(unit.leaseId) ?? 0) + jobsEnded(unit))
  const doubts = present(units.map((unit) => unit.doubt))
  return {
    no,
    rows: Buffer.concat(withRow.map((unit) => unit.tuple!)),
    rowEnds,
    rowLeases,
    rowCount: withRow.length,
    leaseIds: [...done.keys()],
    leaseDone: [...done.values()],
    retries: present(units.map((unit) => unit.retry)),
    deads: present(units.map((unit) => unit.dead)),
    releases: present(units.map((unit) => unit.release)),
    finished: present(units.map((unit) => unit.finished)),
    running: present(units.map((unit) => unit.running)),
    ...(doubts.length > 0 ? { doubts } : {}),
  }
}

/** How many jobs end their holding with this flush. */
export function outcomesOf(flush: Flush): number {
  let count = 0
  for (const done of flush.leaseDone) count += done
  return count
}

/**
 * What is written instead of a unit that PostgreSQL refuses: the same end without the handler's own words, so that the
 * job does not stay held for ever. A completed job whose result cannot be stored becomes a dead letter. Null when there
 * is nothing that could be left out.
 */
export function substituteOf(unit: Unit, code: string, message: string, details: Record<string, unknown>): Unit | null {
  if (unit.tuple === null || unit.release !== null) return null
  const error = JSON.stringify({ code, type: 'EngineError', message, details })
  const dead: DeadItem = unit.dead ?? {
    leaseId: unit.leaseId,
    jobId: unit.jobId,
    code,
    reason: error,
    ...attemptAndRun(unit.tuple),
  }
  const lost = unit.retry === null && (unit.dead !== null || outcomeOf(unit.tuple, 0) === OUTCOME.completed)
  return {
    ...unit,
    tuple: withError(unit.tuple, Buffer.from(error)),
    dead: lost ? { ...dead, reason: error } : null,
    running: null,
  }
}

/** How many of its lease's jobs end with this unit. */
function jobsEnded(unit: Unit): number {
  if (unit.release !== null) return unit.release.count
  return unit.tuple !== null || unit.finished !== null ? 1 : 0
}

function attemptAndRun(tuple: Buffer): { attempts: number; run: number } {
  return { attempts: tuple.readInt16BE(24), run: tuple.readInt16BE(18) }
}

function present<T>(items: readonly (T | null)[]): T[] {
  return items.filter((item): item is T => item !== null)
}
