// What a handler is given beside its payload. One is made per job, so everything that most handlers never touch (the
// signal, the log, the job's facts) is made when it is first asked for. Every member may be taken out of the object:
// `const { signal, progress } = ctx` works.

import { EngineError } from '../engine/base/errors.ts'
import type { ForeignClient } from '../engine/base/foreign-client.ts'
import type { TaskLog, TaskLogMethod } from '../engine/base/log.ts'
import type { Json, TaskContext } from '../engine/base/task.ts'
import type { AbortReason, FeedPiece } from './lanes.ts'
import { bindingsOf, type Facts, type LogLevel } from './log-line.ts'

/** What a context needs of its thread. */
export interface ContextHost {
  /** Looks for messages of main, at most every few milliseconds: how synchronous code learns of an abort. */
  lookUp(): void
  heartbeat(run: JobRun): void
  progress(run: JobRun, value: Json): void
  complete(run: JobRun, client: ForeignClient, result: unknown): Promise<void>
  /** `args`: whatever a method of the log was called with. */
  log(run: JobRun, level: LogLevel, bindings: Facts, args: readonly unknown[]): void
}

/** One job that a thread took, until its outcome is reported. */
export class JobRun {
  readonly piece: FeedPiece
  readonly index: number
  readonly slot: number
  readonly generation: number
  /** Text of meta, '' for none. */
  readonly meta: string
  startedAtMs = 0
  startedSteadyMs = 0
  /** An outcome was written: whatever the handler does from now on changes nothing. */
  isReported = false
  aborted: AbortReason | null = null
  /** The handler has asked to be completed by its own transaction, and main was told: what it returns is ignored. */
  mayBeCompleted = false
  /** A call of ctx.complete is under way. */
  isCompleting = false
  lastBeatSteadyMs = Number.NEGATIVE_INFINITY
  /** A progress value that waits for its turn. */
  progressText: string | null = null
  lastProgressSteadyMs = Number.NEGATIVE_INFINITY
  context: JobContext | null = null

  constructor(piece: FeedPiece, index: number, meta: string) {
    this.piece = piece
    this.index = index
    this.slot = piece.slots[index]!
    this.generation = piece.generations[index]!
    this.meta = meta
  }

  abort(reason: AbortReason): void {
    if (this.aborted !== null) return
    this.aborted = reason
    this.context?.fire(reason)
  }
}

export class JobContext implements TaskContext {
  readonly #host: ContextHost
  readonly #run: JobRun
  readonly attempt: number
  readonly run: number
  #controller: AbortController | null = null
  #log: TaskLog | null = null
  #job: TaskContext['job'] | null = null

  constructor(host: ContextHost, run: JobRun) {
    this.#host = host
    this.#run = run
    this.attempt = run.piece.attempt
    this.run = run.piece.run
  }

  get job(): TaskContext['job'] {
    if (this.#job === null) {
      const { piece, index, meta } = this.#run
      this.#job = {
        id: piece.firstId + index,
        task: piece.task,
        queue: piece.queue,
        createdAt: new Date(piece.createdAtMs),
        maxAttempts: piece.maxAttempts,
        group: piece.group,
        meta: meta === '' ? {} : (JSON.parse(meta) as Record<string, Json>),
      }
    }
    return this.#job
  }

  get signal(): AbortSignal {
    this.#host.lookUp()
    if (this.#controller === null) {
      this.#controller = new AbortController()
      if (this.#run.aborted !== null) this.fire(this.#run.aborted)
    }
    return this.#controller.signal
  }

  get log(): TaskLog {
    this.#log ??= logOf(this.#host, this.#run, {})
    return this.#log
  }

  get progress(): (value: Json) => void {
    return (value) => this.#host.progress(this.#run, value)
  }

  get heartbeat(): () => void {
    return () => this.#host.heartbeat(this.#run)
  }

  get complete(): (client: ForeignClient, result?: unknown) => Promise<void> {
    return (client, result) => this.#host.complete(this.#run, client, result)
  }

  /** Aborts the signal when somebody holds it. */
  fire(reason: AbortReason): void {
    this.#controller?.abort(abortError(reason))
  }
}

/** What a signal carries as its reason, and what an abort of a job that had not begun is reported as. */
export function abortError(reason: AbortReason): EngineError {
  switch (reason) {
    case 'timeout':
      return new EngineError('TASK_TIMED_OUT', 'the attempt passed its deadline')
    case 'cancelled':
      return new EngineError('TASK_CANCELLED', 'the job was cancelled')
    case 'stopping':
      return new EngineError('STOPPING', 'the engine is stopping')
  }
}

function logOf(host: ContextHost, run: JobRun, bindings: Facts): TaskLog {
  const method =
    (level: LogLevel): TaskLogMethod =>
    (...args: readonly unknown[]) =>
      host.log(run, level, bindings, args)
  return {
    debug: method('debug'),
    info: method('info'),
    warn: method('warn'),
    error: method('error'),
    child: (more) => logOf(host, run, bindingsOf(bindings, more)),
  }
}
