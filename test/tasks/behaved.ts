// Tasks that behave, and tell what they see.

import { setTimeout as sleep } from 'node:timers/promises'
import { threadId } from 'node:worker_threads'
import { defineTask, type TaskContext } from '../../engine/base/task.ts'

export const noop = defineTask({ name: 'noop', run: () => {} })

export const noopAsync = defineTask({ name: 'noop-async', run: async () => {} })

export const echo = defineTask({ name: 'echo', run: (payload: unknown) => payload })

export const rest = defineTask({
  name: 'rest',
  run: async (ms: number) => {
    await sleep(ms)
    return ms
  },
})

export const whoami = defineTask({ name: 'whoami', run: () => threadId })

export const context = defineTask({
  name: 'context',
  run: (_payload: unknown, ctx: TaskContext) => ({ ...ctx.job, attempt: ctx.attempt, run: ctx.run }),
})

let running = 0
const overlap = async (ms: number) => {
  running++
  const most = running
  await sleep(ms)
  running--
  return most
}

/** Three of these overlap; the result is how many ran when it began. */
export const shared = defineTask({ name: 'shared', concurrency: 3, run: overlap })

/** Has the thread for itself. */
export const alone = defineTask({ name: 'alone', run: overlap })

/** Ends when its signal fires, with the code of the reason. */
export const patient = defineTask({
  name: 'patient',
  concurrency: 2,
  run: (_payload: unknown, { signal }: TaskContext) =>
    new Promise((resolve) => {
      const end = () => resolve({ code: signal.reason.code })
      if (signal.aborted) end()
      else signal.addEventListener('abort', end)
    }),
})

/** Never leaves its handler, and looks at its signal all the same. */
export const busy = defineTask({
  name: 'busy',
  run: (_payload: unknown, ctx: TaskContext) => {
    while (!ctx.signal.aborted);
    return { code: ctx.signal.reason.code }
  },
})

export const talkative = defineTask({
  name: 'talkative',
  run: (lines: number, { log, progress, heartbeat }: TaskContext) => {
    log.child({ part: 'a' }).info({ n: 1 }, 'hello')
    for (let line = 0; line < lines; line++) log.debug({ line }, 'line')
    for (let step = 0; step < 1_000; step++) {
      progress({ step })
      heartbeat()
    }
  },
})

export const longWinded = defineTask({
  name: 'long-winded',
  run: (_payload: unknown, { log, progress }: TaskContext) => {
    log.info({ text: 'x'.repeat(100_000), n: 1 }, 'long')
    log.info({ n: 1n, m: 2 }, 'not JSON')
    log.error(new RangeError('out of it', { cause: new Error('below') }))
    log.warn('%s of %d', 'one', 2, { left: true })
    progress('x'.repeat(20_000))
  },
})

let isTimerDone = false
/** Sets a timer of 0 ms; `timed` tells whether it fired. */
export const arm = defineTask({
  name: 'arm',
  run: () => {
    isTimerDone = false
    setTimeout(() => {
      isTimerDone = true
    }, 0)
  },
})
export const timed = defineTask({
  name: 'timed',
  run: () => {
    for (let n = 0; n < 20_000; n++) Math.sqrt(n)
    return isTimerDone
  },
})
