// What one flush will write: encoded attempt rows, and the few items that need more than a row (a retry, a dead letter,
// a job given back, a key or group to let go, a sign of life). The scheduler's calls fill it; once it is handed to the
// writer nobody touches it until it has been settled.

import type { OutcomesOf } from '../store/outcomes.ts'
import type {
  ClaimedChunk,
  DeadItem,
  DoubtItem,
  FinishedItem,
  Flush,
  ReleaseItem,
  RetryItem,
  RunningItem,
} from '../store/types.ts'
import { AttemptRows, OUTCOME } from './attempt-rows.ts'
import type { Page } from './batcher.ts'

/** What an item weighs beside its texts, for the limit in bytes: an object of eight numbers and its place in an array. */
const ITEM_BYTES = 120
const NOTHING = new Uint8Array(0)
const NO_LANE = -1

export class OutcomePage implements Page, OutcomesOf<'completed' | 'failed' | 'cancelled' | 'expired' | 'release'> {
  readonly #rows: AttemptRows
  readonly #clockLeadMs: () => number
  #leaseIds: number[] = []
  #leaseDone: number[] = []
  #retries: RetryItem[] = []
  #deads: DeadItem[] = []
  #releases: ReleaseItem[] = []
  #finished: FinishedItem[] = []
  #doubts: DoubtItem[] = []
  readonly #running = new Map<number, RunningItem>()
  readonly #leaseIndex = new Map<number, number>()
  #lastLease = -1 // most outcomes come in runs of one lease: saves the map
  #lastIndex = -1
  #rowless = 0 // ends without a row of their own, each counted as one
  #itemBytes = 0
  #shared = false

  /** @param clockLeadMs what is added to times of this machine so that they are the database's */
  constructor(clockLeadMs: () => number = () => 0) {
    this.#rows = new AttemptRows(clockLeadMs)
    this.#clockLeadMs = clockLeadMs
  }

  /** Rows and rowless outcomes: what the limits count. */
  get count(): number {
    return this.#rows.count + this.#rowless + this.#running.size
  }

  /** The leases that it is about. */
  get leaseIds(): readonly number[] {
    return this.#leaseIds
  }

  get bytes(): number {
    return this.#rows.bytes + this.#itemBytes
  }

  /** What comes next about this job counts only when its handler's own transaction has not completed it. */
  doubt(item: DoubtItem): void {
    this.#doubts.push(item)
    this.#itemBytes += ITEM_BYTES + (item.said?.length ?? 0)
  }

  completed(
    nodeId: number,
    chunk: ClaimedChunk,
    jobId: number,
    lane: number,
    startedAtMs: number,
    finishedAtMs: number,
    bytes: Uint8Array,
    start: number,
    end: number,
  ): void {
    const { leaseId, run, attempt } = chunk
    if (chunk.ephemeral) this.#rowless++
    else
      this.#rows.add(
        leaseId,
        jobId,
        run,
        attempt,
        OUTCOME.completed,
        nodeId,
        lane,
        startedAtMs,
        finishedAtMs,
        bytes,
        start,
        end,
      )
    this.#ended(leaseId, jobId)
    this.#finish(chunk, jobId, chunk.ephemeral)
  }

  failed(
    nodeId: number,
    chunk: ClaimedChunk,
    jobId: number,
    outcome: 'f' | 't',
    code: string,
    lane: number,
    startedAtMs: number,
    finishedAtMs: number,
    bytes: Uint8Array,
    start: number,
    end: number,
    delayMs: number,
  ): void {
    const { leaseId, run, attempt, rescues } = chunk
    const byte = outcome === 't' ? OUTCOME.timedOut : OUTCOME.failed
    this.#rows.add(leaseId, jobId, run, attempt, byte, nodeId, lane, startedAtMs, finishedAtMs, bytes, start, end)
    this.#ended(leaseId, jobId)
    if (delayMs >= 0) {
      const next = { leaseId, jobId, delayMs: Math.round(delayMs), attempt: attempt + 1, run: run + 1, rescues }
      this.#retries.push(next)
      this.#itemBytes += ITEM_BYTES
    } else {
      this.#bury(chunk, jobId, code, textOf(bytes, start, end), attempt)
      this.#finish(chunk, jobId)
    }
  }

  cancelled(
    nodeId: number,
    chunk: ClaimedChunk,
    jobId: number,
    lane: number,
    startedAtMs: number,
    atMs: number,
    reason: string,
  ): void {
    const { leaseId, run, attempt } = chunk
    const error = errorBytes('TASK_CANCELLED', reason)
    this.#rows.add(
      leaseId,
      jobId,
      run,
      attempt,
      OUTCOME.cancelled,
      nodeId,
      lane,
      startedAtMs,
      atMs,
      error,
      0,
      error.length,
    )
    this.#ended(leaseId, jobId)
    this.#finish(chunk, jobId)
  }

  expired(nodeId: number, chunk: ClaimedChunk, jobId: number, atMs: number): void {
    const { leaseId, run, attempt } = chunk
    const error = errorBytes('TASK_EXPIRED', 'expiresAt passed before the job could run')
    this.#rows.add(leaseId, jobId, run, attempt, OUTCOME.expired, nodeId, NO_LANE, 0, atMs, error, 0, error.length)
    this.#ended(leaseId, jobId)
    this.#bury(chunk, jobId, 'TASK_EXPIRED', error.toString(), attempt - 1) // it never ran this time
    this.#finish(chunk, jobId)
  }

  release(
    nodeId: number,
    chunk: ClaimedChunk,
    firstId: number,
    count: number,
    started: boolean,
    lane: number,
    startedAtMs: number,
    atMs: number,
  ): void {
    const { leaseId, attempt, rescues, rank, seq } = chunk
    for (let jobId = firstId; jobId < firstId + count; jobId++) {
      if (started)
        this.#rows.add(
          leaseId,
          jobId,
          chunk.run,
          attempt,
          OUTCOME.released,
          nodeId,
          lane,
          startedAtMs,
          atMs,
          NOTHING,
          0,
          0,
        )
      this.#ended(leaseId, jobId)
    }
    // A job that had started was held once more; one that had not keeps its place as if nobody had looked at it.
    this.#giveBack(
      { leaseId, firstId, count, attempt, run: chunk.run + (started ? 1 : 0), rescues, rank, seq },
      started,
    )
  }

  running(chunk: ClaimedChunk, jobId: number, lane: number, startedAtMs: number, progress: Uint8Array | null): void {
    this.#indexOf(chunk.leaseId) // the lease is checked, although nothing of it ends
    const known = this.#running.get(jobId)
    const text = progress === null ? (known?.progress ?? null) : textOf(progress, 0, progress.length)
    if (known === undefined) this.#itemBytes += ITEM_BYTES
    this.#itemBytes += (text?.length ?? 0) - (known?.progress?.length ?? 0)
    this.#running.set(jobId, {
      leaseId: chunk.leaseId,
      jobId,
      run: chunk.run,
      lane,
      startedAtMs: Math.round(startedAtMs + this.#clockLeadMs()),
      progress: text,
    })
  }

  /** The page as the store takes it: views, not copies. The page must not change any more. */
  toFlush(no: number): Flush {
    return {
      no,
      rows: this.#rows.tuples,
      rowEnds: this.#rows.ends,
      rowLeases: this.#rows.leases,
      rowCount: this.#rows.count,
      leaseIds: this.#leaseIds,
      leaseDone: this.#leaseDone,
      retries: this.#retries,
      deads: this.#deads,
      releases: this.#releases,
      finished: this.#finished,
      running: [...this.#running.values()],
      ...(this.#doubts.length > 0 ? { doubts: this.#doubts } : {}),
    }
  }

  /** Says that a try of this page may still be under way somewhere: its memory must not be used again. */
  share(): void {
    this.#shared = true
  }

  /** Empty again, ready for the next outcomes. */
  reset(): void {
    this.#rows.clear(this.#shared)
    this.#leaseIds = []
    this.#leaseDone = []
    this.#retries = []
    this.#deads = []
    this.#releases = []
    this.#finished = []
    this.#doubts = []
    this.#running.clear()
    this.#leaseIndex.clear()
    this.#lastLease = -1
    this.#lastIndex = -1
    this.#rowless = 0
    this.#itemBytes = 0
    this.#shared = false
  }

  /** One job of the lease has ended its holding; what was said about its running is of no use any more. */
  #ended(leaseId: number, jobId: number): void {
    if (leaseId !== this.#lastLease) {
      this.#lastIndex = this.#indexOf(leaseId)
      this.#lastLease = leaseId
    }
    this.#leaseDone[this.#lastIndex]!++
    if (this.#running.size > 0 && this.#running.get(jobId)?.leaseId === leaseId) this.#running.delete(jobId)
  }

  #indexOf(leaseId: number): number {
    const known = this.#leaseIndex.get(leaseId)
    if (known !== undefined) return known
    const index = this.#leaseIds.push(leaseId) - 1
    this.#leaseDone.push(0)
    this.#leaseIndex.set(leaseId, index)
    return index
  }

  #bury(chunk: ClaimedChunk, jobId: number, code: string, reason: string, attempts: number): void {
    this.#deads.push({ leaseId: chunk.leaseId, jobId, code, reason, attempts, run: chunk.run })
    this.#itemBytes += ITEM_BYTES + reason.length
  }

  /** `ephemeral`: nothing shall be left of the job; what did not complete leaves its evidence whatever it is. */
  #finish(chunk: ClaimedChunk, jobId: number, ephemeral = false): void {
    const { leaseId, queueId, keyed, group } = chunk
    if (!keyed && !ephemeral && group === null) return
    this.#finished.push({ leaseId, jobId, queueId, keyed, ephemeral, group })
    this.#itemBytes += ITEM_BYTES
  }

  #giveBack(item: ReleaseItem, started: boolean): void {
    const last = this.#releases.at(-1)
    if (last !== undefined && sameChunk(last, item)) {
      const above = last.firstId + last.count === item.firstId
      if (above || item.firstId + item.count === last.firstId) {
        const firstId = above ? last.firstId : item.firstId
        this.#releases[this.#releases.length - 1] = { ...last, firstId, count: last.count + item.count }
        return
      }
    }
    this.#releases.push(item)
    this.#itemBytes += ITEM_BYTES
    if (!started) this.#rowless++
  }
}

function sameChunk(a: ReleaseItem, b: ReleaseItem): boolean {
  return (
    a.leaseId === b.leaseId &&
    a.seq === b.seq &&
    a.rank === b.rank &&
    a.run === b.run &&
    a.attempt === b.attempt &&
    a.rescues === b.rescues
  )
}

/** Text of bytes that may lie in shared memory, which a TextDecoder refuses. */
function textOf(bytes: Uint8Array, start: number, end: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString('utf8')
}

function errorBytes(code: string, message: string): Buffer {
  return Buffer.from(JSON.stringify({ code, type: 'EngineError', message }))
}
