// The types of the public surface: what an engine, a client and the console offer. The commands are written against
// these, and so are users' programs.

import type { InboxStats } from '../threads/inbox.ts'
import type { Json, RetryPolicy, TaskDefinition } from './base/task.ts'
import type { Settings } from './config/settings.ts'
import type { Enqueued, EnqueuedMany, EnqueueItem, EnqueueOptions } from './enqueuer/options.ts'
import type { Message as LoopMessage } from './scheduler/messages.ts'
import type { MigrationReport } from './store/types.ts'

/** Task names with their payload types; what `createEngine({ tasks: [a, b] })` knows about its tasks. */
export type Registry = Record<string, unknown>

/** The registry of a list of task definitions. */
export type RegistryOf<Tasks extends readonly TaskDefinition<string, never, unknown>[]> = {
  [Task in Tasks[number] as Task['name']]: Task extends TaskDefinition<string, infer Payload, unknown> ? Payload : never
}

type NameOf<Tasks> = Extract<keyof Tasks, string>

/** What follows the name: a task that takes nothing, or may be given nothing, needs no payload; null stands for it. */
export type EnqueueArguments<Payload> = [undefined] extends [Payload]
  ? [payload?: Payload | null, options?: EnqueueOptions]
  : [null] extends [Payload]
    ? [payload?: Payload, options?: EnqueueOptions]
    : [payload: Payload, options?: EnqueueOptions]

/** Who may enqueue. With a registry a wrong name or payload does not compile. */
export interface Producer<Tasks = Registry> {
  /**
   * Enqueues one job. Resolved means durable; with `options.client` it means written in your transaction.
   * Rejected means that nothing was written, unless `details.maybeWritten` is true: PostgreSQL's answer was lost and it
   * could not be asked within `enqueueTimeoutMs` (for an ephemeral job: at all). Only an idempotencyKey makes it safe to
   * send such a job again.
   * @throws EngineError VALIDATION, INVALID_PAYLOAD, DUPLICATE_TASK (details.jobId), STORE_UNREACHABLE, STORE_TIMEOUT
   */
  enqueue<Name extends NameOf<Tasks>>(task: Name, ...job: EnqueueArguments<Tasks[Name]>): Promise<Enqueued>
  /** Enqueues many jobs of one task that share their options: all or nothing. */
  enqueueMany<Name extends NameOf<Tasks>>(
    task: Name,
    payloads: readonly Tasks[Name][],
    options?: EnqueueOptions,
  ): Promise<EnqueuedMany>
  /** Enqueues many jobs with options of their own: all or nothing. `client` as in EnqueueOptions. */
  enqueueMany(items: readonly ItemOf<Tasks>[], within?: Pick<EnqueueOptions, 'client'>): Promise<EnqueuedMany>
}

export type ItemOf<Tasks> = {
  [Name in NameOf<Tasks>]: Omit<EnqueueItem, 'task' | 'payload'> & {
    readonly task: Name
  } & (undefined extends Tasks[Name]
      ? { readonly payload?: Tasks[Name] | null }
      : null extends Tasks[Name]
        ? { readonly payload?: Tasks[Name] }
        : { readonly payload: Tasks[Name] })
}[NameOf<Tasks>]

/** A process that only enqueues and looks. */
export interface Client<Tasks = Registry> extends Producer<Tasks> {
  readonly console: Console<Tasks>
  readonly schedules: Schedules<Tasks>
  /** Brings the schema up to this version. */
  migrate(dryRun?: boolean): Promise<MigrationReport>
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

export interface Engine<Tasks = Registry> extends Producer<Tasks> {
  readonly console: Console<Tasks>
  readonly schedules: Schedules<Tasks>
  /**
   * Connects, migrates, loads the tasks, recovers what a predecessor left, and begins to work. A database that is not up
   * yet is waited for, for `databaseWaitMs`; `stop()` ends that wait.
   * @throws EngineError STORE_UNREACHABLE, STORE_REFUSED, STOPPING when it was stopped meanwhile, CONFIG_INVALID without a
   * database in production
   */
  start(): Promise<void>
  /**
   * Takes no new work, lets running jobs finish within `timeoutMs` (default: setting stopTimeoutMs), releases the rest
   * uncharged, writes everything, and leaves. Safe twice.
   */
  stop(timeoutMs?: number): Promise<StopReport>
  /** Releases what is held and leaves at once; running handlers are ended. */
  kill(): Promise<void>
  stats(): EngineStats
  /**
   * Changes settings of the running engine, all or none; what is held already goes on. Back to a default by naming it.
   * @throws EngineError CONFIG_INVALID naming each wrong setting, its value and its rule
   */
  configure(changes: RuntimeSettings): void
  migrate(dryRun?: boolean): Promise<MigrationReport>
  /** Resolves when this engine holds nothing and PostgreSQL has nothing ready for it. Rejects after `timeoutMs` (default 60,000). */
  drain(timeoutMs?: number): Promise<void>
  /** Resolves when this engine has stopped, also when it stopped itself because it could not go on. */
  readonly stopped: Promise<void>
  /**
   * The loop's inbox: messages that it handles in order, each within one iteration; answers come to a callback as
   * copies. For programs that embed the engine and want to look into it or end something without asking PostgreSQL.
   */
  readonly inbox: LoopInbox
  /** Task files that could not be loaded, with the reason. */
  readonly broken: readonly { readonly file: string; readonly message: string }[]
  [Symbol.asyncDispose](): Promise<void>
}

/** Settings that can be changed while an engine runs. */
export const RUNTIME_SETTINGS = [
  'threads',
  'queues',
  'queueConcurrency',
  'claimJobsMax',
  'claimBytesMax',
  'pollMs',
  'pollMaxMs',
  'defaultTimeoutMs',
  'stopTimeoutMs',
] as const
export type RuntimeSettings = Partial<Pick<Settings, (typeof RUNTIME_SETTINGS)[number]>>

export interface LoopInbox {
  /** False when the inbox is full (setting inboxMessagesMax). */
  trySend(message: LoopMessage): boolean
  /** Waits for room; false when there was none within `timeoutMs` (setting inboxSendTimeoutMs). */
  send(message: LoopMessage, timeoutMs?: number): Promise<boolean>
  stats(): InboxStats
}

export interface StopReport {
  /** Jobs that were given back to run elsewhere. */
  readonly released: number
  /** Of those the ones that ran until the deadline and were ended then, at most 1,000 of them. They run again, uncharged. */
  readonly interrupted: readonly { readonly id: number; readonly task: string }[]
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
  /** Claims that passed over what an old snapshot keeps PostgreSQL from removing. */
  readonly claimsBehind: number
  readonly rescuedJobs: number
  /** Leases of this engine that it did not know of, because the answer of a claim was lost; their jobs were given back. */
  readonly strayLeases: number
  /** Jobs in memory, and those of them that run now. */
  readonly held: number
  readonly running: number
  /** Threads that are up, also those that finish their last jobs before they end. */
  readonly threads: number
  /** Due until started, in ms. */
  readonly waitMs: Spread
  /** Started until ended, in ms. */
  readonly runMs: Spread
  /** Occurrences of schedules that this engine made jobs of. */
  readonly occurrences: number
  /** Due until the handler started, in ms, by the database's clock: of occurrences and of scheduled jobs. */
  readonly lateMs: Spread
}

export interface Console<Tasks = Registry> {
  readonly schedules: Schedules<Tasks>
  queues(): Promise<QueueStats[]>
  readonly queue: QueueVerbs
  readonly results: ResultVerbs
  nodes(): Promise<NodeRow[]>
  /**
   * The loops of the nodes over the last `overMs` (default five minutes, at most a day), those that are gone too. Nodes
   * write their samples every `statsFlushMs`; they are kept for a day.
   */
  loops(overMs?: number): Promise<LoopRow[]>
  /** Newest first; `limit` at most 1,000 (default 50), `before` continues below an id. */
  jobs(filter?: JobFilter): Promise<JobRow[]>
  job(id: number): Promise<JobRow | null>
  /**
   * Tasks that no running node has although jobs of them wait; at most a hundred. Looked at are the first 10,000 chunks of
   * each queue, where such jobs come to stand, of what is scheduled, and of what is blocked.
   */
  unserved(): Promise<UnservedTask[]>
  /** The life of a job, event by event. @throws EngineError JOB_NOT_FOUND */
  explain(id: number): Promise<JobLife>
  readonly dead: {
    /**
     * The newest job first; of a time (`diedAfter`, `diedBefore`) the one that died last. `before` continues behind a
     * letter; of a time it begins anew when that letter is none any more. `limit` at most 1,000 (default 50).
     */
    list(filter?: DeadFilter): Promise<DeadRow[]>
    /**
     * One, a list of ids, or many matching, oldest first, at most 10,000; attempts count anew. The answer names what was
     * not requeued: jobs whose key another unfinished job has meanwhile, and ids of the list that are no dead letters.
     * An expiry that has passed is dropped, one that is ahead stays.
     * @throws EngineError VALIDATION; JOB_NOT_FOUND, NOT_DEAD, DUPLICATE_TASK when one `id` was named
     */
    requeue(filter: RequeueFilter, options?: RequeueOptions): Promise<Requeued>
    /** Forgets them, all that match unless `limit` says less; their attempts stay in the history. */
    purge(filter: Omit<DeadFilter, 'before'>): Promise<number>
  }
  /** cancelled: it was waiting and never will run. signalled: its holder was told. */
  cancel(id: number, reason?: string): Promise<'cancelled' | 'signalled' | 'finished' | 'unknown'>
  doctor(): Promise<DoctorRow[]>
  migrations(dryRun: boolean): Promise<MigrationReport>
  /**
   * The SQL that gives a role of the database the rights of an engine, of a producer (enqueues and nothing else) or of a
   * reader; for the owner of the schema to run. `select millrace.grant_producer('web')` runs it at once.
   * @throws EngineError VALIDATION when there is no such role or kind
   */
  grants(role: string, kind: RoleKind): Promise<string[]>
}

export type RoleKind = 'engine' | 'producer' | 'reader'

export interface QueueVerbs {
  /** Every queue that was ever named, sorted; its jobs may be gone. */
  names(): Promise<string[]>
  /** All zeros for a queue that nobody has named. */
  stats(queue: string): Promise<QueueStats>
  /** Nothing of it is claimed until it is resumed; what is held runs on. A queue may be paused before its first job. */
  pause(queue: string): Promise<void>
  resume(queue: string): Promise<void>
  /**
   * Ends what waits: ready, scheduled, retrying, blocked; as cancelled, with this reason (default 'purged'). Lets go of
   * their keys and groups. What a node holds, dead letters, and what is enqueued meanwhile are left alone.
   * @returns how many
   */
  purge(queue: string, reason?: string): Promise<number>
}

export interface ResultFilter {
  readonly queue?: string
  readonly task?: string
  readonly group?: string
  /** Completed at or after. */
  readonly completedAfter?: Date | number
  /** Completed before. */
  readonly completedBefore?: Date | number
  /** At most 1,000; default 100. */
  readonly limit?: number
  /** At most 100,000; default 0. */
  readonly offset?: number
  /** Goes on where a page ended: its `older`. */
  readonly cursor?: string
}

export interface ResultPage {
  readonly rows: ResultRow[]
  /** The cursor of the next page; null when there is nothing older. */
  readonly older: string | null
}

export interface ResultRow {
  readonly id: number
  readonly task: string
  readonly queue: string
  readonly group: string | null
  readonly result: unknown
  readonly attempt: number
  readonly run: number
  readonly node: number
  readonly startedAt: Date | null
  readonly completedAt: Date
}

export interface ResultVerbs {
  /**
   * Completed jobs, newest completion first. Of a queue, task or group that is rare, those among about 100,000 completed
   * jobs of the time that is asked for: `page` goes on. @throws EngineError VALIDATION
   */
  list(filter?: ResultFilter): Promise<ResultRow[]>
  /**
   * The same, and where to go on. A page may have fewer rows than its limit, even none, and yet an `older`: so many jobs
   * were looked through. @throws EngineError VALIDATION
   */
  page(filter?: ResultFilter): Promise<ResultPage>
  /**
   * Forgets completed jobs with all their attempts. At least one of the two must be given.
   * @returns how many. @throws EngineError VALIDATION
   */
  cleanup(filter: Pick<ResultFilter, 'queue' | 'completedBefore'>): Promise<number>
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
  /** Leases whose claim got no answer; the node found them and gave their jobs back. Since it started. */
  readonly strayLeases: number
}

/** What the loop of a node was like lately: samples of about one iteration a second, written with a delay. */
export interface LoopRow {
  readonly node: number
  readonly samples: number
  readonly lastAt: Date
  /** Time of one iteration. */
  readonly p50Ms: number
  readonly maxMs: number
  /** Orchestrators in memory (jobs and occurrences), and due times in the index, at the last sample. */
  readonly activeOrchestrators: number
  readonly indexSize: number
  readonly inboxDepthMax: number
  /** Mean number of messages and reports that an iteration handled. */
  readonly messages: number
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
  readonly state?: JobState
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
  /** What its handler said last with `ctx.progress`, while it runs; a few seconds old. Null: nothing, or it does not run. */
  readonly progress: unknown
  /** Whether a running node has its task: one that waits and is not served waits until there is one. */
  readonly served: boolean
}

export interface UnservedTask {
  readonly task: string
  /** Jobs that wait for it, as far as was looked. */
  readonly waiting: number
  /** True: some node had it. False: nobody ever had a task of this name. */
  readonly published: boolean
  /** A task of a running node whose name is close. */
  readonly didYouMean: string | null
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
  /** Died at or after, and before. */
  readonly diedAfter?: Date | number
  readonly diedBefore?: Date | number
}

export interface RequeueFilter extends Omit<DeadFilter, 'before'> {
  /** These, at most 10,000, in place of all other fields. */
  readonly ids?: readonly number[]
}

export interface RequeueOptions {
  /** 0.01 to 100,000: the first becomes due at once, the others one after the other. Default: all at once. */
  readonly perSecond?: number
  /** A new expiry for every one of them; must be ahead. Default: as the jobs have it, unless it has passed. */
  readonly expiresAt?: Date | number
}

export interface Requeued {
  readonly requeued: number
  /** How many stay dead because another unfinished job has their key; the first 100 of them with that job. */
  readonly taken: number
  readonly takenBy: readonly { readonly id: number; readonly heldBy: number }[]
  /** How many of `ids` are no dead letters; the first 100 of them with what they are, null when there is no such job. */
  readonly notDead: number
  readonly notDeadIds: readonly { readonly id: number; readonly state: JobState | null }[]
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

/** Options of the jobs that a schedule makes. */
export interface ScheduleJobOptions {
  /** -100 to 100, higher first. Default 0. */
  readonly priority?: number
  /** Default: the task's, else 3. */
  readonly maxAttempts?: number
  readonly timeoutMs?: number
  readonly retry?: RetryPolicy
  readonly group?: string
  readonly groupLimit?: number
  readonly onRetry?: 'block' | 'skip'
  readonly ephemeral?: boolean
  /** `schedule` (its id) and `scheduledAt` (ISO 8601) are added to each job's. */
  readonly meta?: Readonly<Record<string, Json>>
}

interface ScheduleFields {
  /** 1 to 255 characters. Default: the task's name. */
  readonly id?: string
  /** Default: the task's queue, else 'default'. */
  readonly queue?: string
  /** Five fields, six with seconds first, or a shorthand such as @hourly. */
  readonly cron: string
  /** An IANA name. Default UTC. */
  readonly timeZone?: string
  readonly options?: ScheduleJobOptions
  /** First moment that counts, and the first that does not any more. */
  readonly startsAt?: Date | number | null
  readonly endsAt?: Date | number | null
  /** Each occurrence is enqueued up to so many ms after its time, at most an hour. Default 0. */
  readonly jitterMs?: number
  /**
   * What happens when the job of the occurrence before has not ended. allow (default): both run. skip: there is none
   * this time. queue: one waits and runs next, further ones are skipped.
   */
  readonly overlap?: 'allow' | 'skip' | 'queue'
  /**
   * What happens to due times that passed while no engine was there, for longer than the setting graceMs. none: nothing.
   * one (default): the newest is run. all: all are run, at most 1,000, the newest.
   */
  readonly catchUp?: 'none' | 'one' | 'all'
  /** How far back that goes, at most seven days. Default one day. */
  readonly catchUpWindowMs?: number
  /** Left out when a schedule is changed or registered again: it stays as it is. */
  readonly paused?: boolean
}

/** With a registry a wrong task or payload does not compile. */
export type ScheduleDefinition<Tasks = Registry> = {
  [Name in NameOf<Tasks>]: ScheduleFields & { readonly task: Name } & SchedulePayload<Tasks[Name]>
}[NameOf<Tasks>]

/** `payload` is that of every job, at most 64 KiB of JSON. Default {}, for tasks that accept it. */
type SchedulePayload<Payload> =
  Record<never, never> extends Payload ? { readonly payload?: Payload } : { readonly payload: Payload }

/** Fields that update() changes; those left out stay. */
export interface ScheduleChange<Tasks = Registry> extends Partial<Omit<ScheduleFields, 'id'>> {
  readonly task?: NameOf<Tasks>
  readonly payload?: unknown
}

export interface ScheduleRow {
  readonly id: string
  readonly task: string
  readonly queue: string
  readonly cron: string
  readonly timeZone: string
  readonly payload: unknown
  readonly options: ScheduleJobOptions
  readonly startsAt: Date | null
  readonly endsAt: Date | null
  readonly jitterMs: number
  readonly overlap: 'allow' | 'skip' | 'queue'
  readonly catchUp: 'none' | 'one' | 'all'
  readonly catchUpWindowMs: number
  readonly paused: boolean
  /** code: it was registered, and goes when it is not registered any more. */
  readonly source: 'code' | 'api'
  readonly revision: number
  /** Why it has no due times. */
  readonly error: string | null
  /** Null while paused, after its end, and with an error. */
  readonly nextAt: Date | null
  readonly lastScheduledAt: Date | null
  /** When that, or a manual one, was decided, and how. */
  readonly lastDecidedAt: Date | null
  readonly lastOutcome: 'enqueued' | 'skipped' | 'failed' | null
  readonly lastError: string | null
  readonly lastLateMs: number | null
  readonly lastJobId: number | null
  /** Jobs made so far. */
  readonly runCount: number
  readonly createdAt: Date
  readonly updatedAt: Date
}

export interface ScheduleFilter {
  readonly queue?: string
  /** At most 1,000; default 100. */
  readonly limit?: number
  /** Ids after or before this one: the next or the previous page. */
  readonly after?: string
  readonly before?: string
}

export interface UpcomingRow {
  readonly at: Date
  /** The same as a clock in the zone shows it, with the distance to UTC. */
  readonly local: string
  readonly timeZone: string
}

export interface OccurrenceRow {
  readonly scheduledAt: Date
  readonly decidedAt: Date
  readonly outcome: 'enqueued' | 'skipped' | 'failed'
  /** Triggered by a person. */
  readonly manual: boolean
  readonly lateMs: number
  /** Due until its handler first started, in ms, by the clock of the node that ran it; null before that. */
  readonly startLateMs: number | null
  readonly jobId: number | null
  /** Where its job stands now; null when there is none, or none any more. */
  readonly jobState: JobState | null
  readonly node: number
  readonly error: string | null
}

/** What trigger() may override: options, payload and queue of the one job. */
export interface TriggerOptions extends ScheduleJobOptions {
  readonly payload?: unknown
  readonly queue?: string
}

/** Every call throws EngineError: VALIDATION naming the field, SCHEDULE_NOT_FOUND, STORE_UNREACHABLE, STORE_TIMEOUT. */
export interface Schedules<Tasks = Registry> {
  /**
   * Makes the schedules of a queue (default 'default') or of several equal to the list, in one transaction: those listed
   * are made or changed, those registered earlier and not listed now are deleted. Schedules made by create() are left
   * alone. A listed one that names no queue belongs to the first.
   */
  register(
    list: readonly ScheduleDefinition<Tasks>[],
    options?: { readonly queue?: string | readonly string[] },
  ): Promise<{ created: string[]; changed: string[]; deleted: string[] }>
  /** @throws EngineError VALIDATION with field 'id' when the id is taken */
  create(definition: ScheduleDefinition<Tasks>): Promise<ScheduleRow>
  update(id: string, change: ScheduleChange<Tasks>): Promise<ScheduleRow>
  delete(id: string): Promise<void>
  /** Due times that pass while it is paused are nobody's. */
  pause(id: string): Promise<void>
  resume(id: string): Promise<void>
  /** Enqueues one job now, whatever the time; overrides are laid over the schedule's own options. */
  trigger(id: string, overrides?: TriggerOptions): Promise<{ readonly id: number }>
  get(id: string): Promise<ScheduleRow | null>
  /** By id. */
  list(filter?: ScheduleFilter): Promise<ScheduleRow[]>
  /** The next `count` due times (default 10, at most 1,000). */
  upcoming(id: string, count?: number): Promise<UpcomingRow[]>
  /** What was decided, newest first; kept for two weeks. `limit` at most 1,000, default 50. */
  history(id: string, filter?: { readonly limit?: number; readonly before?: Date | number }): Promise<OccurrenceRow[]>
}

export type { InboxStats, LoopMessage }
