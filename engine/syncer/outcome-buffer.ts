// Where the scheduler leaves what became of a job. Every call is synchronous, encodes what it is told (bytes are read
// during the call only) and never waits; the caller asks `hasRoom` before it takes more work. Beyond the hard limit a
// call throws BUFFER_OVERFLOW: the last guard, which stops the engine before it loses anything.

import type { Outcomes } from '../store/outcomes.ts'
import type { ClaimedChunk, DoubtItem } from '../store/types.ts'
import type { Batcher } from './batcher.ts'
import type { OutcomePage } from './outcome-page.ts'

export class OutcomeBuffer implements Outcomes {
  readonly #batcher: Batcher<OutcomePage>
  readonly #nodeId: () => number
  readonly #onRoom: () => void
  #refused = false // hasRoom has said no since the last onRoom

  /** There were jobs whose handlers may have completed them. */
  sawDoubts = false

  constructor(batcher: Batcher<OutcomePage>, nodeId: () => number, onRoom: () => void) {
    this.#batcher = batcher
    this.#nodeId = nodeId
    this.#onRoom = onRoom
  }

  hasRoom(): boolean {
    if (this.#batcher.hasRoom()) return true
    this.#refused = true
    return false
  }

  /** The next call is about this job, and counts only when its handler's own transaction has not completed it. */
  doubt(item: DoubtItem): void {
    this.sawDoubts = true
    this.#batcher.page.doubt(item)
  }

  /** The attempt succeeded. `bytes` from `start` to `end` is its result as JSON; start equals end: none. */
  completed(
    chunk: ClaimedChunk,
    jobId: number,
    lane: number,
    startedAtMs: number,
    finishedAtMs: number,
    bytes: Uint8Array,
    start: number,
    end: number,
  ): void {
    this.#batcher.page.completed(this.#nodeId(), chunk, jobId, lane, startedAtMs, finishedAtMs, bytes, start, end)
    this.#batcher.added()
  }

  /**
   * The attempt failed ('f') or ran out of time ('t'); `bytes` is the error as JSON. It is tried again in `delayMs`;
   * below 0 it is a dead letter with the code and the error as its reason.
   */
  failed(
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
    const page = this.#batcher.page
    const nodeId = this.#nodeId()
    page.failed(nodeId, chunk, jobId, outcome, code, lane, startedAtMs, finishedAtMs, bytes, start, end, delayMs)
    this.#batcher.added()
  }

  /** The job was cancelled while this node held it. `startedAtMs` 0: before it ran; `lane` is -1 then. */
  cancelled(chunk: ClaimedChunk, jobId: number, lane: number, startedAtMs: number, atMs: number, reason: string): void {
    this.#batcher.page.cancelled(this.#nodeId(), chunk, jobId, lane, startedAtMs, atMs, reason)
    this.#batcher.added()
  }

  /** `expiresAt` passed before the job ran: a dead letter. */
  expired(chunk: ClaimedChunk, jobId: number, atMs: number): void {
    this.#batcher.page.expired(this.#nodeId(), chunk, jobId, atMs)
    this.#batcher.added()
  }

  /** Gives `count` jobs from `firstId` back, uncharged. `started`: they had begun to run, which is recorded. */
  release(
    chunk: ClaimedChunk,
    firstId: number,
    count: number,
    started: boolean,
    lane: number,
    startedAtMs: number,
    atMs: number,
  ): void {
    this.#batcher.page.release(this.#nodeId(), chunk, firstId, count, started, lane, startedAtMs, atMs)
    this.#batcher.added()
  }

  /** The job runs for long enough to be worth a row of its own. `progress` null leaves what was said before. */
  running(chunk: ClaimedChunk, jobId: number, lane: number, startedAtMs: number, progress: Uint8Array | null): void {
    this.#batcher.page.running(chunk, jobId, lane, startedAtMs, progress)
    this.#batcher.added()
  }

  /** The syncer calls it after each page. */
  settled(): void {
    if (!this.#refused || !this.#batcher.hasRoom()) return
    this.#refused = false
    this.#onRoom()
  }
}
