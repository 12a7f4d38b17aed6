// Tasks that decide for themselves what follows a failure. Everyone fails, with what the payload says. What is made by a
// function is not seen as a task of this file: it is for tests that hand it to an engine.

import { defineTask, type RetryDecision } from '../../engine/base/task.ts'

const fail = ({ status, retry }: { status?: number; retry?: false }): never => {
  throw Object.assign(new Error('no'), { status, retry })
}

const HOUR = 3_600_000

const byStatus: RetryDecision = (attempt, error) => {
  const { status } = error as { status?: number }
  if (status === 410) return false
  if (status === 503) return attempt === 1 ? 0 : attempt * HOUR
  return status === 429 ? HOUR : 10 * HOUR
}

const odd = (answer: () => unknown) => answer as RetryDecision

export const threaded = defineTask({ name: 'threaded', maxAttempts: 3, retry: byStatus, run: fail })

/** Runs out of its time, and says so by an error of its own. */
export const slow = defineTask({
  name: 'slow',
  timeoutMs: 50,
  graceMs: 20_000,
  retry: () => 5 * HOUR,
  run: (_: unknown, { signal }) =>
    new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(new Error('too slow')))),
})

const answers: Readonly<Record<string, () => unknown>> = {
  nothing: () => undefined,
  nan: () => Number.NaN,
  negative: () => -1,
  endless: () => Number.POSITIVE_INFINITY,
  text: () => '5000',
  yes: () => true,
  promise: () => Promise.reject(new Error('later')),
  throws: () => {
    throw { toString: null }
  },
}
export const names = Object.keys(answers)
export const oddThreaded = names.map((name) => defineTask({ name, retry: odd(answers[name]!), run: fail }))
export const fraction = defineTask({ name: 'fraction', retry: () => HOUR + 0.4, run: fail })
export const never = defineTask({ name: 'never', retry: () => Number.MAX_VALUE, run: fail })

/** The same for the main thread. */
export const inlined = () => [
  defineTask({ name: 'inline', inline: true, maxAttempts: 3, retry: byStatus, run: fail }),
  ...names.map((name) => defineTask({ name: `inline-${name}`, inline: true, retry: odd(answers[name]!), run: fail })),
]
