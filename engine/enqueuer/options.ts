// What a caller may say about a job, and the checks of it: everything is judged before anything is written, and every
// refusal names the field, the rule and what was given.

import { EngineError, shown } from '../base/errors.ts'
import type { ForeignClient } from '../base/foreign-client.ts'
import {
  DELAY_MS_MAX,
  GROUP_LIMIT_MAX,
  MAX_ATTEMPTS_DEFAULT,
  MAX_ATTEMPTS_MAX,
  META_BYTES_MAX,
  PRIORITY_MAX,
  PRIORITY_MIN,
} from '../base/limits.ts'
import { isName, NAME_RULE } from '../base/names.ts'
import { type RetryPolicy, wrongInRetry } from '../base/retry-policy.ts'
import type { Json } from '../base/task.ts'
import { jsonText } from './payload.ts'

export interface EnqueueOptions {
  /** Default: the task's queue, else 'default'. */
  readonly queue?: string
  /** -100 to 100, higher first. Default 0. */
  readonly priority?: number
  /** When the job becomes due; the past means now. Default now. */
  readonly runAt?: Date | number
  /** The same, relative: milliseconds from now. */
  readonly delayMs?: number
  /** When it is too late: an attempt is ended then, and a job that has not begun becomes a dead letter (TASK_EXPIRED). */
  readonly expiresAt?: Date | number
  /** Charged attempts at most. Default: the task's, else 3. */
  readonly maxAttempts?: number
  /** Milliseconds one attempt may run; 0 means no limit. Default: the task's where the job runs, else 30,000. */
  readonly timeoutMs?: number
  /** What follows a failed attempt. Default: the task's where the job runs, else exponential, from 1 s to 300 s. */
  readonly retry?: RetryPolicy
  /**
   * Jobs of one group (of one queue) are started in order, by priority, then as they were enqueued; one at a time, or
   * `groupLimit`. Default: the task's, else none.
   */
  readonly group?: string
  /**
   * How many jobs of the group may be held (claimed, running, waiting for a retry) while this one is, on all nodes
   * together: 1 to 1,000. Where jobs of a group name different limits, the smallest among those that are held and the
   * next one counts; so a job with a limit of 1 is always alone. Default: the task's, else 1.
   */
  readonly groupLimit?: number
  /**
   * What the group does while this job waits for a retry: 'block' (default) waits with it; 'skip' goes on with the next,
   * and the job takes its turn again when it is due, behind those of its priority that wait by then. Default: the
   * task's, else 'block'.
   */
  readonly onRetry?: 'block' | 'skip'
  /** At most one unfinished job of a queue has a given key. */
  readonly idempotencyKey?: string
  /** What a taken key means: 'reject' (default) throws DUPLICATE_TASK; 'ignore' answers the existing job's id. */
  readonly onDuplicate?: 'reject' | 'ignore'
  /** True leaves no trace of a completed job, so a lost answer to its enqueue cannot be resolved: see `enqueue`. */
  readonly ephemeral?: boolean
  /**
   * Labels that travel with the job, at most 16 KiB. With a tracer of `@opentelemetry/api` the W3C headers of the active
   * span (traceparent, tracestate) are added, unless a traceparent is given here.
   */
  readonly meta?: Readonly<Record<string, Json>>
  /** Your `pg` client (or anything with query(text, values)) in an open transaction: the job exists when you commit. */
  readonly client?: ForeignClient
}

/** What an enqueue answers. */
export interface Enqueued {
  readonly id: number
  /** True when an unfinished job had the key: `id` is that job's. */
  readonly duplicate: boolean
}

/** What an enqueue of many answers. */
export interface EnqueuedMany {
  readonly count: number
  /** Ids in the order of the items, as ranges of consecutive ones. */
  readonly ids: readonly { readonly first: number; readonly count: number }[]
}

/** One of many, with options of its own. */
export interface EnqueueItem {
  readonly task: string
  readonly payload?: unknown
  readonly options?: Omit<EnqueueOptions, 'client' | 'onDuplicate'>
}

/** What a task says for enqueues that do not: its definition in this process, else the published one. */
export interface TaskDefaults {
  readonly queue?: string
  readonly maxAttempts?: number
  readonly group?: string | null
  readonly groupLimit?: number | null
  readonly onRetry?: 'block' | 'skip'
}

/** What jobs of one chunk share; compared field by field. */
export interface Template {
  readonly task: string
  readonly queue: string
  readonly priority: number
  readonly runAtMs: number | null
  readonly expiresAtMs: number | null
  /** Null: as the task says where the job runs. */
  readonly maxAttempts: number | null
  readonly timeoutMs: number | null
  readonly retry: string | null
  readonly group: string | null
  readonly groupLimit: number | null
  readonly onRetry: 'block' | 'skip'
  readonly key: string | null
  readonly ephemeral: boolean
  readonly meta: string | null
}

const NOTHING_SAID: TaskDefaults = {}

export function checkedTemplate(
  task: string,
  options: EnqueueOptions,
  known: TaskDefaults | undefined,
  trace: Readonly<Record<string, Json>> | null,
  nowMs: number,
): Template {
  const defaults = known ?? NOTHING_SAID
  const whole = (field: string, value: unknown, min: number, max: number): number => {
    if (!Number.isInteger(value) || (value as number) < min || (value as number) > max)
      refuse(field, `a whole number from ${min} to ${max}`, value)
    return value as number
  }
  const time = (field: string, value: unknown): number => {
    const ms = value instanceof Date ? value.getTime() : value
    if (typeof ms !== 'number' || !Number.isFinite(ms) || Math.abs(ms - nowMs) > DELAY_MS_MAX)
      refuse(field, 'a Date or milliseconds since 1970, within ten years of now', value)
    return Math.round(ms as number)
  }
  if (typeof options !== 'object' || options === null || Array.isArray(options)) refuse('options', 'an object', options)
  for (const field of Object.keys(options))
    if (!OPTION_NAMES.has(field)) refuse(field, `one of ${[...OPTION_NAMES].join(', ')}`, 'an unknown option')
  checkClient(options.client)
  if (options.runAt !== undefined && options.delayMs !== undefined)
    refuse('delayMs', 'left out when runAt is given', options.delayMs)
  const due =
    options.runAt !== undefined
      ? time('runAt', options.runAt)
      : options.delayMs !== undefined
        ? nowMs + whole('delayMs', options.delayMs, 0, DELAY_MS_MAX)
        : null
  const expiresAtMs = options.expiresAt !== undefined ? time('expiresAt', options.expiresAt) : null
  if (due !== null && expiresAtMs !== null && expiresAtMs < due)
    refuse('expiresAt', 'not before runAt', options.expiresAt)
  if (options.onDuplicate !== undefined && options.onDuplicate !== 'reject' && options.onDuplicate !== 'ignore')
    refuse('onDuplicate', "'reject' or 'ignore'", options.onDuplicate)
  if (options.ephemeral !== undefined && typeof options.ephemeral !== 'boolean')
    refuse('ephemeral', 'true or false', options.ephemeral)
  const group = options.group === undefined ? (defaults.group ?? null) : checkedName('group', options.group)
  for (const field of ['groupLimit', 'onRetry'] as const)
    if (group === null && options[field] !== undefined)
      refuse(field, 'left out where there is no group', options[field])
  if (options.onRetry !== undefined && options.onRetry !== 'block' && options.onRetry !== 'skip')
    refuse('onRetry', "'block' or 'skip'", options.onRetry)
  const groupLimit =
    options.groupLimit === undefined
      ? (defaults.groupLimit ?? null)
      : whole('groupLimit', options.groupLimit, 1, GROUP_LIMIT_MAX)
  return {
    task: checkedName('task', task),
    queue: checkedName('queue', options.queue === undefined ? (defaults.queue ?? 'default') : options.queue),
    priority: options.priority === undefined ? 0 : whole('priority', options.priority, PRIORITY_MIN, PRIORITY_MAX),
    runAtMs: due !== null && due <= nowMs ? null : due,
    expiresAtMs,
    maxAttempts:
      options.maxAttempts === undefined
        ? known === undefined
          ? null
          : (known.maxAttempts ?? MAX_ATTEMPTS_DEFAULT)
        : whole('maxAttempts', options.maxAttempts, 1, MAX_ATTEMPTS_MAX),
    timeoutMs: options.timeoutMs === undefined ? null : whole('timeoutMs', options.timeoutMs, 0, 2 ** 31 - 1),
    retry: options.retry === undefined ? null : retryText(options.retry),
    group,
    groupLimit: group === null ? null : groupLimit,
    onRetry: group === null ? 'block' : (options.onRetry ?? defaults.onRetry ?? 'block'),
    key: options.idempotencyKey === undefined ? null : checkedName('idempotencyKey', options.idempotencyKey),
    ephemeral: options.ephemeral ?? false,
    meta: options.meta === undefined && trace === null ? null : metaText(options.meta, trace),
  }
}

/** @throws EngineError VALIDATION naming the field */
export function checkedName(field: string, value: unknown): string {
  if (!isName(value)) refuse(field, NAME_RULE, value)
  return value as string
}

/** null would mean: without a transaction, at once. */
export function checkClient(client: unknown): void {
  if (client === undefined) return
  if (typeof (client as { query?: unknown } | null)?.query !== 'function')
    refuse('client', 'a client with query(text, values), or left out', client)
}

const OPTION_NAMES: ReadonlySet<string> = new Set<keyof EnqueueOptions>([
  'queue',
  'priority',
  'runAt',
  'delayMs',
  'expiresAt',
  'maxAttempts',
  'timeoutMs',
  'retry',
  'group',
  'groupLimit',
  'onRetry',
  'idempotencyKey',
  'onDuplicate',
  'ephemeral',
  'meta',
  'client',
])

function refuse(field: string, rule: string, value: unknown): never {
  throw new EngineError('VALIDATION', `${field} must be ${rule}, got ${shown(value)}`, { field, rule })
}

/** A traceparent that the caller names goes before that of the active span, and takes no tracestate from it. */
function metaText(meta: unknown = {}, trace: Readonly<Record<string, Json>> | null): string {
  if (typeof meta !== 'object' || meta === null || Array.isArray(meta)) refuse('meta', 'an object', meta)
  const text = jsonText('traceparent' in meta ? meta : { ...trace, ...meta }, 'meta')
  if (Buffer.byteLength(text) > META_BYTES_MAX)
    refuse('meta', `at most ${META_BYTES_MAX} bytes of JSON`, `${Buffer.byteLength(text)} bytes`)
  return text
}

function retryText(retry: RetryPolicy): string {
  const wrong = wrongInRetry(retry)
  if (wrong !== null) refuse(wrong.field, wrong.rule, wrong.value)
  return JSON.stringify(retry)
}

export function same(a: Template, b: Template): boolean {
  return (
    a.task === b.task &&
    a.queue === b.queue &&
    a.priority === b.priority &&
    a.runAtMs === b.runAtMs &&
    a.expiresAtMs === b.expiresAtMs &&
    a.maxAttempts === b.maxAttempts &&
    a.timeoutMs === b.timeoutMs &&
    a.retry === b.retry &&
    a.group === b.group &&
    a.groupLimit === b.groupLimit &&
    a.onRetry === b.onRetry &&
    a.key === b.key &&
    a.ephemeral === b.ephemeral &&
    a.meta === b.meta
  )
}
