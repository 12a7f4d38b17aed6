// What the commands need of the engine: its public interface, as far as the command line uses it. main.ts hands over
// the real one, tests a small one of their own.

import type { Log } from '../base/log.ts'
import type { Settings } from '../config/settings.ts'

export interface Api {
  createEngine(options: Options): Engine
  createClient(options: Options): Client
}

export type Options = Partial<Settings> & { readonly log?: Log }

export interface EnqueueOptions {
  queue?: string
  priority?: number
  runAt?: Date
  delayMs?: number
  maxAttempts?: number
  timeoutMs?: number
  group?: string
  idempotencyKey?: string
  onDuplicate?: 'reject' | 'ignore'
  ephemeral?: boolean
  expiresAt?: Date
}

export interface Producer {
  enqueue(task: string, payload: unknown, options?: EnqueueOptions): Promise<{ id: number; duplicate: boolean }>
  enqueueMany(
    task: string,
    payloads: readonly unknown[],
    options?: EnqueueOptions,
  ): Promise<{ ranges: readonly { first: number; count: number }[]; count: number }>
}

export interface Client extends Producer {
  readonly console: Console
  migrate(): Promise<MigrationReport>
  close(): Promise<void>
}

export interface Engine extends Producer {
  readonly console: Console
  start(): Promise<void>
  /** Quiet, finish or release within the time, flush. */
  stop(timeoutMs?: number): Promise<StopReport>
  /** Release what is held and leave. */
  kill(): Promise<void>
  stats(): EngineStats
}

export interface StopReport {
  readonly finished?: number
  readonly released?: number
  readonly [fact: string]: unknown
}

export interface Spread {
  readonly p50: number
  readonly p99: number
}

export interface EngineStats {
  readonly completed: number
  readonly failed: number
  readonly retried: number
  readonly dead: number
  readonly held: number
  readonly running: number
  readonly waitMs: Spread
  readonly runMs: Spread
}

export interface MigrationReport {
  /** Version of the schema before and after; 0 means none. */
  readonly from: number
  readonly to: number
  readonly applied: readonly { readonly version: number; readonly name: string }[]
  /** The SQL of a dry run. */
  readonly sql: string
}

export interface Console {
  queues(): Promise<readonly QueueStats[]>
  nodes(): Promise<readonly Row[]>
  jobs(filter: JobFilter): Promise<readonly JobRow[]>
  explain(id: number): Promise<JobLife>
  readonly dead: {
    list(filter: DeadFilter): Promise<readonly DeadRow[]>
    requeue(filter: DeadFilter): Promise<number>
    purge(filter: DeadFilter): Promise<number>
  }
  cancel(id: number): Promise<'cancelled' | 'signalled' | 'finished' | 'unknown'>
  doctor(): Promise<readonly DoctorRow[]>
  migrations(dryRun: boolean): Promise<MigrationReport>
}

export type Row = Readonly<Record<string, unknown>>

export interface QueueStats {
  readonly queue: string
  readonly available: number
  readonly inFlight: number
  readonly scheduled: number
  readonly retrying: number
  readonly blocked: number
  readonly dead: number
  readonly oldestWaitingMs: number | null
}

export interface JobFilter {
  state?: string
  task?: string
  queue?: string
  id?: number
  limit?: number
  before?: number
}

export interface JobRow {
  readonly id: number
  readonly task: string
  readonly queue: string
  readonly state: string
  readonly attempt?: number
  readonly maxAttempts?: number
  readonly createdAt?: Date
  readonly payload?: unknown
  readonly result?: unknown
  readonly error?: unknown
}

export interface JobLife {
  readonly job: JobRow
  readonly events: readonly JobEvent[]
}

export interface JobEvent {
  readonly at: Date | null
  readonly state: string
  readonly where: string
  readonly why: string
}

export interface DeadFilter {
  id?: number
  queue?: string
  task?: string
  limit?: number
  before?: number
}

export interface DeadRow {
  readonly id: number
  readonly task: string
  readonly queue: string
  readonly code?: string
  readonly reason?: unknown
  readonly attempts?: number
  readonly diedAt?: Date
}

export interface DoctorRow {
  readonly check: string
  readonly value: string
  readonly verdict: 'ok' | 'warn' | 'bad'
  readonly advice: string
}
