// Tasks that see each other: how many of them run at a time in a thread, and tasks that stay until a file appears.

import { existsSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { defineTask, type TaskContext } from '../../engine/base/task.ts'

const LOOK_EVERY_MS = 5
const STAY_MS = 20 // time for one too many to come in

/** A room whose door stays closed until `seats` of them have been in it at once; the result is how many were in. */
function room(seats: number) {
  let inside = 0
  let open!: () => void
  const opened = new Promise<void>((resolve) => {
    open = resolve
  })
  return async () => {
    const found = ++inside
    if (found >= seats) open()
    await opened
    await sleep(STAY_MS)
    inside--
    return found
  }
}

export const five = defineTask({ name: 'five', concurrency: 5, timeoutMs: 30_000, run: room(5) })

export const ten = defineTask({ name: 'ten', concurrency: 10, timeoutMs: 30_000, run: room(10) })

/** Stays until the file is there; the result says which run it was, and in which process. */
export const stay = defineTask({
  name: 'stay',
  concurrency: 20,
  timeoutMs: 60_000,
  run: async (path: string, ctx: TaskContext) => {
    while (!existsSync(path) && !ctx.signal.aborted) await sleep(LOOK_EVERY_MS)
    return { run: ctx.run, pid: process.pid }
  },
})

const nap = (ms: number, { signal }: TaskContext) =>
  sleep(ms, undefined, { signal }).catch(() => {
    throw signal.reason
  })

/** Sleeps until its signal wakes it; its thread would be ended too late for any test. */
export const napping = defineTask({ name: 'nap', graceMs: 600_000, run: nap })

export const shortNap = defineTask({ name: 'short nap', timeoutMs: 100, graceMs: 600_000, run: nap })

/** Sleeps whatever its signal says. */
export const dozing = defineTask({ name: 'doze', graceMs: 100, run: (ms: number) => sleep(ms) })
