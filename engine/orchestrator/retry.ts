// Whether and when a job is tried again. Pure: the caller gives the policy, the counts and the dice.

import { DELAY_MS_MAX } from '../base/limits.ts'
import { RETRY_DEFAULT, type RetryPolicy } from '../base/retry-policy.ts'

/** Answer of delayMs() and retryDelayMs(): no further attempt. */
export const NO_RETRY = -1

/** 5 s, 10 s, 20 s, 40 s ... at most 300 s: a preset for work that hits a recovering service. */
export const PATIENT: RetryPolicy = { kind: 'exponential', initialMs: 5_000, factor: 2, maxMs: 300_000 }

/**
 * Milliseconds from the end of the k-th failed attempt to the next one, whole; NO_RETRY when the policy knows none.
 * The formulas stand at RetryPolicy (engine/base/retry-policy.ts).
 * @param random a number in [0, 1); only read when the policy has jitter.
 */
export function delayMs(policy: RetryPolicy, failedAttempts: number, random: () => number): number {
  const k = Math.max(1, failedAttempts)
  switch (policy.kind) {
    case 'none':
      return NO_RETRY
    case 'fixed':
      return spread(policy.delayMs, policy.jitter, random)
    case 'table': {
      if (policy.delaysMs.length === 0) return NO_RETRY
      return spread(policy.delaysMs[Math.min(k, policy.delaysMs.length) - 1]!, policy.jitter, random)
    }
    case 'exponential': {
      const grown = (policy.initialMs ?? RETRY_DEFAULT.initialMs) * (policy.factor ?? RETRY_DEFAULT.factor) ** (k - 1)
      return spread(Math.min(policy.maxMs ?? RETRY_DEFAULT.maxMs, grown), policy.jitter, random)
    }
  }
}

/** Retry or dead letter: the delay, or NO_RETRY when attempts are used up or the error says that trying is useless. */
export function retryDelayMs(
  policy: RetryPolicy,
  attempt: number,
  maxAttempts: number,
  retryable: boolean,
  random: () => number,
): number {
  if (!retryable || attempt >= maxAttempts) return NO_RETRY
  return delayMs(policy, attempt, random)
}

/** `maxRetries` of other systems counts the tries after the first one. */
export function maxAttemptsOf(maxRetries: number): number {
  return maxRetries + 1
}

function spread(delay: number, jitter = 0, random: () => number): number {
  const bounded = Math.min(DELAY_MS_MAX, Math.max(0, Number.isNaN(delay) ? 0 : delay))
  if (jitter <= 0) return Math.round(bounded)
  return Math.round(bounded - bounded * Math.min(1, jitter) * random())
}
