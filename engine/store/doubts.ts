// Flushes that speak of jobs which their handlers may have completed in transactions of their own (ctx.complete). The
// function flush_doubts says, within the flush's transaction, what is true of each; here the flush is cut to it.

import { jobIdAt } from './attempt-json.ts'
import type { DoubtItem, Flush, ReleaseItem } from './types.ts'

/** What flush_doubts answers of a job. */
export type DoubtState = 'open' | 'committed' | 'counted' | 'ended' | 'none'

/**
 * The flush without what it says of jobs that are not to be ended by it: completed by their own transaction, or ended
 * before, or not decided. Of these only the first kind is still counted out of its lease.
 */
export function withoutDecided(flush: Flush, states: ReadonlyMap<number, DoubtState>): Flush {
  const gone = new Set<number>()
  const uncounted = new Map<number, number>()
  for (const { jobId, leaseId } of flush.doubts ?? []) {
    const state = states.get(jobId)
    if (state === undefined || state === 'none') continue
    gone.add(jobId)
    if (state !== 'committed') uncounted.set(leaseId, (uncounted.get(leaseId) ?? 0) + 1)
  }
  if (gone.size === 0) return flush
  const kept = <T extends { readonly jobId: number }>(items: readonly T[]) =>
    items.filter(({ jobId }) => !gone.has(jobId))
  return {
    ...flush,
    ...rowsWithout(flush, gone),
    leaseDone: flush.leaseDone.map((done, at) => done - (uncounted.get(flush.leaseIds[at]!) ?? 0)),
    retries: kept(flush.retries),
    deads: kept(flush.deads),
    finished: kept(flush.finished),
    running: kept(flush.running),
    releases: flush.releases.flatMap((item) => pieces(item, gone)),
  }
}

/** The jobs that are open, and those that their own transactions completed. */
export function answersOf(
  doubts: readonly DoubtItem[],
  states: ReadonlyMap<number, DoubtState>,
): { open: number[]; committed: number[] } {
  const inState = (...wanted: DoubtState[]) =>
    doubts.map(({ jobId }) => jobId).filter((jobId) => wanted.includes(states.get(jobId) ?? 'none'))
  return { open: inState('open'), committed: inState('committed', 'counted') }
}

function rowsWithout(
  flush: Flush,
  gone: ReadonlySet<number>,
): Pick<Flush, 'rows' | 'rowEnds' | 'rowLeases' | 'rowCount'> {
  const tuples: Buffer[] = []
  const leases: number[] = []
  for (let row = 0, start = 0; row < flush.rowCount; row++) {
    const end = flush.rowEnds[row]!
    if (!gone.has(jobIdAt(flush.rows, start))) {
      tuples.push(flush.rows.subarray(start, end))
      leases.push(flush.rowLeases[row]!)
    }
    start = end
  }
  let end = 0
  return {
    rows: Buffer.concat(tuples),
    rowEnds: Uint32Array.from(tuples, (tuple) => (end += tuple.length)),
    rowLeases: Float64Array.from(leases),
    rowCount: tuples.length,
  }
}

/** What is left of a range of jobs without some of them. */
function pieces(item: ReleaseItem, gone: ReadonlySet<number>): ReleaseItem[] {
  const left: ReleaseItem[] = []
  for (let jobId = item.firstId; jobId < item.firstId + item.count; jobId++) {
    if (gone.has(jobId)) continue
    const last = left.at(-1)
    if (last !== undefined && last.firstId + last.count === jobId)
      left[left.length - 1] = { ...last, count: last.count + 1 }
    else left.push({ ...item, firstId: jobId, count: 1 })
  }
  return left
}
