// Tasks for the tests of the public API: they tell what they see and end as their payload asks.

import { setTimeout as sleep } from 'node:timers/promises'
import { threadId } from 'node:worker_threads'
import { defineTask, type TaskContext } from '../../engine/base/task.ts'

const AT_ONCE = { kind: 'fixed', delayMs: 0 } as const

export const echo = defineTask({ name: 'echo', run: (payload: unknown) => payload })

export const typeOf = defineTask({ name: 'type-of', run: (payload: unknown) => typeof payload })

let turn = 0
/** Which turn it was in its thread. */
export const count = defineTask({ name: 'count', run: () => ++turn })

/** When it ran, in ms of the process's one clock. */
export const span = defineTask({
  name: 'span',
  retry: AT_ONCE,
  run: async ({ ms = 2, failures = 0 }: { ms?: number; failures?: number }, ctx: TaskContext) => {
    const from = performance.timeOrigin + performance.now()
    await sleep(ms)
    if (ctx.attempt <= failures) throw new Error('as asked')
    return { from, to: performance.timeOrigin + performance.now(), turn: ++turn, threadId }
  },
})

/** Waits, two at a time, however many engines and seats there are. */
export const pair = defineTask({
  name: 'pair',
  group: 'pairs',
  groupLimit: 2,
  onRetry: 'skip',
  concurrency: 10,
  run: span.run,
})

/** Fails in its first attempts. */
export const flaky = defineTask({
  name: 'flaky',
  retry: AT_ONCE,
  run: ({ failures }: { failures: number }, { attempt, run }: TaskContext) => {
    if (attempt <= failures) throw new Error(`failure ${attempt} as asked`)
    return { attempt, run }
  },
})

/** With the default policy of retries. */
export const fail = defineTask({
  name: 'fail',
  run: () => {
    throw new Error('always')
  },
})

/** Of its own queue, with seven attempts, retried after a day. */
export const careful = defineTask({
  name: 'careful',
  queue: 'special',
  maxAttempts: 7,
  retry: { kind: 'fixed', delayMs: 86_400_000 },
  run: () => {
    throw new Error('careful')
  },
})

export const see = defineTask({
  name: 'see',
  run: (_payload: unknown, { job, attempt, run, signal }: TaskContext) => ({
    ...job,
    attempt,
    run,
    aborted: signal.aborted,
  }),
})

/** Says how far it is, then waits for its signal, and ends as a handler should: with the signal's reason. */
export const wait = defineTask({
  name: 'wait',
  timeoutMs: 0,
  concurrency: 10,
  run: (payload: unknown, ctx: TaskContext) => {
    ctx.heartbeat()
    ctx.progress({ payload: payload as null, done: 3, of: 7 })
    return new Promise((_, reject) => {
      const end = () => reject(ctx.signal.reason)
      if (ctx.signal.aborted) end()
      else ctx.signal.addEventListener('abort', end)
    })
  },
})

export const zero = defineTask({ name: 'zero', run: (where: unknown) => (where === 'key' ? { '\0': 1 } : 'a\0b') })

export const half = defineTask({ name: 'half', run: () => '\ud800' })

/** Names are only labels. */
export const odd = defineTask({ name: 'op/test:1 \u{1f680} "x"', run: () => 'odd' })

/** Logs what JSON has no form for. */
export const says = defineTask({
  name: 'says',
  run: (_payload: unknown, { log }: TaskContext) => {
    log.error(new RangeError('out of it', { cause: new TypeError('below') }))
    log.child({ part: new Map([['a', 1]]) }).info('%d of %s', 1, 'two', { left: 1n })
    log.info({ err: 'a text', n: Number.NaN })
  },
})
