// What the holder of a job tells whoever writes it: the scheduler calls it, the syncer is it. Every call is synchronous,
// copies what it needs before it returns (bytes are read during the call only), and never waits.

import type { ClaimedChunk, DoubtItem } from './types.ts'

/** Who writes outcomes. Every call copies what it needs before it returns. */
export interface Outcomes {
  /** False when the writer is behind: nothing new is claimed then, what runs is still taken. */
  hasRoom(): boolean
  /**
   * The next call is about this job, and counts only when its handler's own transaction has not completed it: the writer
   * asks PostgreSQL.
   */
  doubt(item: DoubtItem): void
  /** Finished for good; bytes [start, end) are the JSON result, none when equal. */
  completed(
    chunk: ClaimedChunk,
    jobId: number,
    lane: number,
    startedAtMs: number,
    finishedAtMs: number,
    bytes: Uint8Array,
    start: number,
    end: number,
  ): void
  /** Failed or timed out with an error as JSON bytes; then a retry after delayMs, or a dead letter when it is negative. */
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
  ): void
  /** startedAtMs 0: it never started. */
  cancelled(chunk: ClaimedChunk, jobId: number, lane: number, startedAtMs: number, atMs: number, reason: string): void
  expired(chunk: ClaimedChunk, jobId: number, atMs: number): void
  /** Jobs firstId .. firstId + count - 1 go back in place, uncharged. started: they had begun. */
  release(
    chunk: ClaimedChunk,
    firstId: number,
    count: number,
    started: boolean,
    lane: number,
    startedAtMs: number,
    atMs: number,
  ): void
  /** A long job's visible state. */
  running(chunk: ClaimedChunk, jobId: number, lane: number, startedAtMs: number, progress: Uint8Array | null): void
}

/** The same calls, told by which node. */
export type OutcomesOf<Names extends keyof Outcomes> = {
  [Name in Names]: (nodeId: number, ...args: Parameters<Outcomes[Name]>) => void
}
