// What the store gives and takes, in the words of the engine. No other file sees rows of PostgreSQL.

import type { RetryPolicy } from '../base/retry-policy.ts'

/** One claimed chunk: `count` jobs with consecutive ids from `firstId` that share everything named here. */
export interface ClaimedChunk {
  /** The fencing token: every report about these jobs carries it. */
  readonly leaseId: number
  readonly firstId: number
  readonly count: number
  readonly queueId: number
  readonly queue: string
  readonly task: string
  /** Place in the queue, for giving back in place: lower comes first, then the lower `seq`. */
  readonly rank: number
  readonly seq: number
  /** Charged attempts so far plus this one, from 1. */
  readonly attempt: number
  /** Holdings so far plus this one, from 1; never reset. */
  readonly run: number
  /** Holders that died with it. */
  readonly rescues: number
  /** Null: the task's own counts. */
  readonly maxAttempts: number | null
  /** Null: the task's own limit counts. 0: no limit. */
  readonly timeoutMs: number | null
  /** Wall clock of the database. */
  readonly expiresAtMs: number | null
  readonly createdAtMs: number
  readonly dueAtMs: number
  readonly keyed: boolean
  readonly ephemeral: boolean
  readonly group: string | null
  /** Retry policy given at enqueue as JSON text; null: the task's own counts. */
  readonly retry: string | null
  /** Its first run was wanted at a certain time: it was scheduled, or is an occurrence. */
  readonly timed: boolean
  /** JSON texts joined by U+001E. */
  readonly payloads: string
  /** The same with '' where a job has none; null when none has. */
  readonly metas: string | null
}

/** What a promotion did. */
export interface Promoted {
  /** Chunks, at most as many as it was told to. */
  readonly moved: number
  readonly queues: number[]
  /** When the next one that is left becomes due; null: none waits. */
  readonly nextInMs: number | null
  /** The database's wall time at its end. */
  readonly nowMs: number
  /** Jobs whose rows cannot be moved: they are dead letters now, ROW_INVALID. */
  readonly aside?: number
}

/** Nothing that this node could claim stands in this queue and rank up to this number, as far as it knows. */
export interface Position {
  readonly queueId: number
  readonly rank: number
  readonly seq: number
}

export interface ClaimRequest {
  readonly nodeId: number
  /** Queues in the order in which they are asked. */
  readonly queueIds: readonly number[]
  /** Tasks that this node knows; null takes any. */
  readonly taskIds: readonly number[] | null
  readonly jobsMax: number
  readonly bytesMax: number
  /** Only jobs of this group; null takes any. */
  readonly group: string | null
}

export interface RetryItem {
  readonly leaseId: number
  readonly jobId: number
  readonly delayMs: number
  /** Of the next holding. */
  readonly attempt: number
  readonly run: number
  readonly rescues: number
}

export interface DeadItem {
  readonly leaseId: number
  readonly jobId: number
  readonly code: string
  /** JSON text. */
  readonly reason: string
  readonly attempts: number
  readonly run: number
}

export interface ReleaseItem {
  readonly leaseId: number
  readonly firstId: number
  readonly count: number
  readonly attempt: number
  readonly run: number
  readonly rescues: number
  readonly rank: number
  readonly seq: number
}

/** A job that ended for good and has something to let go: a key, a group's turn, or its own row. */
export interface FinishedItem {
  readonly leaseId: number
  readonly jobId: number
  readonly queueId: number
  readonly keyed: boolean
  readonly ephemeral: boolean
  readonly group: string | null
}

/**
 * A job that its handler may have completed in a transaction of its own. What the flush says of it counts only when that
 * transaction was not committed.
 */
export interface DoubtItem {
  readonly leaseId: number
  readonly jobId: number
  readonly run: number
  /** What it is then. */
  readonly otherwise: 'retried' | 'dead' | 'released' | 'cancelled'
  readonly timedOut: boolean
  /** What the handler ended with, or was ended for, as text; null when it returned. */
  readonly said: string | null
}

/** A long attempt, visible while it runs. */
export interface RunningItem {
  readonly leaseId: number
  readonly jobId: number
  readonly run: number
  readonly lane: number
  readonly startedAtMs: number
  /** JSON text. */
  readonly progress: string | null
}

/** What one transaction settles. */
export interface Flush {
  /** Rises by 1 per flush of one node: sending the same flush again after a lost answer is harmless. */
  readonly no: number
  /** Binary COPY tuples of `attempt`, without the file's header and trailer. */
  readonly rows: Buffer
  readonly rowEnds: Uint32Array
  readonly rowLeases: Float64Array
  readonly rowCount: number
  /** Per lease: how many of its jobs end with this flush, rows and releases alike. */
  readonly leaseIds: readonly number[]
  readonly leaseDone: readonly number[]
  readonly retries: readonly RetryItem[]
  readonly deads: readonly DeadItem[]
  readonly releases: readonly ReleaseItem[]
  readonly finished: readonly FinishedItem[]
  readonly running: readonly RunningItem[]
  /** Absent in nearly every flush. */
  readonly doubts?: readonly DoubtItem[]
}

export interface FlushResult {
  /** Leases that were no longer ours: nothing about them was written. */
  readonly staleLeases: readonly number[]
  /** True when an earlier try of this flush had committed. */
  readonly alreadyDone: boolean
  /** Jobs among `doubts`: not written because their transaction is still open; and completed by it. */
  readonly doubts?: { readonly open: readonly number[]; readonly committed: readonly number[] }
}

/** One chunk to enqueue: jobs that share all options, with consecutive ids from `firstId`. */
export interface NewChunk {
  readonly firstId: number
  readonly count: number
  readonly queueId: number
  readonly taskId: number
  readonly priority: number
  /** Null: now, by the database's clock. */
  readonly runAtMs: number | null
  readonly expiresAtMs: number | null
  /** Null: as the task says where the job runs. */
  readonly maxAttempts: number | null
  readonly timeoutMs: number | null
  readonly retry: string | null
  readonly group: string | null
  /** Jobs of its group that may be held while one of these is; null: 1. */
  readonly groupLimit: number | null
  /** Its group goes on while one of these waits for a retry. */
  readonly retrySkips: boolean
  /** A chunk with a key is a chunk of one. */
  readonly key: string | null
  readonly ephemeral: boolean
  readonly meta: string | null
  /** JSON texts, `count` of them. */
  readonly payloads: readonly string[]
}

/** The state that an occurrence of a schedule is in, in the memory of a node. */
export interface OccurrenceState {
  /** `<schedule>:<unix seconds>`. */
  readonly runId: string
  readonly scheduleId: string
  readonly scheduledAtMs: number
  readonly status: string
  /** Wall clock of the node. */
  readonly atMs: number
  readonly error: string | null
}

/** What the loop tells about one of its iterations. */
export interface IterationStats {
  /** Wall clock of the node at the start of the iteration. */
  readonly timestampMs: number
  readonly durationMs: number
  /** Orchestrators in memory: jobs and occurrences. */
  readonly activeOrchestrators: number
  readonly indexSize: number
  /** Messages that waited at its end. */
  readonly inboxDepth: number
  readonly messagesProcessed: number
}

/** What a node publishes of a task: its options with every default filled in but that of the setting defaultTimeoutMs. */
export interface PublishedOptions {
  readonly queue: string
  readonly maxAttempts: number
  readonly timeoutMs: number | null
  readonly graceMs: number
  readonly heartbeatMs: number | null
  /** `custom`: a function decides, in the thread that runs the task. */
  readonly retry: RetryPolicy | { readonly kind: 'custom' }
  readonly group: string | null
  readonly groupLimit: number | null
  readonly onRetry: 'block' | 'skip'
  readonly concurrency: number
}

/** What a migration did, or would do. */
export interface MigrationReport {
  /** Version before and after; 0 means no schema. */
  readonly from: number
  readonly to: number
  /** Applied by this call, or what would be applied when it was a dry run. */
  readonly applied: readonly { readonly version: number; readonly name: string }[]
  /** The SQL of a dry run. */
  readonly sql: string
}
