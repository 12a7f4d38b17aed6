// What the scheduler sees of the threads: lanes that are fed pieces of chunks and that report back. Only shapes stand
// here; pool.ts is the one implementation with threads.

import type { ErrorCode } from '../engine/base/errors.ts'
import type { RetryPolicy } from '../engine/base/task.ts'

/** One piece of a chunk for one lane: jobs firstId .. firstId + slots.length - 1. */
export interface FeedPiece {
  task: string
  queue: string
  /** Fences a completion by the handler itself. */
  leaseId: number
  firstId: number
  /** Echoed in every report, with the generation; the lane gives them no meaning. */
  slots: Uint32Array
  generations: Uint32Array
  /** JSON texts joined by PAYLOAD_SEPARATOR, exactly slots.length of them; an empty text is an undefined payload. */
  payloads: string
  /** The same for meta, '' where a job has none; null when none of them has. */
  metas: string | null
  attempt: number
  run: number
  maxAttempts: number
  createdAtMs: number
  group: string | null
}

/**
 * What a lane's thread reports. There is no object per message: bytes are [start, end) of `bytes`, which is shared
 * memory and valid only during the call. Wall times are whole milliseconds, `ranMs` has fractions.
 */
export interface ReportSink {
  /** The thread is about to call the handler. */
  started(lane: number, slot: number, generation: number, atMs: number): void
  /** The bytes are the result as JSON in UTF-8; start === end: the handler returned nothing. */
  completed(
    lane: number,
    slot: number,
    generation: number,
    startedAtMs: number,
    ranMs: number,
    bytes: Uint8Array,
    start: number,
    end: number,
  ): void
  /**
   * The bytes are an error as JSON: { code, type, message, stack?, details? }, at most 16 KiB. decidedMs: the delay that
   * the task's own function decided, below 0 for no further attempt; null when none was asked.
   */
  failed(
    lane: number,
    slot: number,
    generation: number,
    startedAtMs: number,
    ranMs: number,
    retryable: boolean,
    bytes: Uint8Array,
    start: number,
    end: number,
    decidedMs: number | null,
  ): void
  /**
   * The handler is about to complete the job in a transaction of its own. Told before it can, and followed by one of the
   * two above like any other: which of them is true only PostgreSQL knows.
   */
  completing(lane: number, slot: number, generation: number): void
  heartbeat(lane: number, slot: number, generation: number, atMs: number): void
  /** The bytes are any JSON, at most 16 KiB. */
  progress(lane: number, slot: number, generation: number, bytes: Uint8Array, start: number, end: number): void
  /** The bytes are { level, event, facts } as JSON, at most 8 KiB. */
  log(lane: number, slot: number, generation: number, bytes: Uint8Array, start: number, end: number): void
}

/** A thread is gone. What it had taken and not reported is the caller's to charge with `code`. */
export interface LaneLost {
  lane: number
  code: ErrorCode
  message: string
  /** Slots that were fed and never taken, in feed order: to be given back uncharged. */
  notTaken: number[]
}

/** A task as the threads found it, with every default but that of the setting defaultTimeoutMs. */
export interface TaskInfo {
  name: string
  file: string
  queue: string
  maxAttempts: number
  /** What its jobs have where the enqueue does not say. */
  group: string | null
  groupLimit: number | null
  onRetry: 'block' | 'skip'
  /** null: it does not say. */
  timeoutMs: number | null
  graceMs: number
  heartbeatMs: number | null
  concurrency: number
  retry: RetryPolicy
  /** A function of the task's own decides about retries, in the thread; `retry` is for where it cannot be asked. */
  decides: boolean
  inline: boolean
}

/** What the task files hold, which files do not load, and names that stand for two definitions, with the place of each. */
export interface Catalog {
  tasks: TaskInfo[]
  broken: { file: string; message: string }[]
  doubles: { task: string; places: [string, string] }[]
}

export type AbortReason = 'timeout' | 'cancelled' | 'stopping'

export interface Lanes {
  /** Lanes that are there to stay, numbered from 0. When it is lowered, those above it finish what they have. */
  readonly count: number
  /** The thread is up, loaded, not about to be replaced, and no revoke waits for its acknowledgement. */
  isOpen(lane: number): boolean
  /** Hands pieces of one queue and task to an open lane; at most LANE_JOBS_MAX jobs may be outstanding. */
  feed(lane: number, pieces: readonly FeedPiece[]): void
  /** Fed, and not yet drained as completed or failed. */
  outstanding(lane: number): number
  /** Taken by the thread and not yet drained as completed or failed. */
  taken(lane: number): number
  /**
   * Takes back what was fed and not taken: lossless, atomic against the thread. Slots in feed order. When any were
   * taken back, the lane is closed until the thread has thrown away its copy; onOpen follows.
   */
  revoke(lane: number): number[]
  /** Fires that job's AbortSignal; a job that waits in the thread fails without being run. Late calls are ignored. */
  abort(lane: number, slot: number, generation: number, reason: AbortReason): void
  /** Ends the thread now; onLost follows out of a later drain(), then a fresh thread comes up and onOpen follows. */
  kill(lane: number, code: ErrorCode, message: string): void
  /** Hands over what was reported, up to the heads seen at its start; returns how many messages. */
  drain(sink: ReportSink, limit: number): number
  /** True when drain() has something to do. */
  hasReports(): boolean
}
