// What follows a failed attempt: a policy, which is data and goes wherever a job goes, or a task's own function, which
// stays in the thread that runs the task.

import { DELAY_MS_MAX } from './limits.ts'

/**
 * How long to wait before the next attempt. The delay after the k-th failed attempt (k from 1) is
 * - `exponential`: min(maxMs, initialMs * factor^(k-1)), defaults 1,000 ms, factor 2, at most 300,000 ms;
 * - `fixed`: delayMs;
 * - `table`: delaysMs[k-1], the last entry for every later one;
 * - `none`: no further attempt.
 * `jitter` (0 to 1, default 0) spreads the delay evenly over [delay * (1 - jitter), delay].
 */
export type RetryPolicy =
  | {
      readonly kind: 'exponential'
      readonly initialMs?: number
      readonly factor?: number
      readonly maxMs?: number
      readonly jitter?: number
    }
  | { readonly kind: 'fixed'; readonly delayMs: number; readonly jitter?: number }
  | { readonly kind: 'table'; readonly delaysMs: readonly number[]; readonly jitter?: number }
  | { readonly kind: 'none' }

/** What counts where nobody says anything, and field by field where an exponential policy says less. */
export const RETRY_DEFAULT = {
  kind: 'exponential',
  initialMs: 1_000,
  factor: 2,
  maxMs: 300_000,
  jitter: 0,
} as const satisfies RetryPolicy

/**
 * A task's own decision after an attempt (from 1) that ended with `error`, as it was thrown: the delay in ms until the
 * next attempt, at most ten years, or false for no further one. It is called where the handler ran, right after it, and
 * must answer at once. It is not asked when the error is not retryable or no attempt is left, and not heard when the
 * enqueue gave a policy. The default policy counts when it throws or answers anything else (the warning `retry.undecided`
 * tells), and where it cannot be asked: the thread was lost, or a transaction of ctx.complete() was not committed.
 */
export type RetryDecision = (attempt: number, error: unknown) => number | false

const POLICY_FIELDS = ['kind', 'initialMs', 'factor', 'maxMs', 'delayMs', 'delaysMs', 'jitter']

/** What is wrong with a policy that somebody gave: the field, and what it must be. */
export interface WrongPolicy {
  readonly field: string
  readonly rule: string
  readonly value: unknown
}

/** Null: nothing is wrong. Fields of other kinds are let pass, but must be right where they have a meaning. */
export function wrongInRetry(given: unknown): WrongPolicy | null {
  if (typeof given !== 'object' || given === null)
    return { field: 'retry', rule: "a policy such as { kind: 'fixed', delayMs: 1000 }", value: given }
  const policy = given as Readonly<Record<string, unknown>>
  const { kind, delaysMs } = policy
  const wrong = (field: string, rule: string): WrongPolicy => ({ field: `retry.${field}`, rule, value: policy[field] })
  if (!['exponential', 'fixed', 'table', 'none'].includes(kind as string))
    return wrong('kind', "'exponential', 'fixed', 'table' or 'none'")
  for (const field of Object.keys(policy))
    if (!POLICY_FIELDS.includes(field))
      return { field: `retry.${field}`, rule: `one of ${POLICY_FIELDS.join(', ')}`, value: 'an unknown field' }
  if (kind === 'fixed' && policy.delayMs === undefined) return wrong('delayMs', 'given')
  if (kind === 'table' && !(Array.isArray(delaysMs) && delaysMs.length > 0 && delaysMs.length <= 1_000))
    return wrong('delaysMs', 'a list of 1 to 1,000 delays')
  if (!isWithin(policy.jitter, 0, 1)) return wrong('jitter', 'from 0 to 1')
  if (!isWithin(policy.factor, 1, 100)) return wrong('factor', 'from 1 to 100')
  for (const field of ['delayMs', 'initialMs', 'maxMs'])
    if (!isWithin(policy[field], 0, DELAY_MS_MAX)) return wrong(field, 'milliseconds from 0 to ten years')
  if (Array.isArray(delaysMs) && delaysMs.some((delay) => delay === undefined || !isWithin(delay, 0, DELAY_MS_MAX)))
    return wrong('delaysMs', 'milliseconds from 0 to ten years')
  return null
}

/** What is not given has a default. */
function isWithin(value: unknown, min: number, max: number): boolean {
  return value === undefined || (typeof value === 'number' && value >= min && value <= max)
}
