// The types of the public surface: what an engine, a client and the console offer. The commands are written against
// these, and so are users' programs.

import type { TaskDefinition } from './base/task.ts'
import type { Enqueued, EnqueuedMany, EnqueueItem, EnqueueOptions } from './enqueuer.ts'
import type { MigrationReport } from './store/migrate.ts'

/** Task names with their payload types; what `createEngine({ tasks: [a, b] })` knows about its tasks. */
export type Registry = Record<string, unknown>

/** The registry of a list of task definitions. */
export type RegistryOf<Tasks extends readonly TaskDefinition<string, never, unknown>[]> = {
  [Task in Tasks[number] as Task['name']]: Task extends TaskDefinition<string, infer Payload, unknown> ? Payload : never
}

type NameOf<Tasks> = Extract<keyof Tasks, string>

/** Who may enqueue. With a registry a wrong name or payload does not compile. */
export interface Producer<Tasks = Registry> {
  /**
   * Enqueues one job. Resolved means durable; with `options.client` it means written in your transaction.
   * @throws EngineError VALIDATION, INVALID_PAYLOAD, DUPLICATE_TASK (details.jobId), STORE_UNREACHABLE, STORE_TIMEOUT
   */
  enqueue<Name extends NameOf<Tasks>>(task: Name, payload: Tasks[Name], options?: EnqueueOptions): Promise<Enqueued>
  /** Enqueues many jobs of one task that share their options: all or nothing. */
  enqueueMany<Name extends NameOf<Tasks>>(
    task: Name,
    payloads: readonly Tasks[Name][],
    options?: EnqueueOptions,
  ): Promise<EnqueuedMany>
  /** Enqueues many jobs with options of their own: all or nothing. */
  enqueueMany(items: readonly ItemOf<Tasks>[]): Promise<EnqueuedMany>
}

export type ItemOf<Tasks> = {
  [Name in NameOf<Tasks>]: Omit<EnqueueItem, 'task' | 'payload'> & {
    readonly task: Name
    readonly payload: Tasks[Name]
  }
}[NameOf<Tasks>]

/** A process that only enqueues and looks. */
export interface Client<Tasks = Registry> extends Producer<Tasks> {
  readonly console: Console
  /** Brings the schema up to this version. */
  migrate(dryRun?: boolean): Promise<MigrationReport>
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

export interface Engine<Tasks = Registry> extends Producer<Tasks> {
  readonly console: Console
  /** Connects, migrates, loads the tasks, recovers what a predecessor left, and begins to work. */
  start(): Promise<void>
  /**
   * Takes no new work, lets running jobs finish within `timeoutMs` (default: setting stopTimeoutMs), releases the rest
   * uncharged, writes everything, and leaves. Safe twice.
   */
  stop(timeoutMs?: number): Promise<StopReport>
  /** Releases what is held and leaves at once; running handlers are ended. */
  kill(): Promise<void>
  stats(): EngineStats
  migrate(dryRun?: boolean): Promise<MigrationReport>
  /** Resolves when this engine holds nothing and PostgreSQL has nothing ready for it. Rejects after `timeoutMs` (default 60,000). */
  drain(timeoutMs?: number): Promise<void>
  /** Resolves when this engine has stopped, also when it stopped itself because it could not go on. */
  readonly stopped: Promise<void>
  /** Task files that could not be loaded, with the reason. */
  readonly broken: readonly { readonly file: string; readonly message: string }[]
  [Symbol.asyncDispose](): Promise<void>
}

export interface StopReport {
  /** Jobs that were given back to run elsewhere. */
  readonly released: number
  /** Outcomes that PostgreSQL did not take in time; they are on disk and replayed at the next start. */
  readonly outboxed: number
  readonly [fact: string]: unknown
}

export interface Spread {
  readonly p50: number
  readonly p99: number
}

/** Since the start of this engine. */
export interface EngineStats {
  readonly completed: number
  /** Failed attempts, whatever came after. */
  readonly failed: number
  readonly timedOut: number
  readonly retried: number
  readonly dead: number
  readonly cancelled: number
  readonly released: number
  /** Reports about jobs that were no longer ours. */
  readonly lateReports: number
  /** Outcomes that PostgreSQL has taken. */
  readonly settled: number
  /** Outcomes refused because their lease was lost. */
  readonly stale: number
  readonly enqueued: number
  readonly claims: number
  readonly rescuedJobs: number
  /** Jobs in memory, and those of them that run now. */
  readonly held: number
  readonly running: number
  /** Due until started, in ms. */
  readonly waitMs: Spread
  /** Started until ended, in ms. */
  readonly runMs: Spread
}

export interface Console {
  queues(): Promise<QueueStats[]>
  nodes(): Promise<NodeRow[]>
  /** Newest first; `limit` at most 1,000 (default 50), `before` continues below an id. */
  jobs(filter?: JobFilter): Promise<JobRow[]>
  job(id: number): Promise<JobRow | null>
  /** The life of a job, event by event. @throws EngineError JOB_NOT_FOUND */
  explain(id: number): Promise<JobLife>
  readonly dead: {
    list(filter?: DeadFilter): Promise<DeadRow[]>
    /** One or many matching, oldest first. @throws EngineError JOB_NOT_FOUND, NOT_DEAD, DUPLICATE_TASK when one id was named */
    requeue(filter: DeadFilter): Promise<number>
    purge(filter: DeadFilter): Promise<number>
  }
  /** cancelled: it was waiting and never will run. signalled: its holder was told. */
  cancel(id: number, reason?: string): Promise<'cancelled' | 'signalled' | 'finished' | 'unknown'>
  doctor(): Promise<DoctorRow[]>
  migrations(dryRun: boolean): Promise<MigrationReport>
}

export interface QueueStats {
  readonly queue: string
  readonly paused: boolean
  readonly available: number
  readonly inFlight: number
  readonly scheduled: number
  readonly retrying: number
  readonly blocked: number
  readonly dead: number
  /** Age of the oldest job that could run, in ms; null when none waits. */
  readonly oldestWaitingMs: number | null
}

export interface NodeRow {
  readonly id: number
  readonly host: string
  readonly pid: number
  readonly version: string
  readonly threads: number
  readonly state: 'live' | 'quiet'
  readonly startedAt: Date
  readonly seenAt: Date
  readonly silentMs: number
  readonly limitMs: number
  readonly held: number
}

export type JobState =
  | 'queued'
  | 'scheduled'
  | 'retrying'
  | 'blocked'
  | 'assigned'
  | 'running'
  | 'completed'
  | 'failed'
  | 'cancelled'
  | 'expired'
  | 'unknown'

export interface JobFilter {
  readonly state?: string
  readonly task?: string
  readonly queue?: string
  readonly id?: number
  readonly limit?: number
  readonly before?: number
}

export interface JobRow {
  readonly id: number
  readonly task: string
  readonly queue: string
  readonly state: JobState
  readonly attempt: number
  readonly maxAttempts: number
  readonly priority: number
  readonly group: string | null
  readonly idempotencyKey: string | null
  readonly payload: unknown
  readonly result: unknown
  readonly error: unknown
  readonly meta: unknown
  readonly createdAt: Date
  readonly runAt: Date | null
  readonly startedAt: Date | null
  readonly finishedAt: Date | null
  readonly node: number | null
}

export interface JobEvent {
  readonly at: Date | null
  readonly state: string
  readonly where: string
  readonly why: string
}

export interface JobLife {
  readonly job: JobRow
  readonly events: readonly JobEvent[]
}

export interface DeadFilter {
  readonly id?: number
  readonly queue?: string
  readonly task?: string
  readonly limit?: number
  readonly before?: number
}

export interface DeadRow {
  readonly id: number
  readonly task: string
  readonly queue: string
  readonly code: string
  readonly reason: unknown
  readonly attempts: number
  readonly diedAt: Date
  readonly payload: unknown
}

export interface DoctorRow {
  readonly check: string
  readonly value: string
  readonly verdict: 'ok' | 'warn' | 'bad'
  readonly advice: string
}
