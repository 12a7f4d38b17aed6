// What the scheduler needs from others and never imports: lanes that run jobs, somebody who writes outcomes, an inbox,
// the index of coming runs. The composition root (engine/engine.ts) hands them over.

import type { Lanes } from '../../threads/lanes.ts'
import type { Clock } from '../base/clock.ts'
import type { Log } from '../base/log.ts'
import type { Settings } from '../config/settings.ts'
import type { State } from '../orchestrator/states.ts'
import type { Outcomes } from '../store/outcomes.ts'
import type { ClaimedChunk, IterationStats } from '../store/types.ts'
import type { Message } from './messages.ts'

type SchedulerSettings = Pick<
  Settings,
  | 'heldMax'
  | 'loopIdleMs'
  | 'preScheduleMs'
  | 'graceMs'
  | 'orchestratorHeartbeatMs'
  | 'missedHeartbeatsMax'
  | 'defaultTimeoutMs'
> &
  Partial<Pick<Settings, 'rescuesMax' | 'queues' | 'queueConcurrency'>>

export interface SchedulerNeeds {
  readonly clock: Clock
  readonly log: Log
  readonly settings: SchedulerSettings
  readonly lanes: LanesWithBell
  readonly outcomes: Outcomes
  /** Messages of the main thread's own senders. Without one there are none. */
  readonly inbox?: Inbox
  /** Occurrences of schedules. Without it the duty "schedule due" knows only jobs. */
  readonly occurrences?: Occurrences
  /** A durable note that these jobs are about to run, for jobs that were held by somebody who died. */
  markRunning(jobs: readonly MarkedJob[]): Promise<void>
  /** Resolves when every outcome that was handed over before is written. */
  settled?(): Promise<void>
  /** Outcomes that were handed over should be written now: somebody waits for them, and nothing else is left to do. */
  hurry?(): void
  /** wanted() has grown from nothing, or by a lot: a good moment to claim. */
  onRoom(): void
  /** A job of a queue that is limited here has left. */
  onSeat?(): void
  /** The message `shutdown` came, or the loop cannot go on: stop the engine. */
  onShutdown?(reason: string): void
  /** What people should hear of jobs; told within the loop, so it only keeps what it is told. */
  readonly notices?: Notices
  /** A line of a handler's own log: JSON bytes, valid only during the call. */
  onJobLog?(chunk: ClaimedChunk, jobId: number, bytes: Uint8Array, start: number, end: number): void
  /** Where statistics of an iteration go, at most one call a second. */
  onIteration?(stats: IterationStats): void
  /** Runs `fn` soon without starving the event loop; default setImmediate. */
  readonly turn?: (fn: () => void) => void
  /** Dice for jitter, [0, 1); default Math.random. */
  readonly random?: () => number
}

/** Lanes that can ring. Without a bell the owner of the lanes calls onDoorbell whenever reports arrive. */
interface LanesWithBell extends Lanes {
  /** Asks for one onDoorbell when reports arrive; false: some are there already. Any drain() takes it back. */
  armDoorbell?(): boolean
}

interface Notices {
  /** An attempt failed: the error is JSON bytes, valid only during the call. `delayMs` below 0: a dead letter. */
  failed(chunk: ClaimedChunk, jobId: number, delayMs: number, bytes: Uint8Array, start: number, end: number): void
  expired(chunk: ClaimedChunk, jobId: number): void
  cancelled(chunk: ClaimedChunk, jobId: number, reason: string): void
}

export interface MarkedJob {
  readonly chunk: ClaimedChunk
  readonly jobId: number
}

/** The queue of the main thread's senders, as the loop reads it; threads/inbox.ts is one. */
interface Inbox {
  /** The oldest message, or undefined when there is none. */
  tryReceive(): Message | undefined
  /** Messages that wait now. */
  readonly depth: number
  updateDepthStats(): void
}

/** Occurrences of schedules: the index that says when, and who makes a job of one. */
export interface Occurrences {
  /** Visits runs in time order, half open [startMs, endMs), until told false; engine/schedule's RunIndex is one. */
  readonly index: {
    readonly length: number
    query(startMs: number, endMs: number, visit: (schedule: { readonly id: string }, dueMs: number) => boolean): number
  }
  /** The time that due times are judged by, in wall ms: the database's. Without it this node's own clock counts. */
  nowMs?(): number
  /** The same, never too early. */
  surelyMs?(): number
  /** A run was put into memory: see to its durable side (who wins, which job). Answers come as messages by its run id. */
  launch(run: LaunchedRun): void
  /** Somebody says that the configuration of a run in PreRun has changed. */
  configured?(runId: string): void
  /** No runs are taken into memory while it says no. */
  hasRoom?(): boolean
  /** A change of state to be written; false: the buffer is over its limit and the loop must stop. */
  update(update: RunUpdate): boolean
}

interface LaunchedRun {
  readonly runId: string
  readonly scheduleId: string
  readonly scheduledAtMs: number
}

export interface RunUpdate {
  /** Unique per update, so that writing one twice is harmless. */
  readonly updateId: string
  readonly runId: string
  readonly scheduleId: string
  readonly scheduledAtMs: number
  readonly status: State
  readonly atMs: number
  readonly success: boolean | null
  readonly error: string | null
}
