// Tasks that say that they are alive.

import { setTimeout as sleep } from 'node:timers/promises'
import { defineTask, type TaskContext } from '../../engine/base/task.ts'

/** Beats `beats` times with `everyMs` between, and goes on beating from a timer that it forgets to end. */
export const beating = defineTask({
  name: 'beating',
  heartbeatMs: 100,
  timeoutMs: 0,
  run: async ({ beats, everyMs }: { beats: number; everyMs: number }, ctx: TaskContext) => {
    const forgotten = setInterval(() => ctx.heartbeat(), everyMs)
    forgotten.unref()
    for (let beat = 0; beat < beats; beat++) {
      await sleep(everyMs)
      ctx.heartbeat()
    }
    return beats
  },
})
