// PostgreSQL as the syncer sees it: takes flushes, numbers and leases, and remembers what became of each job. What it
// does with the next flushes can be told beforehand.

import { EngineError } from '../../engine/base/errors.ts'
import type { ClaimedChunk, Flush, FlushResult } from '../../engine/store/types.ts'

/** How the next flush goes: taken; refused before anything happened; taken, and the answer lost. */
export type Weather = 'fine' | 'lost' | 'ambiguous'

export interface Written {
  readonly leaseId: number
  readonly jobId: number
  readonly outcome: string
  readonly run: number
  readonly attempt: number
  readonly text: string | null
}

export class FlushModel {
  /** Taken rows, in order. */
  readonly rows: Written[] = []
  readonly flushes: Flush[] = []
  /** Jobs that ended their holding, per lease. */
  readonly done = new Map<number, number>()
  readonly retries: Flush['retries'][number][] = []
  readonly deads: Flush['deads'][number][] = []
  readonly releases: Flush['releases'][number][] = []
  readonly finished: Flush['finished'][number][] = []
  readonly running: Flush['running'][number][] = []
  readonly stale = new Set<number>()
  readonly weather: Weather[] = []
  /** Rows whose text contains this are refused, and the whole flush with them. */
  poison: string | null = null
  calls = 0
  /** While set, calls wait for it. */
  gate: Promise<void> | null = null
  #lastNo = 0
  #wake: (() => void) | null = null

  /** Resolves at the next call. */
  called(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve
    })
  }

  async flush(flush: Flush): Promise<FlushResult> {
    this.calls++
    this.#wake?.()
    await (this.gate ?? Promise.resolve())
    const weather = this.weather.shift() ?? 'fine'
    if (weather === 'lost') throw new EngineError('STORE_UNREACHABLE', 'connection lost')
    if (this.#lastNo >= flush.no) return { staleLeases: [], alreadyDone: true }
    const rows = rowsOf(flush)
    if (this.poison !== null && rows.some((row) => row.text?.includes(this.poison!)))
      throw new EngineError('STORE_FAILED', 'invalid input syntax for type json', { sqlState: '22P02' })
    this.#lastNo = flush.no
    const mine = (item: { leaseId: number }) => !this.stale.has(item.leaseId)
    this.flushes.push(flush)
    this.rows.push(...rows.filter(mine))
    this.retries.push(...flush.retries.filter(mine))
    this.deads.push(...flush.deads.filter(mine))
    this.releases.push(...flush.releases.filter(mine))
    this.finished.push(...flush.finished.filter(mine))
    this.running.push(...flush.running.filter(mine))
    flush.leaseIds.forEach((leaseId, index) => {
      if (mine({ leaseId })) this.done.set(leaseId, (this.done.get(leaseId) ?? 0) + flush.leaseDone[index]!)
    })
    if (weather === 'ambiguous') throw new EngineError('STORE_UNREACHABLE', 'connection lost while committing')
    return { staleLeases: flush.leaseIds.filter((leaseId) => this.stale.has(leaseId)), alreadyDone: false }
  }
}

/** Reads the tuples of a flush as PostgreSQL would. */
export function rowsOf(flush: Flush): Written[] {
  const rows: Written[] = []
  let at = 0
  for (let row = 0; row < flush.rowCount; row++) {
    const fields: (Buffer | null)[] = []
    const count = flush.rows.readInt16BE(at)
    at += 2
    for (let field = 0; field < count; field++) {
      const length = flush.rows.readInt32BE(at)
      at += 4
      fields.push(length === -1 ? null : flush.rows.subarray(at, at + length))
      at += Math.max(0, length)
    }
    if (at !== flush.rowEnds[row]) throw new Error(`row ${row} ends at ${at}, not at ${flush.rowEnds[row]}`)
    rows.push({
      leaseId: flush.rowLeases[row]!,
      jobId: Number(fields[0]!.readBigInt64BE()),
      run: fields[1]!.readInt16BE(),
      attempt: fields[2]!.readInt16BE(),
      outcome: fields[3]!.toString(),
      text: (fields[8] ?? fields[9])?.toString() ?? null,
    })
  }
  if (at !== flush.rows.length) throw new Error('bytes after the last row')
  return rows
}

/** A chunk of a hundred jobs from `firstId`, with what the test wants different. */
export function chunkOf(firstId: number, different: Partial<ClaimedChunk> = {}): ClaimedChunk {
  return {
    leaseId: 1,
    firstId,
    count: 100,
    queueId: 7,
    queue: 'default',
    task: 'task',
    rank: 0,
    seq: 1,
    attempt: 1,
    run: 1,
    rescues: 0,
    maxAttempts: 3,
    timeoutMs: null,
    expiresAtMs: null,
    createdAtMs: 0,
    dueAtMs: 0,
    keyed: false,
    ephemeral: false,
    group: null,
    retry: null,
    timed: false,
    payloads: '',
    metas: null,
    ...different,
  }
}
