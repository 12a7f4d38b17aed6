// A task: a name, options and a handler. Task files export what `defineTask` returns; threads load the files and find
// the tasks by their brand, so that two copies of this package still understand each other.

import { EngineError, shown } from './errors.ts'
import type { ForeignClient } from './foreign-client.ts'
import { GROUP_LIMIT_MAX, MAX_ATTEMPTS_MAX } from './limits.ts'
import type { TaskLog } from './log.ts'
import { isName, NAME_RULE } from './names.ts'
import { didYouMean } from './nearest.ts'
import { type RetryDecision, type RetryPolicy, wrongInRetry } from './retry-policy.ts'

export type { RetryDecision, RetryPolicy }

/** Anything that survives JSON. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json | undefined }

/** What a handler knows of its job and may do meanwhile. */
export interface TaskContext {
  readonly job: {
    readonly id: number
    readonly task: string
    readonly queue: string
    readonly createdAt: Date
    readonly maxAttempts: number
    readonly group: string | null
    /** Trace headers and labels that came with the job; empty when none. */
    readonly meta: Readonly<Record<string, Json>>
  }
  /** This attempt, from 1. */
  readonly attempt: number
  /** This holding, from 1; unlike `attempt` it also counts holders that died. `id` and `run` name one execution. */
  readonly run: number
  /** Aborts when the deadline passes, the job is cancelled or the engine stops. */
  readonly signal: AbortSignal
  /** Lines go to the engine's log with the job's id. Takes what pino takes: `log.info({ rows }, 'loaded')`, `log.error(error)`. */
  readonly log: TaskLog
  /** Stores how far the work is (any JSON, at most 16 KiB); the last one wins. Cheap: it is written in batches. */
  progress(value: Json): void
  /** Says "still alive" for a task with `heartbeatMs`; synchronous code may call it too. */
  heartbeat(): void
  /**
   * Completes this job in a transaction of your own: what you wrote in it and the end of the job commit together, or
   * neither does, also when the process dies at any moment. `client` is your connection to the same database: a `pg`
   * client, or what an adapter of `millrace/adapters/` makes of a transaction; outside of a transaction the job is
   * completed at once. `result` has the limits of a returned one. A `pg` pool and its clients need `error` listeners, or a
   * connection that PostgreSQL ends takes this thread along.
   *
   * Await it, then commit, then return. From the call on only that transaction decides: what the handler returns is
   * ignored, what it throws after the commit, or a deadline that passes then, changes nothing but the log. If it returns
   * and the transaction was not committed, the attempt has failed with NOT_COMMITTED. After a rollback it may be called
   * again, in the next transaction.
   * @throws EngineError LEASE_LOST when the job is not this attempt's any more (roll back), VALIDATION when it was
   * completed already, RESULT_INVALID, RESULT_TOO_LARGE; and whatever your client throws
   */
  complete(client: ForeignClient, result?: unknown): Promise<void>
}

export interface TaskOptions {
  /** Queue that jobs of this task go to when the enqueue names none. Default 'default'. */
  readonly queue?: string
  /** Charged attempts at most, from 1. Default 3. */
  readonly maxAttempts?: number
  /** Milliseconds an attempt may run. Default: the setting defaultTimeoutMs, 30,000. 0 means no limit. */
  readonly timeoutMs?: number
  /** Milliseconds between the abort signal and the end of the thread. Default 5,000. */
  readonly graceMs?: number
  /** When set, an attempt that calls neither heartbeat() nor progress() for three of these intervals is ended. */
  readonly heartbeatMs?: number
  /** What follows a failed attempt: a policy, or a function that decides. Default: exponential, from 1 s to 300 s. */
  readonly retry?: RetryPolicy | RetryDecision
  /** Group of its jobs where the enqueue names none. With `groupLimit` it limits the task over all nodes. Default none. */
  readonly group?: string
  /** Jobs of a group that may be held at a time, over all nodes, where the enqueue does not say: 1 to 1,000. Default 1. */
  readonly groupLimit?: number
  /** Whether a job's group waits with it for its retry, or goes on, where the enqueue does not say. Default 'block'. */
  readonly onRetry?: 'block' | 'skip'
  /** Jobs of this task that one thread runs at a time. 1 (default) for work that computes; more for work that waits. */
  readonly concurrency?: number
}

export interface TaskDefinition<Name extends string = string, Payload = unknown, Result = unknown> extends TaskOptions {
  readonly name: Name
  /** `import.meta.url` of the file that exports the task; not needed when the engine is given a folder or files. */
  readonly module?: string
  /**
   * True runs the handler on the main thread: for tests and tiny work. It costs the safety of threads: a handler that
   * blocks or crashes takes the engine with it, and its deadline can only signal.
   */
  readonly inline?: boolean
  readonly run: (payload: Payload, ctx: TaskContext) => Result | Promise<Result>
}

const BRAND = Symbol.for('millrace.task')

const FIELDS = Object.keys({
  name: true,
  run: true,
  module: true,
  inline: true,
  queue: true,
  maxAttempts: true,
  timeoutMs: true,
  graceMs: true,
  heartbeatMs: true,
  retry: true,
  group: true,
  groupLimit: true,
  onRetry: true,
  concurrency: true,
} satisfies Record<keyof TaskDefinition, true>)

/**
 * Declares a task. The names and types of payload and result flow into `engine.enqueue`.
 * @throws EngineError CONFIG_INVALID when an option is unknown or out of its range; the message names it.
 */
export function defineTask<const Name extends string, Payload, Result>(
  definition: TaskDefinition<Name, Payload, Result>,
): TaskDefinition<Name, Payload, Result> {
  checkTask(definition)
  return Object.freeze(Object.defineProperty({ ...definition }, BRAND, { value: true }))
}

/** True for what defineTask returned, also by another copy of this package. */
export function isTask(value: unknown): value is TaskDefinition {
  return typeof value === 'object' && value !== null && (value as Record<symbol, unknown>)[BRAND] === true
}

function checkTask(task: TaskDefinition<string, never, unknown>): void {
  if (typeof task !== 'object' || task === null)
    throw new EngineError('CONFIG_INVALID', `a task is an object with name, run and options, got ${shown(task)}`, {})
  const refuse = (field: string, rule: string, value: unknown) => {
    throw new EngineError(
      'CONFIG_INVALID',
      `task ${JSON.stringify(task.name)}: ${field} must be ${rule}, got ${shown(value)}`,
      { field, value },
    )
  }
  const whole = (field: string, value: number | undefined, min: number, max: number) => {
    if (value !== undefined && !(Number.isInteger(value) && value >= min && value <= max))
      refuse(field, `a whole number from ${min} to ${max}`, value)
  }
  if (!isName(task.name)) refuse('name', NAME_RULE, task.name)
  for (const field of Object.keys(task))
    if (!FIELDS.includes(field))
      throw new EngineError(
        'CONFIG_INVALID',
        `task ${JSON.stringify(task.name)}: a task has no option ${JSON.stringify(field)}${didYouMean(field, FIELDS) || `; its options are ${FIELDS.join(', ')}`}`,
        { field },
      )
  if (typeof task.run !== 'function') refuse('run', 'a function', typeof task.run)
  whole('maxAttempts', task.maxAttempts, 1, MAX_ATTEMPTS_MAX)
  whole('timeoutMs', task.timeoutMs, 0, 2 ** 31 - 1)
  whole('graceMs', task.graceMs, 0, 2 ** 31 - 1)
  whole('heartbeatMs', task.heartbeatMs, 10, 2 ** 31 - 1)
  whole('concurrency', task.concurrency, 1, 1_000)
  for (const field of ['queue', 'group'] as const)
    if (task[field] !== undefined && !isName(task[field])) refuse(field, NAME_RULE, task[field])
  if (task.module !== undefined && typeof task.module !== 'string')
    refuse('module', 'the URL of a file: import.meta.url', task.module)
  if (task.inline !== undefined && typeof task.inline !== 'boolean') refuse('inline', 'true or false', task.inline)
  const wrong = task.retry === undefined || typeof task.retry === 'function' ? null : wrongInRetry(task.retry)
  if (wrong !== null) refuse(wrong.field, wrong.rule, wrong.value)
  whole('groupLimit', task.groupLimit, 1, GROUP_LIMIT_MAX)
  if (task.onRetry !== undefined && task.onRetry !== 'block' && task.onRetry !== 'skip')
    refuse('onRetry', "'block' or 'skip'", task.onRetry)
}
