// Tasks that write down what they do in a file of the test, one line at a time, so that what a process did is known
// although it was killed. Lines: `s <job> <run> <attempt> <pid> <ms>` at the start, `e ...` at the end.

import { existsSync, openSync, writeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { systemClock } from '../../engine/base/clock.ts'
import { defineTask, type TaskContext } from '../../engine/base/task.ts'

let file = -1

function note(kind: 's' | 'e', ctx: TaskContext): void {
  if (file < 0) file = openSync(process.env.MILLRACE_TEST_HISTORY!, 'a') // appended lines of this size never mix
  writeSync(file, `${kind} ${ctx.job.id} ${ctx.run} ${ctx.attempt} ${process.pid} ${systemClock.wallMs()}\n`)
}

export interface WitnessPayload {
  /** Milliseconds of computing, and of waiting. */
  readonly spinMs?: number
  readonly restMs?: number
  /** So many of its first attempts fail. */
  readonly failures?: number
}

const quickRetry = { kind: 'fixed', delayMs: 20 } as const

async function witness(payload: WitnessPayload | null, ctx: TaskContext) {
  note('s', ctx)
  if (payload?.spinMs) {
    const untilMs = systemClock.steadyMs() + payload.spinMs
    while (systemClock.steadyMs() < untilMs);
  }
  if (payload?.restMs) await sleep(payload.restMs)
  note('e', ctx)
  if (ctx.attempt <= (payload?.failures ?? 0)) throw new Error(`attempt ${ctx.attempt} fails as asked`)
  return { run: ctx.run, pid: process.pid }
}

export const plain = defineTask({ name: 'witness', retry: quickRetry, timeoutMs: 60_000, run: witness })

/** Many at a time in one thread, for work that waits. */
export const shared = defineTask({
  name: 'witness-shared',
  retry: quickRetry,
  concurrency: 50,
  timeoutMs: 60_000,
  run: witness,
})

export const five = defineTask({
  name: 'witness-five',
  retry: quickRetry,
  concurrency: 5,
  timeoutMs: 60_000,
  run: witness,
})

/** Takes its whole process down, every time. */
export const killer = defineTask({
  name: 'killer',
  maxAttempts: 3,
  run: (_payload: unknown, ctx: TaskContext) => {
    note('s', ctx)
    process.kill(process.pid, 'SIGKILL')
    for (;;);
  },
})

/** Never ends and never looks at its signal. */
export const forever = defineTask({
  name: 'forever',
  timeoutMs: 1_000,
  graceMs: 100,
  maxAttempts: 1,
  run: (_payload: unknown, ctx: TaskContext) => {
    note('s', ctx)
    for (;;);
  },
})

/** Fails as long as the file that it is given exists. */
export const obstructed = defineTask({
  name: 'obstructed',
  run: (path: string) => {
    if (existsSync(path)) throw new Error(`${path} is in the way`)
    return 'through'
  },
})

/** Runs until the file that it is given exists. */
export const waiting = defineTask({
  name: 'waiting',
  timeoutMs: 0,
  run: async (path: string, ctx: TaskContext) => {
    note('s', ctx)
    while (!existsSync(path)) await sleep(20)
    note('e', ctx)
    return { run: ctx.run, pid: process.pid }
  },
})

/** Computes for ever while the file does not exist, deaf to everything. */
export const deaf = defineTask({
  name: 'deaf',
  timeoutMs: 0,
  run: (path: string, ctx: TaskContext) => {
    note('s', ctx)
    while (!existsSync(path));
    note('e', ctx)
    return { run: ctx.run, pid: process.pid }
  },
})

/** Writes down that it runs, a hundred times a second, into the file `path`; ends when there is a file `path`.end. */
export const ticking = defineTask({
  name: 'ticking',
  timeoutMs: 0,
  run: (path: string) => {
    const ticks = openSync(path, 'a')
    for (let nextMs = 0; !existsSync(`${path}.end`); ) {
      if (systemClock.steadyMs() < nextMs) continue
      writeSync(ticks, `${process.pid} ${systemClock.wallMs()}\n`)
      nextMs = systemClock.steadyMs() + 10
    }
    return process.pid
  },
})

/** Shares its thread: one of these ends it, the others rest. */
export const mixed = defineTask({
  name: 'mixed',
  concurrency: 20,
  maxAttempts: 1,
  timeoutMs: 60_000,
  run: async (payload: 'exit' | 'spin' | number, ctx: TaskContext) => {
    note('s', ctx)
    if (payload === 'exit') process.exit(1)
    if (payload === 'spin') for (;;);
    await sleep(payload as number)
    note('e', ctx)
    return { run: ctx.run, pid: process.pid }
  },
})
